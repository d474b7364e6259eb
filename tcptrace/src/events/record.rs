//! The records that tcptrace puts out, as data. Their JSON is their serde form.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap as _};
use tcptrace_common::{AF_INET, AF_INET6, COMM_LEN, OpenCall, Tuple, v4_mapped};

use crate::events::{bounds, life::LifeRecord, process::ProcessRecord};
use crate::{
    engine::{cause::Cause, tracker::finding::Ending},
    events::state::State,
    host::features::FeatureStatus,
};

/// Version of the records' form. Adding a field keeps it.
pub const SCHEMA_VERSION: u8 = 1;

/// An instant: when something happened in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Nanoseconds since 1970, UTC.
    pub wall_ns: i128,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
}

/// One line of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it happened.
    pub at: Instant,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// tcptrace started.
    Start(Start),
    /// A socket changed its state.
    Transition(Transition),
    /// A socket is stuck.
    Stuck(Box<Stuck>),
    /// A stuck socket has left its state.
    Cleared(Cleared),
    /// How a look at all sockets found one of which no transition had told: [`Stuck`] without a threshold.
    Found(Box<Stuck>),
    /// A connection's life is over.
    Life(LifeRecord),
    /// What stuck sockets come to in one process.
    Process(ProcessRecord),
    /// Something was lost.
    Lost(Lost),
    /// All sockets were looked at again after a loss.
    Resync(Resync),
    /// tcptrace ended.
    Summary(Summary),
}

impl Event {
    /// The record's `event`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Transition(_) => "transition",
            Self::Stuck(_) => "stuck",
            Self::Cleared(_) => "cleared",
            Self::Found(_) => "found",
            Self::Life(_) => "life",
            Self::Process(_) => "process",
            Self::Lost(_) => "lost",
            Self::Resync(_) => "resync",
            Self::Summary(_) => "summary",
        }
    }

    /// Whether it is a record of a view, which `--count` counts.
    pub const fn is_of_a_view(&self) -> bool {
        matches!(self, Self::Transition(_) | Self::Stuck(_) | Self::Cleared(_) | Self::Life(_))
    }

    /// Whether it may be held back when the reader is too slow: whatever can come again and again. The first `stuck` of
    /// a socket and its `cleared` are kept.
    pub fn may_be_held_back(&self) -> bool {
        match self {
            Self::Stuck(stuck) => stuck.is_reminder,
            Self::Transition(_)
            | Self::Life(_)
            | Self::Found(_)
            | Self::Process(_)
            | Self::Lost(_)
            | Self::Resync(_) => true,
            Self::Start(_) | Self::Cleared(_) | Self::Summary(_) => false,
        }
    }
}

