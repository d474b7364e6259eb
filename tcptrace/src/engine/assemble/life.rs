//! A connection's life as a record: the kernel's counts become numbers that people mean.

use std::borrow::Cow;

use tcptrace_common::{Counters, UNCOUNTED};

use crate::{
    engine::{assemble::owner_of_actor, tracker::lives::Life},
    events::{Instant, LifeRecord, Owner, OwnerHow, SocketId, milliseconds},
};

/// Makes the record of a life that ended, or was seen to have ended, at `ended_ns`. `at` converts
/// monotonic nanoseconds.
pub(crate) fn life_record(
    socket: SocketId,
    ended_ns: u64,
    life: &Life,
    at: impl Fn(u64) -> Instant,
) -> LifeRecord {
    let Life { opened_ns, is_end_seen, role, states, reason, sk_err, counters, .. } = life;
    let (owner, owner_how) = owner_of(life);
    let origin = life.origin.filter(|_| owner_how == OwnerHow::Origin);
    let duration_ns = opened_ns.filter(|_| *is_end_seen).map(|opened| ended_ns.saturating_sub(opened));
    LifeRecord {
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

/// Returns the process that closed it, or else the one that connected or accepted it.
fn owner_of(life: &Life) -> (Option<Owner>, OwnerHow) {
    if let Some(closer) = &life.closer {
        return (Some(owner_of_actor(closer)), OwnerHow::Close);
    }
    match &life.origin {
        Some(origin) => (Some(owner_of_actor(&origin.actor)), OwnerHow::Origin),
        None => (None, OwnerHow::None),
    }
}

/// Returns the payload sent. The kernel counts bytes that it sends again once more
/// (`__tcp_transmit_skb`, `__tcp_retransmit_skb`, `net/ipv4/tcp_output.c`).
fn bytes_sent(counters: &Counters) -> Option<u64> {
    let Counters { bytes_sent, bytes_resent, .. } = *counters;
    let is_counted = bytes_sent != UNCOUNTED && bytes_resent != UNCOUNTED;
    is_counted.then(|| bytes_sent.saturating_sub(bytes_resent))
}

/// Returns the payload received. The kernel counts the peer's FIN as a byte (`tcp_rcv_nxt_update`,
/// `net/ipv4/tcp_input.c`).
fn bytes_received(counters: &Counters) -> Option<u64> {
    let Counters { bytes_received, fin_bytes, .. } = *counters;
    (bytes_received != UNCOUNTED).then(|| bytes_received.saturating_sub(fin_bytes.into()))
}

/// Returns the smoothed round-trip time. The kernel keeps it in eighths (`tcp_rtt_estimator`,
/// `net/ipv4/tcp_input.c`).
const fn rtt_us(counters: Counters) -> Option<u32> {
    match counters.round_trip {
        0 | u32::MAX => None,
        eighths => Some(eighths >> 3),
    }
}

/// Returns the name of an errno that a TCP socket can end with, or the number of another one.
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
