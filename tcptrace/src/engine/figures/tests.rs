//! Tracked sockets and roll-ups in, figures out.

use bytemuck::Zeroable as _;
use tcptrace_common::{
    SocketRow, Tuple,
    state::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, LISTEN, SYN_RECV},
};

use super::*;
use crate::engine::{age::Since, observation::Observation, state_change::StateChange, walk::Walk};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000 * SECOND;

const fn policy(followed: u32) -> Policy {
    let watched = state::bit(CLOSE_WAIT) | state::bit(FIN_WAIT2);
    Policy { followed, watched, threshold_ns: 30 * SECOND, remind_ns: None, lives: false }
}

/// Sockets that went into these states at these times; all are judged now.
fn tracked(policy: Policy, sockets: &[(u64, u8, u64)]) -> Tracker {
    let mut tracker = Tracker::new(policy);
    let mut walk = Walk { started_ns: NOW, ..Walk::default() };
    for (cookie, new_state, at_ns) in sockets {
        let change = StateChange::new(*at_ns, *cookie, Tuple::zeroed(), ESTABLISHED, *new_state);
        tracker.apply_transition(&change, &mut |_| {});
        walk.sockets.push(SocketRow {
            ktime_ns: NOW,
            cookie: *cookie,
            state: *new_state,
            ..SocketRow::zeroed()
        });
    }
    for row in &walk.sockets {
        tracker.observe_socket(&Observation::of(row, Since::between(None, NOW)), &mut |_| {});
    }
    tracker.judge_due(&walk, &mut |_| {});
    tracker
}

const SOCKETS: [(u64, u8, u64); 6] = [
    (1, CLOSE_WAIT, NOW - 90 * SECOND),
    (2, CLOSE_WAIT, NOW - 40 * SECOND),
    (3, CLOSE_WAIT, NOW - SECOND),
    (4, LISTEN, NOW - 500 * SECOND),
    (5, SYN_RECV, NOW - SECOND),
    (6, ESTABLISHED, NOW - SECOND),
];

#[test]
fn sockets_are_counted_where_all_of_a_state_are_known() {
    let policy_of_all = policy(state::ALL);
    let sockets = count_sockets(&tracked(policy_of_all, &SOCKETS), &policy_of_all, NOW, |_| true);
    let by_name: Vec<_> =
        sockets.by_state.iter().map(|(state, count)| (state.kernel_name(), *count)).collect();
    assert_eq!(
        by_name,
        [
            ("ESTABLISHED", 1),
            ("SYN_SENT", 0),
            ("FIN_WAIT1", 0),
            ("FIN_WAIT2", 0),
            ("CLOSE_WAIT", 3),
            ("LAST_ACK", 0),
            ("LISTEN", 1),
            ("CLOSING", 0)
        ]
    );
    let followed = state::bit(CLOSE_WAIT) | state::bit(FIN_WAIT2);
    let sockets = count_sockets(&tracked(policy(followed), &SOCKETS), &policy(followed), NOW, |_| true);
    assert_eq!(sockets.by_state, [(State(FIN_WAIT2), 0), (State(CLOSE_WAIT), 3)]);
}

#[test]
fn stuck_are_those_that_were_reported_and_the_oldest_is_as_old_as_is_proven() {
    let policy = policy(state::ALL);
    let stuck = |is_reported: &dyn Fn(u64) -> bool| {
        count_sockets(&tracked(policy, &SOCKETS), &policy, NOW, is_reported).stuck
    };
    let in_state = |number, count, oldest_ns| StuckFigures { state: State(number), count, oldest_ns };
    let none = in_state(FIN_WAIT2, 0, None);
    assert_eq!(stuck(&|_| true), [none, in_state(CLOSE_WAIT, 2, Some(90 * SECOND))]);
    assert_eq!(stuck(&|cookie| cookie != 1), [none, in_state(CLOSE_WAIT, 1, Some(40 * SECOND))]);
    assert_eq!(stuck(&|_| false), [none, in_state(CLOSE_WAIT, 0, None)]);
}

const fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start_ticks: 7 }
}

/// As many processes as this, the first with one stuck socket, each other with one more than the one before.
fn rolled_up(processes: u32) -> Processes {
    let mut rollup = Processes::new(NOW, 30 * SECOND);
    let mut cookies = 0..;
    for pid in 1..=processes {
        for cookie in cookies.by_ref().take(pid as usize) {
            rollup.add_stuck(cookie, Since::exact(NOW - 60 * SECOND), NOW, &[id(pid)]);
        }
        rollup.mark_reported(id(pid));
    }
    rollup
}

fn condition(_: ProcessId) -> Option<ProcessStats> {
    Some(ProcessStats { fds_open: Some(7), fds_limit: Some(1024), ..ProcessStats::default() })
}

#[test]
fn the_processes_with_the_most_are_shown_and_the_others_are_counted() {
    let few = look_at_processes(&rolled_up(3), NOW, condition);
    let figures: Vec<_> = few.shown.iter().map(|process| (process.pid, process.stuck)).collect();
    assert_eq!((figures, few.not_shown), (vec![(3, 3), (2, 2), (1, 1)], 0));
    let many = look_at_processes(&rolled_up(MAX_PROCESSES as u32 + 20), NOW, condition);
    assert_eq!((many.shown.len(), many.not_shown), (MAX_PROCESSES, 20));
    assert_eq!((many.shown[0].stuck, many.shown[MAX_PROCESSES - 1].stuck), (MAX_PROCESSES + 20, 21));
}

#[test]
fn a_process_that_has_ended_or_has_none_or_is_not_wanted_is_not_shown_nor_a_pid_twice() {
    let mut rollup = rolled_up(3);
    rollup.clear_socket(0, NOW);
    let earlier = ProcessId { start_ticks: 6, ..id(3) };
    rollup.add_stuck(100, Since::exact(NOW), NOW, &[earlier]);
    rollup.mark_reported(earlier);
    rollup.add_stuck(101, Since::exact(NOW), NOW, &[id(9)]);
    let seen = look_at_processes(&rollup, NOW, |id| condition(id).filter(|_| id.pid != 2));
    let pids: Vec<_> = seen.shown.iter().map(|process| (process.pid, process.stuck)).collect();
    assert_eq!(pids, [(3, 3)]);
}

#[test]
fn looking_leaves_the_roll_up_as_it_is() {
    let (mut looked_at, mut untouched) = (rolled_up(1), rolled_up(1));
    look_at_processes(&looked_at, NOW, condition);
    let later = NOW + SECOND;
    assert_eq!((looked_at.due_roll_ups(later), untouched.due_roll_ups(later)), (vec![id(1)], vec![id(1)]));
    let roll = |rollup: &mut Processes| rollup.roll_up(id(1), condition(id(1)).as_ref(), NOW);
    assert_eq!(roll(&mut looked_at), roll(&mut untouched));
}