/// See the contract, `start`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Start {
    /// tcptrace's version.
    pub version: &'static str,
    /// The kernel's release (uname(2)).
    #[serde(serialize_with = "bounds::text")]
    pub kernel: String,
    /// The host's name (uname(2)).
    #[serde(serialize_with = "bounds::text")]
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`: which boot `mono_ns` and the cookies belong to.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub boot_id: Option<String>,
    /// TCP sockets open when it started, in all namespaces, mini-sockets (TIME_WAIT, SYN queue) not counted.
    pub sockets: usize,
    /// Which kernel features are in use.
    #[serde(serialize_with = "sources")]
    pub sources: Vec<FeatureStatus>,
}

/// Which socket a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketId {
    /// What `ss -e` prints as `sk:`, or what stands for it.
    pub cookie: u64,
    /// Inode number of its network namespace; null where the kernel does not tell.
    pub netns: Option<u32>,
    /// `ipv4` or `ipv6`; an IPv4-mapped address is `ipv4`.
    pub family: Family,
    /// Its own end's address.
    pub local_addr: IpAddr,
    /// Its own end's port.
    pub local_port: u16,
    /// The other end's address.
    pub remote_addr: IpAddr,
    /// The other end's port; 0 of a listener.
    pub remote_port: u16,
    /// Index of the interface that link-local addresses are on, in its namespace; absent where no end has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u16>,
}

/// An address family, by what is spoken on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4, also through a dual-stack socket.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// As in the records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl SocketId {
    /// From the wire's form.
    pub fn new(cookie: u64, netns: u32, tuple: &Tuple) -> Self {
        let local = Ipv6Addr::from(tuple.local_addr);
        let remote = Ipv6Addr::from(tuple.remote_addr);
        let mapped = |address: Ipv6Addr| address.to_ipv4_mapped();
        let is_v4 = tuple.family == AF_INET || mapped(local).is_some() || mapped(remote).is_some();
        // A dual-stack socket that has one end yet has `::` for the other.
        let v4 = |address| IpAddr::V4(mapped(address).unwrap_or(Ipv4Addr::UNSPECIFIED));
        let (family, local_addr, remote_addr) = if is_v4 {
            (Family::Ipv4, v4(local), v4(remote))
        } else {
            (Family::Ipv6, IpAddr::V6(local), IpAddr::V6(remote))
        };
        let Tuple { local_port, remote_port, interface, .. } = *tuple;
        let netns = Some(netns).filter(|netns| *netns != 0);
        let needs_interface = is_link_local(local_addr) || is_link_local(remote_addr);
        let interface = Some(interface).filter(|interface| *interface != 0 && needs_interface);
        Self { cookie, netns, family, local_addr, local_port, remote_addr, remote_port, interface }
    }

    /// The wire's form.
    pub fn tuple(&self) -> Tuple {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4_mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        let Self { family, local_addr, local_port, remote_addr, remote_port, interface, .. } = *self;
        let family = if family == Family::Ipv4 { AF_INET } else { AF_INET6 };
        let (local_addr, remote_addr) = (octets(local_addr), octets(remote_addr));
        let interface = interface.unwrap_or(0);
        Tuple { local_addr, remote_addr, local_port, remote_port, family, interface }
    }
}

/// Whether an address means something on one link only (`fe80::/10`).
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A task's name as the kernel keeps it: any bytes, NUL-padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub [u8; COMM_LEN]);

impl Name {
    /// From the bytes of `/proc/PID/comm`, cut where the kernel would.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut name = [0; COMM_LEN];
        let length = bytes.len().min(COMM_LEN - 1);
        name[..length].copy_from_slice(&bytes[..length]);
        Self(name)
    }

    /// Without the padding.
    pub fn bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
        &self.0[..length]
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.bytes()) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.serialize_str(&String::from_utf8_lossy(self.bytes())),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ok(Self::from_bytes(text.as_bytes()))
    }
}

/// A process, as one that has to do with a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process (thread group).
    pub pid: u32,
    /// Its pids in the namespaces within the host's, as far as they were looked up.
    #[serde(skip)]
    pub inner_pids: Option<Arc<[u32]>>,
    /// Its descriptor.
    pub fd: Option<u32>,
    /// The process's name.
    pub comm: Option<Name>,
    /// Its executable.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub exe: Option<Arc<str>>,
    /// Its real user id.
    pub uid: Option<u32>,
    /// Its cgroup's path.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub cgroup: Option<Arc<str>>,
    /// The id of its container.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub container: Option<Arc<str>>,
    /// Whether a process filter asked for this owner.
    #[serde(skip)]
    pub is_requested: bool,
}

impl Owner {
    /// A process that once had to do with a socket: by now its pid may be another's, so that nothing is looked up.
    pub const fn once(pid: u32) -> Self {
        Self {
            pid,
            inner_pids: None,
            fd: None,
            comm: None,
            exe: None,
            uid: None,
            cgroup: None,
            container: None,
            is_requested: false,
        }
    }
}

/// How an owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerHow {
    /// A process holds it open now.
    Fd,
    /// No process has accepted it yet: these hold the listener.
    Listener,
    /// Who connected or accepted it; nobody holds it now.
    Origin,
    /// Who closed it.
    Close,
    /// Not known.
    None,
}

impl OwnerHow {
    /// As in the records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fd => "fd",
            Self::Listener => "listener",
            Self::Origin => "origin",
            Self::Close => "close",
            Self::None => "none",
        }
    }
}

/// Where a socket came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginRecord {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: Name,
    /// What it did.
    pub how: OriginHow,
    /// When.
    #[serde(serialize_with = "rfc3339", deserialize_with = "wall_time")]
    pub time: Instant,
}

/// How a socket comes into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginHow {
    /// connect(2)
    Connect,
    /// accept(2)
    Accept,
    /// listen(2)
    Listen,
}

impl OriginHow {
    /// From the kernel's record.
    pub const fn of(call: OpenCall) -> Option<Self> {
        match call {
            OpenCall::CONNECT => Some(Self::Connect),
            OpenCall::ACCEPT => Some(Self::Accept),
            OpenCall::LISTEN => Some(Self::Listen),
            _ => None,
        }
    }
}

/// The listener in whose accept queue a socket waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its cookie.
    pub cookie: u64,
    /// The address it listens at.
    pub local_addr: IpAddr,
    /// The port.
    pub local_port: u16,
    /// Connections in its queue: `ss` calls it Recv-Q.
    pub backlog: u32,
    /// How many the queue takes before it refuses: `ss` calls it Send-Q.
    pub backlog_limit: u32,
}

/// The other end of a connection, on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its cookie.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Option<u32>,
    /// The state it is in.
    pub state: State,
    /// Who holds it, or its listener: at most [`bounds::LISTED`].
    pub owners: Vec<Owner>,
    /// How many (process, descriptor) there are.
    #[serde(default)]
    pub owners_total: usize,
    /// How they are known: they hold it, or nobody has accepted it and they hold its listener.
    #[serde(default = "nobody")]
    pub owner_how: OwnerHow,
    /// Whether its process has closed it, so that only the kernel has it. If not, and it has no owner, it is on its way from
    /// one process to another, or a process that may not be seen holds it.
    #[serde(default)]
    pub gone: bool,
}

const fn nobody() -> OwnerHow {
    OwnerHow::None
}

/// See the contract, `transition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Which socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// The state it left.
    pub old_state: State,
    /// The state it entered.
    pub new_state: State,
    /// Whether the socket is gone, and what is in the new state is the kernel's stand-in for it, which nobody holds.
    pub stand_in: bool,
    /// How long it was in the old one, milliseconds, where both ends of that time were seen.
    pub in_old_state_ms: Option<f64>,
    /// Who has to do with it, as far as the transition tells.
    pub owner: Option<Owner>,
    /// How that is known.
    pub owner_how: OwnerHow,
    /// In which way it left the old state; null of one that is opening.
    pub how: Option<Ending>,
}

