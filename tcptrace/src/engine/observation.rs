//! One look at one socket: the counterpart of a state change, for sockets that were seen in a state
//! and not entering it.

use tcptrace_common::{SocketRow, Tuple};

use crate::engine::age::Since;

/// A socket as it was seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it was seen, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The inode number of its network namespace; 0 if it is not known.
    pub netns: u32,
    /// Its two ends.
    pub tuple: Tuple,
    /// The state that the socket was in.
    pub state: u8,
    /// When it can have entered that state.
    pub since: Since,
}

impl Observation {
    /// Takes from a walk's row what identifies the socket and its state.
    pub const fn of(row: &SocketRow, since: Since) -> Self {
        let SocketRow { ktime_ns: at_ns, cookie, netns, tuple, state, .. } = *row;
        Self { at_ns, cookie, netns, tuple, state, since }
    }
}
