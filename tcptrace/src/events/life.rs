//! A connection's life as a record: what the kernel counted, as numbers that people mean.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap as _};
use tcptrace_common::{Counters, UNCOUNTED};

use crate::{
    engine::assemble::owner,
    events::{
        bounds,
        record::{Instant, Owner, OwnerHow, SocketId, milliseconds, nanoseconds, rfc3339, wall_time},
    },
};
use crate::{
    engine::tracker::lives::{Life, Role, reason::CloseReason, spent::Spent},
    events::state::State,
};

/// See the contract, `life`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LifeRecord {
    /// Which socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// When it began; null where that was not seen.
    #[serde(serialize_with = "rfc3339_or_null", deserialize_with = "wall_time_or_null")]
    pub opened: Option<Instant>,
    /// From then to its end, milliseconds; null where one of them was not seen.
    pub duration_ms: Option<f64>,
    /// Which end of the connection it was.
    pub role: Role,
    /// How long it was in each state, milliseconds; where it was not seen entering, at least.
    #[serde(serialize_with = "spent", deserialize_with = "spent_in")]
    pub states: Spent,
    /// What ended it.
    pub close_reason: CloseReason,
    /// The error that its process was, or would have been, told: `ECONNRESET`.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub error: Option<Cow<'static, str>>,
    /// Bytes of payload sent, each counted once.
    pub bytes_sent: Option<u64>,
    /// Bytes of payload received.
    pub bytes_received: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u32>,
    /// The smoothed round-trip time at the end, µs.
    pub rtt_us: Option<u32>,
    /// Whose it was.
    pub owner: Option<Owner>,
    /// How that is known.
    pub owner_how: OwnerHow,
    /// Where it brought the socket into its process: when, `CLOCK_MONOTONIC` nanoseconds. It may have ended since.
    #[serde(skip)]
    pub owned_ns: Option<u64>,
}

impl LifeRecord {
    /// Of a life that ended, or was seen to have ended, at `ended_ns`; `at` makes instants of monotonic nanoseconds.
    pub(crate) fn new(socket: SocketId, ended_ns: u64, life: &Life, at: impl Fn(u64) -> Instant) -> Self {
        let Life { opened_ns, is_end_seen, role, states, reason, sk_err, counters, .. } = life;
        let (owner, owner_how) = whose(life);
        let origin = life.origin.filter(|_| owner_how == OwnerHow::Origin);
        let duration_ns = opened_ns.filter(|_| *is_end_seen).map(|opened| ended_ns.saturating_sub(opened));
        Self {
            socket,
            opened: opened_ns.map(at),
            duration_ms: duration_ns.map(milliseconds),
            role: *role,
            states: *states,
            close_reason: *reason,
            error: (*sk_err != 0).then(|| errno_name(*sk_err)),
            bytes_sent: counters.as_ref().and_then(bytes_sent),
            bytes_received: counters.as_ref().and_then(bytes_received),
            retransmits: counters.map(|counters| counters.retransmits).filter(|count| *count != u32::MAX),
            rtt_us: counters.and_then(rtt_us),
            owner,
            owner_how,
            owned_ns: origin.map(|origin| origin.at_ns),
        }
    }
}

/// Who closed it, or else who connected or accepted it.
fn whose(life: &Life) -> (Option<Owner>, OwnerHow) {
    if let Some(closer) = &life.closer {
        return (Some(owner(closer)), OwnerHow::Close);
    }
    match &life.origin {
        Some(origin) => (Some(owner(&origin.actor)), OwnerHow::Origin),
        None => (None, OwnerHow::None),
    }
}

/// The kernel counts what it sends again once more (`__tcp_transmit_skb`, `__tcp_retransmit_skb`, `net/ipv4/tcp_output.c`).
fn bytes_sent(counters: &Counters) -> Option<u64> {
    let Counters { bytes_sent, bytes_resent, .. } = *counters;
    let is_counted = bytes_sent != UNCOUNTED && bytes_resent != UNCOUNTED;
    is_counted.then(|| bytes_sent.saturating_sub(bytes_resent))
}

/// The kernel counts the peer's FIN for a byte (`tcp_rcv_nxt_update`, `net/ipv4/tcp_input.c`).
fn bytes_received(counters: &Counters) -> Option<u64> {
    let Counters { bytes_received, fin_bytes, .. } = *counters;
    (bytes_received != UNCOUNTED).then(|| bytes_received.saturating_sub(fin_bytes.into()))
}

/// The kernel keeps it in eighths (`tcp_rtt_estimator`, `net/ipv4/tcp_input.c`).
const fn rtt_us(counters: Counters) -> Option<u32> {
    match counters.round_trip {
        0 | u32::MAX => None,
        eighths => Some(eighths >> 3),
    }
}

/// The name of an errno that a TCP socket can end with; its number where that is another one.
fn errno_name(errno: i32) -> Cow<'static, str> {
    use rustix::io::Errno;
    const NAMES: [(Errno, &str); 15] = [
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::PIPE, "EPIPE"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::NETDOWN, "ENETDOWN"),
        (Errno::HOSTDOWN, "EHOSTDOWN"),
        (Errno::NONET, "ENONET"),
        (Errno::NOPROTOOPT, "ENOPROTOOPT"),
        (Errno::PROTO, "EPROTO"),
        (Errno::ACCESS, "EACCES"),
        (Errno::MSGSIZE, "EMSGSIZE"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    ];
    let name = NAMES.iter().find(|(known, _)| known.raw_os_error() == errno);
    name.map_or_else(|| format!("errno {errno}").into(), |(_, name)| Cow::Borrowed(*name))
}

fn rfc3339_or_null<S: Serializer>(at: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn wall_time_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Instant>, D::Error> {
    #[derive(Deserialize)]
    struct Wall(#[serde(deserialize_with = "wall_time")] Instant);
    Ok(Option::<Wall>::deserialize(deserializer)?.map(|Wall(at)| at))
}

fn spent_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spent, D::Error> {
    struct InOrder;
    impl<'de> serde::de::Visitor<'de> for InOrder {
        type Value = Spent;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("states with milliseconds")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut spent = Spent::default();
            while let Some((State(state), ms)) = map.next_entry()? {
                if !spent.push(state, nanoseconds(ms)) {
                    return Err(A::Error::custom("more states than a life has"));
                }
            }
            Ok(spent)
        }
    }
    deserializer.deserialize_map(InOrder)
}

fn spent<S: Serializer>(spent: &Spent, serializer: S) -> Result<S::Ok, S::Error> {
    let states = spent.iter();
    let mut map = serializer.serialize_map(Some(states.len()))?;
    for (state, ns) in states {
        map.serialize_entry(State(state).kernel_name(), &milliseconds(ns))?;
    }
    map.end()
}
