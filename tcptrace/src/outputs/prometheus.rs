//! What `--metrics` serves: the figures of one moment. They are put together when somebody asks, from what is there
//! anyway; nothing is kept for them.
//!
//! `page` writes them as Prometheus reads them, and like this file it is pure; `serve` answers over HTTP.

pub mod page;
pub mod serve;

use tcptrace_common::state;

use crate::{
    engine::{
        assemble::Views,
        processes::{Condition, ProcessId, Rollup},
        tracker::{Policy, Tracker},
    },
    events::{ProcessRecord, State, Summary},
};
pub use serve::{CannotServe, Listener};

/// Processes that are served at the most, those with the most stuck sockets: each label costs who stores the figures.
pub const PROCESSES: usize = 100;

/// Every state in which what is tracked is all there is, in the kernel's order. A closed socket is not tracked;
/// TIME_WAIT and the SYN queue are not full sockets, so that a count of them would be far from what `ss` shows.
const COUNTED: [u8; 8] = [
    state::ESTABLISHED,
    state::SYN_SENT,
    state::FIN_WAIT1,
    state::FIN_WAIT2,
    state::CLOSE_WAIT,
    state::LAST_ACK,
    state::LISTEN,
    state::CLOSING,
];

/// All figures of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What traces, and where.
    pub about: About,
    /// Which records are made; what belongs to others is not served.
    pub views: Views,
    /// How long in a watched state is stuck, nanoseconds.
    pub threshold_ns: u64,
    /// The totals of the run so far.
    pub totals: Summary,
    /// The sockets there are.
    pub sockets: Sockets,
    /// The processes that hold stuck ones.
    pub processes: Processes,
}

/// What traces, and where: the same for the whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// tcptrace's version.
    pub version: &'static str,
    /// The kernel's release (uname(2)).
    pub kernel: String,
    /// Kernel features by name, and whether they are in use.
    pub features: Vec<(&'static str, bool)>,
}

/// How many sockets there are, and how many of them are stuck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// How many are in each state that is followed.
    pub by_state: Vec<(State, usize)>,
    /// Those that were reported stuck and are not cleared, in each watched state.
    pub stuck: Vec<Stuck>,
}

/// The stuck sockets in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The state.
    pub state: State,
    /// How many there are.
    pub count: usize,
    /// Age of the oldest, nanoseconds, as far as it is proven; `None` where there is none.
    pub oldest_ns: Option<u64>,
}

/// The processes that hold stuck sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processes {
    /// Those with the most, in that order, [`PROCESSES`] at the most.
    pub shown: Vec<ProcessRecord>,
    /// How many there are beyond them.
    pub not_shown: usize,
}

impl Sockets {
    /// Counts what is tracked. `is_reported`: whether a socket, by its cookie, that was found stuck was reported.
    pub fn count(tracker: &Tracker, policy: &Policy, now_ns: u64, is_reported: impl Fn(u64) -> bool) -> Self {
        let mut counts = [0; state::MAX as usize + 1];
        let of = |mask: u32| (0..=state::MAX).filter(move |number| mask & state::bit(*number) != 0);
        let none = |number| Stuck { state: State(number), count: 0, oldest_ns: None };
        let mut stuck: Vec<_> = of(policy.watched).map(none).collect();
        for (cookie, socket) in tracker.sockets() {
            counts[usize::from(socket.state)] += 1;
            if socket.is_stuck()
                && is_reported(cookie)
                && let Some(stuck) = stuck.iter_mut().find(|stuck| stuck.state.0 == socket.state)
            {
                stuck.count += 1;
                stuck.oldest_ns = stuck.oldest_ns.max(Some(now_ns.saturating_sub(socket.since.latest_ns())));
            }
        }
        let counted = of(policy.followed).filter(|number| COUNTED.contains(number));
        let by_state = counted.map(|number| (State(number), counts[usize::from(number)])).collect();
        Self { by_state, stuck }
    }
}

impl Processes {
    /// The roll-ups as they are now. `condition` is what the system says of a process; one of which it says nothing has
    /// ended, and is left out.
    pub fn look(rollup: &Rollup, now_ns: u64, condition: impl Fn(ProcessId) -> Option<Condition>) -> Self {
        let ids = rollup.by_stuck();
        let not_shown = ids.len().saturating_sub(PROCESSES);
        let look = |id: ProcessId| {
            let rolled = rollup.look(id, &condition(id)?, now_ns)?;
            Some(ProcessRecord::new(id.pid, &rolled))
        };
        Self { shown: ids.into_iter().take(PROCESSES).filter_map(look).collect(), not_shown }
    }
}

#[cfg(test)]
mod tests;
