//! What the tracker reports.

use tcptrace_common::Tuple;

use crate::{
    engine::{
        state_change::{Actor, Origin, StateChange},
        tracker::{lives::Life, socket::Socket},
    },
    events::Ending,
};

/// One thing that the tracker reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A socket changed its state.
    Transition {
        /// The change. What was known completes its tuple, namespace and opener; the final stats
        /// are left out.
        change: StateChange,
        /// How long the socket was in the old state, nanoseconds; `None` unless both ends of that
        /// time were seen.
        in_old_state_ns: Option<u64>,
    },
    /// A socket has been in a watched state for longer than the threshold, and a walk has just
    /// seen it there.
    Stuck(Found),
    /// A socket that was reported stuck has left that state.
    Cleared {
        /// The socket's cookie.
        cookie: u64,
        /// The socket as it was known while it was stuck.
        socket: Socket,
        /// How it left that state.
        exit: Exit,
    },
    /// A connection has ended.
    Life {
        /// The socket's cookie.
        cookie: u64,
        /// Its two ends.
        tuple: Tuple,
        /// Its network namespace; 0 if unknown.
        netns: u32,
        /// When it ended, `CLOCK_MONOTONIC` nanoseconds; if that was lost, when it was noticed.
        at_ns: u64,
        /// What is known of it.
        life: Life,
    },
}

/// How a socket left its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The state it entered.
    pub new_state: u8,
    /// When, `CLOCK_MONOTONIC` nanoseconds; if the transition was lost, when that was noticed.
    pub at_ns: u64,
    /// The task that caused it.
    pub actor: Option<Actor>,
    /// How it left.
    pub how: Ending,
}

/// A socket as it was last observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The socket's cookie.
    pub cookie: u64,
    /// The socket; in CLOSE if it is gone.
    pub socket: Socket,
    /// The task that opened it, if that was seen.
    pub origin: Option<Origin>,
    /// When it was seen so, `CLOCK_MONOTONIC` nanoseconds.
    pub seen_ns: u64,
    /// Whether it was reported stuck in this state before.
    pub is_reminder: bool,
}