/// See the contract, `stuck`; and what docs/events.md says of `found`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stuck {
    /// Which socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// The state it is stuck in.
    pub state: State,
    /// The threshold, milliseconds; of what is only found there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_ms: Option<f64>,
    /// Time in that state, milliseconds: at least this.
    pub age_ms: f64,
    /// At most this; null where nothing proves a bound.
    pub age_max_ms: Option<f64>,
    /// Whether it was seen entering.
    pub exact: bool,
    /// When it entered; where that was not seen, the latest time at which it can have been.
    #[serde(serialize_with = "rfc3339", deserialize_with = "wall_time")]
    pub since: Instant,
    /// Bytes the process has not read.
    pub recv_queue: u32,
    /// Bytes unsent or not acknowledged.
    pub send_queue: u32,
    /// Why it is still there.
    pub cause: Cause,
    /// The (process, descriptor) that hold it, or its listener: at most [`bounds::LISTED`].
    pub owners: Vec<Owner>,
    /// How many there are.
    #[serde(default)]
    pub owners_total: usize,
    /// One of each process that `owners` has no room for. A record does not list them: filters look at all processes.
    #[serde(skip)]
    pub unlisted: Vec<Owner>,
    /// How they are known.
    pub owner_how: OwnerHow,
    /// Where it came from.
    pub origin: Option<OriginRecord>,
    /// Of a socket not accepted yet, its listener.
    pub listener: Option<Listener>,
    /// The other end, where it is on this host.
    pub peer: Option<Peer>,
    /// Whether a `stuck` record of the same socket in the same state was reported before (`--remind`).
    #[serde(skip)]
    pub is_reminder: bool,
}

impl Stuck {
    /// Every process that it is charged to, listed or not, at least once.
    pub fn processes(&self) -> impl Iterator<Item = &Owner> {
        self.owners.iter().chain(&self.unlisted)
    }

