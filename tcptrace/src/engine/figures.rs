//! Counts the figures of one moment. They are counted when a reader asks for them; none are kept.

use tcptrace_common::state;

use crate::{
    engine::{
        assemble::process::{add_owner, process_record},
        processes::{ProcessId, ProcessStats, Processes},
        tracker::{Policy, Tracker},
    },
    events::{ProcessFigures, SocketFigures, State, StuckFigures},
};

/// The most processes that have figures of their own: those with the most stuck sockets. Each label
/// costs storage wherever the figures are kept.
pub const MAX_PROCESSES: usize = 100;

/// The states that are counted, in the kernel's order: those whose sockets are all tracked. A
/// closed socket is not tracked. Timewait sockets and the SYN queue are not full sockets, so their
/// counts would differ from what `ss` shows.
const COUNTED_STATES: [u8; 8] = [
    state::ESTABLISHED,
    state::SYN_SENT,
    state::FIN_WAIT1,
    state::FIN_WAIT2,
    state::CLOSE_WAIT,
    state::LAST_ACK,
    state::LISTEN,
    state::CLOSING,
];

/// Counts the tracked sockets by state. `is_reported` tells whether a stuck socket, given by its
/// cookie, was reported.
pub fn count_sockets(
    tracker: &Tracker,
    policy: &Policy,
    now_ns: u64,
    is_reported: impl Fn(u64) -> bool,
) -> SocketFigures {
    let mut counts = [0; state::MAX as usize + 1];
    let states_in = |mask: u32| (0..=state::MAX).filter(move |number| mask & state::bit(*number) != 0);
    let none_stuck = |number| StuckFigures { state: State(number), count: 0, oldest_ns: None };
    let mut stuck: Vec<_> = states_in(policy.watched).map(none_stuck).collect();
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
    let counted = states_in(policy.followed).filter(|number| COUNTED_STATES.contains(number));
    let by_state = counted.map(|number| (State(number), counts[usize::from(number)])).collect();
    SocketFigures { by_state, stuck }
}

/// Rolls up the processes that hold the most stuck sockets, without changing any roll-up.
/// `condition` returns what the system says of a process, or `None` if it has ended: such a process
/// is left out.
pub fn look_at_processes(
    rollup: &Processes,
    now_ns: u64,
    condition: impl Fn(ProcessId) -> Option<ProcessStats>,
) -> ProcessFigures {
    let ids = rollup.by_stuck();
    let not_shown = ids.len().saturating_sub(MAX_PROCESSES);
    let look = |id: ProcessId| {
        let rolled = rollup.preview_roll_up(id, &condition(id)?, now_ns)?;
        let mut record = process_record(id.pid, &rolled);
        rollup.owner_of(id).into_iter().for_each(|owner| add_owner(&mut record, owner));
        Some(record)
    };
    ProcessFigures { shown: ids.into_iter().take(MAX_PROCESSES).filter_map(look).collect(), not_shown }
}

#[cfg(test)]
mod tests;
