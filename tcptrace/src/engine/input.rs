//! What the sources feed the engine with.

use tcptrace_common::SocketRow;

use crate::{
    engine::{
        processes::{ProcessId, ProcessStats},
        state_change::StateChange,
        walk::Walk,
    },
    events::{Event, Instant, Start},
};

/// One thing that happened, or was seen. All times are `CLOCK_MONOTONIC`, nanoseconds.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an input lives on the stack, for one call")]
pub enum Input<'a> {
    /// A run began; `at_ns` is when its first walk did.
    Started {
        /// What traces, and where.
        start: Box<Start>,
        /// When its first walk began.
        at_ns: u64,
    },
    /// A socket changed its state.
    Transition(&'a StateChange),
    /// A walk is about to be applied: the sockets that it saw follow, one by one, and between them
    /// the transitions that happened meanwhile, in the order of their times.
    WalkBegan(&'a Walk, Purpose),
    /// A walk saw this socket.
    Socket(&'a SocketRow),
    /// All that the walk saw has been applied: sockets are judged by it.
    WalkEnded(&'a Walk, Purpose),
    /// Transitions never reached the engine.
    Loss(Loss),
    /// What a process whose descriptors are due to be counted is doing; `None` if it has ended.
    ProcessStats {
        /// The process that was looked at.
        id: ProcessId,
        /// What it is doing.
        stats: Option<&'a ProcessStats>,
        /// When this was read.
        at_ns: u64,
    },
    /// Time has passed: roll-ups may be due.
    Time(u64),
    /// A line of a recording, in the kernel's place.
    Recorded {
        /// When it happened.
        at: Instant,
        /// What happened; `None` if that concerns nobody but it says how far the stream has come.
        event: Option<Event>,
    },
    /// The run ended. `began_ns` is when it had begun.
    Ended {
        /// When it had begun.
        began_ns: u64,
        /// When it ended.
        at_ns: u64,
    },
}

/// Why sockets were walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Tracing began: what is open already has to be known.
    Start,
    /// A socket was due to be judged.
    Judge,
    /// Transitions were lost, or the last look at all sockets left some out.
    Resync,
    /// `--once`: this walk is all there is, and proves what it can.
    Once,
}

/// Transitions that never reached the engine, since this was last counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// The ring buffer had no room for these.
    pub ring_full: u64,
    /// The kernel did not run the program for these.
    pub skipped: u64,
    /// The kernel did not run the program for so many more, which may or may not have mattered.
    pub suspected: u64,
    /// When this was counted, `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
}
