//! One tracked socket.

use tcptrace_common::Tuple;

use crate::engine::age::Since;

/// The deadline of a socket that is not to be judged.
pub(super) const NEVER: u64 = u64::MAX;

/// What is known of one live socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its two ends, as complete as they have been seen.
    pub tuple: Tuple,
    /// Its network namespace; 0 if unknown.
    pub netns: u32,
    /// The state it is in.
    pub state: u8,
    /// Since when it is in that state.
    pub since: Since,
    /// When it was last seen, in a transition or by a walk, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) last_seen_ns: u64,
    /// When it is to be judged next, `CLOCK_MONOTONIC` nanoseconds, or [`NEVER`].
    pub(super) deadline_ns: u64,
    /// Whether it has been reported stuck in this state.
    pub(super) is_reported: bool,
}

impl Socket {
    /// Whether it has been found stuck in the state it is in.
    pub const fn is_stuck(&self) -> bool {
        self.is_reported
    }
}
