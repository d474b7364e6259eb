//! The figures of one moment: what a scrape of the metrics or a screen shows beside the records.

use crate::events::{ProcessRecord, State, Summary, Views};

/// All figures of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The tracer, and the kernel it runs on.
    pub tracer: TracerInfo,
    /// The views of the run. Figures of other views are not shown.
    pub views: Views,
    /// How long a socket has to be in a watched state to be stuck, nanoseconds.
    pub threshold_ns: u64,
    /// The totals of the run so far.
    pub totals: Summary,
    /// The sockets that are open.
    pub sockets: SocketFigures,
    /// The processes that hold stuck sockets.
    pub processes: ProcessFigures,
}

/// The tracer, and the kernel it runs on. Both stay the same for the whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracerInfo {
    /// The version of tcptrace.
    pub version: &'static str,
    /// The kernel's release (uname(2)).
    pub kernel: String,
    /// The names of kernel features, each with whether it is in use.
    pub features: Vec<(&'static str, bool)>,
}

/// How many sockets are open, and how many of them are stuck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFigures {
    /// How many are in each state that is followed.
    pub by_state: Vec<(State, usize)>,
    /// How many were reported stuck and have not cleared, for each watched state.
    pub stuck: Vec<StuckFigures>,
}

/// The stuck sockets in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckFigures {
    /// The state that the sockets are in.
    pub state: State,
    /// How many sockets are stuck in it.
    pub count: usize,
    /// Proven age of the oldest of them, nanoseconds; `None` if there is none.
    pub oldest_ns: Option<u64>,
}

/// The processes that hold stuck sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// The processes with the most stuck sockets, in that order.
    pub shown: Vec<ProcessRecord>,
    /// How many more processes hold stuck sockets.
    pub not_shown: usize,
}
