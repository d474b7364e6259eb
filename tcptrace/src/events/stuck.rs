//! The records `stuck` and `found`: a socket in a state, and what a walk saw of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::events::{
    Cause, Fields, FromFields, Instant, OriginRecord, Owner, OwnerHow, SocketId, State, bounds,
    fields::record,
    instant::{rfc3339, wall_time},
};

record! {
    /// A socket has been in a watched state for as long as the threshold, and a look at the
    /// kernel's tables has just confirmed it.
    pub struct Stuck {
        ..socket: SocketId,
        /// The state it is in.
        pub state: State,
        /// The threshold of `--stuck`, milliseconds. `found` records have none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub threshold_ms: Option<f64>,
        /// Time in the state, milliseconds: at least this.
        pub age_ms: f64,
        /// Time in the state, milliseconds: at most this; null if nothing proves a bound. The same
        /// as `age_ms` if `exact`.
        pub age_max_ms: Option<f64>,
        /// Whether it was seen entering the state. If not, the ages come from the socket's own
        /// timestamps (`tcp_sock.rcv_tstamp`, `icsk_ack.lrcvtime`).
        pub exact: bool,
        /// When it entered the state; if not `exact`, the latest time at which it can have
        /// entered.
        #[serde(serialize_with = "rfc3339", deserialize_with = "wall_time")]
        pub since: Instant,
        /// Whether a `stuck` record of the same socket in the same state was reported before
        /// (`--remind`).
        #[serde(skip)]
        pub is_reminder: bool,
        ..details: SocketDetails,
    }
}

impl FromFields for Box<Stuck> {
    fn from_fields(fields: &Fields<'_>) -> serde_json::Result<Self> {
        Stuck::from_fields(fields).map(Self::new)
    }
}

/// What a walk saw of a socket: its queues, its owners, where it came from, and its other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SocketDetails {
    /// Bytes that the process has not read; the peer's FIN not counted.
    pub recv_queue: u32,
    /// Bytes unsent or not acknowledged.
    pub send_queue: u32,
    /// Why the socket stays in its state.
    pub cause: Cause,
    /// The processes and descriptors that hold the socket, or its listener, in order of pid and
    /// descriptor; empty if none does. 16 at most: one descriptor of each process first, those
    /// with the lowest pids, then further descriptors. Filters look at every process, listed or
    /// not, and change nothing in a record.
    #[cfg_attr(test, schemars(length(max = bounds::LISTED)))]
    pub owners: Vec<Owner>,
    /// How many (process, descriptor) there are, listed or not.
    #[serde(default)]
    pub owners_total: usize,
    /// One of each process for which `owners` has no room. Filters look at all processes.
    #[serde(skip)]
    pub unlisted: Vec<Owner>,
    /// How `owners` are known.
    pub owner_how: OwnerHow,
    /// The thread that brought the socket into its process, kept with the socket in the kernel;
    /// null if the socket is older than tcptrace, or that was not seen.
    pub origin: Option<OriginRecord>,
    /// The listener of a socket that nobody has accepted; null otherwise.
    pub listener: Option<Listener>,
    /// The other end, if it is on this host, in any namespace; null otherwise, or if none or
    /// several sockets fit.
    pub peer: Option<Peer>,
}

/// The listener in whose accept queue a socket waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// The cookie of that socket.
    pub cookie: u64,
    /// The address it listens at.
    pub local_addr: IpAddr,
    /// The port it listens at.
    pub local_port: u16,
    /// Connections in its accept queue (`ss`: Recv-Q).
    pub backlog: u32,
    /// How many connections the queue takes (`ss`: Send-Q).
    pub backlog_limit: u32,
}

/// The other end of a connection, on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Peer {
    /// The cookie of that socket.
    pub cookie: u64,
    /// Inode number of its network namespace; null if it is not known.
    pub netns: Option<u32>,
    /// The state it is in.
    pub state: State,
    /// The processes and descriptors that hold it, or its listener: 16 at most.
    #[cfg_attr(test, schemars(length(max = bounds::LISTED)))]
    pub owners: Vec<Owner>,
    /// How many (process, descriptor) there are, listed or not.
    #[serde(default)]
    pub owners_total: usize,
    /// How `owners` are known: `fd`, `listener` or `none`.
    #[serde(default = "nobody")]
    pub owner_how: OwnerHow,
    /// Whether its process has closed it, so that only the kernel still has it. If false and there
    /// is no owner, the socket is on its way from one process to another (`SCM_RIGHTS`), or a
    /// process that may not be seen holds it.
    #[serde(default)]
    pub gone: bool,
}

const fn nobody() -> OwnerHow {
    OwnerHow::None
}

impl SocketDetails {
    /// Iterates over the processes that the socket is charged to, listed or not, each at least
    /// once.
    pub fn processes(&self) -> impl Iterator<Item = &Owner> {
        self.owners.iter().chain(&self.unlisted)
    }

    /// Iterates over the same processes, to change them.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Owner> {
        self.owners.iter_mut().chain(&mut self.unlisted)
    }

    /// Brings a record of an earlier version within the limits: it may list more owners, and lack
    /// their number.
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
