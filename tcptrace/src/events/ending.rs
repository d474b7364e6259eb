//! How a socket left a state.

use serde::{Deserialize, Serialize};

/// How a socket left a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its process closed it, or shut down its side.
    Closed,
    /// Its process ended, and the kernel closed the socket.
    Exited,
    /// The peer reset the connection.
    Reset,
    /// The kernel gave up waiting for the peer.
    TimedOut,
    /// An administrator destroyed it (`ss --kill`).
    Destroyed,
    /// The peer acted: it sent its FIN, or acknowledged ours. No process on this host had a part
    /// in it.
    Peer,
    /// Nobody saw it, or the kernel does not tell: without BTF that is so for whatever ends in
    /// CLOSE; or a timer gave up a socket that its process had closed before; or a process let go
    /// of the socket while a tcptrace held a reference to look at it.
    Unknown,
}

impl Ending {
    /// The word that records use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Exited => "exited",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Destroyed => "destroyed",
            Self::Peer => "peer",
            Self::Unknown => "unknown",
        }
    }
}
