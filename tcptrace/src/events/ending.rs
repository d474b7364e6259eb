//! How a socket left a state.

use serde::{Deserialize, Serialize};

/// How a socket left a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its process closed it, or shut down its side.
    Closed,
    /// Its process exited, and the kernel closed the socket.
    Exited,
    /// The peer reset the connection.
    Reset,
    /// The kernel gave up waiting for the peer.
    TimedOut,
    /// An administrator destroyed it (`ss --kill`).
    Destroyed,
    /// The peer acted: it sent its FIN, or acknowledged ours. No process on this host had a part in it.
    Peer,
    /// Not known.
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