    /// Brings a record of another version within the limits: it may list more owners, and not say how many there are.
    pub fn limit(&mut self) {
        let peer = self.peer.as_mut().map(|peer| (&mut peer.owners, &mut peer.owners_total));
        for (owners, total) in std::iter::once((&mut self.owners, &mut self.owners_total)).chain(peer) {
            *total = (*total).max(owners.len());
            if owners.len() > bounds::LISTED {
                let mut is_listed = bounds::listed(owners, |owner| owner.pid).into_iter();
                owners.retain(|_| is_listed.next() == Some(true));
            }
        }
    }
}

/// See the contract, `cleared`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cleared {
    /// Which socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// The state it was stuck in.
    pub state: State,
    /// The state it left for.
    pub new_state: State,
    /// How long it was in that state, milliseconds (at least, where it was not seen entering).
    pub in_state_ms: f64,
    /// Who caused it.
    pub by: Option<Owner>,
    /// In which way.
    pub how: Ending,
}

/// See the contract, `lost`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many since the last such record.
    pub lost: u64,
    /// How many in this run, for this reason.
    pub lost_total: u64,
    /// Why.
    pub reason: LostReason,
}

/// Why something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostReason {
    /// Transitions for which the ring buffer had no room.
    RingFull,
    /// Transitions for which the kernel did not run the program.
    Skipped,
    /// Records not written because nobody read stdout.
    ReaderSlow,
}

/// See the contract, `resync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// How many sockets were looked at.
    pub sockets: usize,
    /// How many were not known, or not in the state they were thought to be in.
    pub repaired: usize,
    /// How many records of what was found came before this one; null where there is none of such records.
    pub found: Option<u64>,
}

/// See the contract, `summary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Transitions that reached the tracker.
    pub transitions: u64,
    /// Transitions that did not.
    pub lost: u64,
    /// Of these, transitions for which the kernel did not run the program; for all others the ring had no room.
    #[serde(skip)]
    pub skipped: u64,
    /// Records not written, the reader being too slow.
    pub dropped: u64,
    /// Records of the views that the filters kept back.
    pub filtered: u64,
    /// `stuck` records made.
    pub stuck: u64,
    /// `cleared` records made.
    pub cleared: u64,
    /// `life` records made.
    pub lives: u64,
    /// `resync` records made.
    pub resyncs: u64,
    /// How long it ran, milliseconds.
    pub duration_ms: f64,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            v: u8,
            event: &'static str,
            #[serde(serialize_with = "rfc3339")]
            time: Instant,
            mono_ns: u64,
            #[serde(flatten)]
            body: &'a Event,
        }
        let Self { at, event } = self;
        Line { v: SCHEMA_VERSION, event: event.name(), time: *at, mono_ns: at.mono_ns, body: event }
            .serialize(serializer)
    }
}

pub(crate) fn rfc3339<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// An instant of which the wall clock's time is told and nothing else.
pub(crate) fn wall_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    let time: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
    Ok(Instant { wall_ns: time.as_nanosecond(), mono_ns: 0 })
}

fn sources<S: Serializer>(sources: &[FeatureStatus], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Use<'a> {
        in_use: bool,
        why_not: Option<Cow<'a, str>>,
    }
    let mut map = serializer.serialize_map(Some(sources.len()))?;
    for source in sources {
        let entry = Use {
            in_use: source.in_use(),
            why_not: source.unavailable_reason.as_deref().map(bounds::shortened),
        };
        map.serialize_entry(source.feature.name(), &entry)?;
    }
    map.end()
}

/// RFC 3339, UTC, nanoseconds.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", self.timestamp())
    }
}

impl Instant {
    /// For a calendar. A clock set beyond the year 9999 reads as 1970.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(self.wall_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// Milliseconds with three decimals, from nanoseconds.
pub fn milliseconds(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

/// Nanoseconds, from such milliseconds: to the microsecond, which is what was written.
pub fn nanoseconds(ms: f64) -> u64 {
    // The cast stays within the type.
    ((ms * 1_000.0).round() as u64).saturating_mul(1_000)
}
