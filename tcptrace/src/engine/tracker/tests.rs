//! The tracker driven by records, rows and time alone.

use bytemuck::Zeroable as _;
use tcptrace_common::{
    AF_INET, SocketRow,
    state::{
        CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT, TIME_WAIT,
    },
};

use super::{finding::Found, *};
use crate::engine::state_change::Actor;

const NETNS: u32 = 4_026_531_840;
const THRESHOLD: u64 = 30_000;

fn tracker(remind_ns: Option<u64>) -> Tracker {
    Tracker::new(Policy {
        followed: state::ALL,
        watched: state::bit(CLOSE_WAIT),
        threshold_ns: THRESHOLD,
        remind_ns,
        lives: false,
    })
}

fn tuple() -> Tuple {
    Tuple { local_port: 9666, remote_port: 40112, family: AF_INET, ..Tuple::zeroed() }
}

fn transition(cookie: u64, at_ns: u64, old_state: u8, new_state: u8) -> StateChange {
    StateChange { netns: NETNS, ..StateChange::new(at_ns, cookie, tuple(), old_state, new_state) }
}

fn actor(pid: u32, tid: u32) -> Actor {
    Actor { pid, tid, uid: 0, comm: None, thread_comm: [0; 16] }
}

fn row(cookie: u64, ktime_ns: u64, state: u8) -> SocketRow {
    SocketRow { ktime_ns, cookie, netns: NETNS, state, tuple: tuple(), ..SocketRow::zeroed() }
}

fn walk(started_ns: u64, sockets: &[SocketRow]) -> Walk {
    Walk {
        started_ns,
        namespaces: [NETNS].into_iter().collect(),
        found_all: true,
        sockets: sockets.to_vec(),
        ..Walk::default()
    }
}

/// A tracker and what it found, transitions left out.
struct Driven {
    tracker: Tracker,
    found: Vec<Finding>,
}

impl Driven {
    fn new(remind_ns: Option<u64>) -> Self {
        Self { tracker: tracker(remind_ns), found: Vec::new() }
    }

    fn transition(&mut self, change: StateChange) {
        let Self { tracker, found } = self;
        tracker.apply_transition(&change, &mut |finding| {
            if !matches!(finding, Finding::Transition { .. }) {
                found.push(finding);
            }
        });
    }

    /// Takes in a walk of rows whose age is known only from having been seen, then judges.
    fn walk(&mut self, walk: &Walk) -> usize {
        let Self { tracker, found } = self;
        let mut repaired = 0;
        for row in &walk.sockets {
            let since = Since::between(None, row.ktime_ns);
            repaired += usize::from(
                tracker.observe_socket(&Observation::of(row, since), &mut |finding| found.push(finding)),
            );
        }
        tracker.judge_due(walk, &mut |finding| found.push(finding));
        repaired
    }

    fn stuck(&self) -> Vec<u64> {
        let stuck = |finding: &Finding| match finding {
            Finding::Stuck(Found { cookie, .. }) => Some(*cookie),
            _ => None,
        };
        self.found.iter().filter_map(stuck).collect()
    }

    fn cleared(&self) -> Vec<(u64, u8, u64)> {
        let cleared = |finding: &Finding| match finding {
            Finding::Cleared { cookie, socket, exit: Exit { new_state, at_ns, .. } } => {
                Some((*cookie, *new_state, at_ns - socket.since.latest_ns()))
            }
            _ => None,
        };
        self.found.iter().filter_map(cleared).collect()
    }
}

#[test]
fn stuck_is_found_once_when_the_threshold_has_passed_and_a_walk_confirms() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    assert_eq!(driven.tracker.next_deadline_ns(), Some(31_000));

    driven.walk(&walk(30_999, &[row(1, 31_005, CLOSE_WAIT)]));
    assert_eq!(driven.stuck(), [0; 0], "the walk began before the threshold had passed");

    driven.walk(&walk(31_000, &[row(1, 31_010, CLOSE_WAIT)]));
    driven.walk(&walk(90_000, &[row(1, 90_001, CLOSE_WAIT)]));
    assert_eq!(driven.stuck(), [1]);
    let Finding::Stuck(Found { socket, seen_ns, .. }) = driven.found[0] else { panic!("{:?}", driven.found) };
    assert_eq!((socket.since.exact_ns(), seen_ns), (Some(1_000), 31_010));
    assert_eq!(driven.tracker.next_deadline_ns(), None);
}

#[test]
fn a_socket_that_clears_before_its_threshold_is_not_found() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.transition(transition(1, 30_999, CLOSE_WAIT, LAST_ACK));
    assert_eq!(driven.tracker.next_deadline_ns(), None);
    driven.walk(&walk(40_000, &[row(1, 40_001, LAST_ACK)]));
    assert!(driven.found.is_empty(), "{:?}", driven.found);
}

#[test]
fn a_socket_that_clears_while_the_walk_runs_is_not_found() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    let confirming = walk(31_000, &[row(1, 31_010, CLOSE_WAIT)]);
    let Driven { tracker, found } = &mut driven;
    let since = Since::between(None, 31_010);
    assert!(
        !tracker.observe_socket(&Observation::of(&confirming.sockets[0], since), &mut |finding| found
            .push(finding))
    );
    driven.transition(transition(1, 31_020, CLOSE_WAIT, LAST_ACK));
    driven.walk(&confirming);
    assert!(driven.found.is_empty(), "{:?}", driven.found);
}

#[test]
fn a_socket_that_the_walk_does_not_see_is_not_found_and_forgotten() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(31_000, &[]));
    assert!(driven.found.is_empty(), "{:?}", driven.found);
    assert!(driven.tracker.is_empty());
    assert_eq!(driven.tracker.next_deadline_ns(), None);
}

#[test]
fn where_nobody_acts_the_kernel_tells_who_accepted_it() {
    let mut tracker = Driven::new(None).tracker;
    let opener = Some(actor(4242, 4310));
    let change = StateChange { opener, ..transition(1, 1_000, ESTABLISHED, CLOSE_WAIT) };
    let mut told = Vec::new();
    tracker.apply_transition(&change, &mut |finding| told.push(finding));
    let [Finding::Transition { change, .. }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((change.actor, change.opener), (None, opener));
}

#[test]
fn clearing_tells_where_to_how_long_it_took_and_who() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(31_000, &[row(1, 31_010, CLOSE_WAIT)]));
    driven.transition(StateChange {
        actor: Some(actor(4242, 4310)),
        ending: Ending::Closed,
        ..transition(1, 61_000, CLOSE_WAIT, LAST_ACK)
    });
    assert_eq!(driven.cleared(), [(1, LAST_ACK, 60_000)]);
    let Some(Finding::Cleared { exit: Exit { actor: Some(closer), how: Ending::Closed, .. }, .. }) =
        driven.found.last()
    else {
        panic!("{:?}", driven.found)
    };
    assert_eq!((closer.pid, closer.tid), (4242, 4310));
    driven.transition(transition(1, 62_000, LAST_ACK, CLOSE));
    assert_eq!(driven.cleared().len(), 1, "cleared once");
    assert!(driven.tracker.is_empty());
}

#[test]
fn reminders_come_at_their_distance_and_never_in_a_heap() {
    let mut driven = Driven::new(Some(10_000));
    driven.walk(&walk(1_000, &[row(1, 1_001, CLOSE_WAIT)]));
    assert_eq!(driven.tracker.next_deadline_ns(), Some(31_001));
    // Everything was late: the threshold had passed long before the next walk.
    driven.walk(&walk(500_000, &[row(1, 500_005, CLOSE_WAIT)]));
    assert_eq!(driven.tracker.next_deadline_ns(), Some(510_005));
    driven.walk(&walk(505_000, &[row(1, 505_001, CLOSE_WAIT)]));
    assert_eq!(driven.stuck(), [1]);
    driven.walk(&walk(510_005, &[row(1, 510_006, CLOSE_WAIT)]));
    assert_eq!(driven.stuck(), [1, 1]);
}

#[test]
fn the_time_in_the_old_state_is_told_only_where_both_ends_were_seen() {
    let mut driven = tracker(None);
    let mut told = Vec::new();
    let mut take = |tracker: &mut Tracker, change| {
        tracker.apply_transition(&change, &mut |finding| {
            if let Finding::Transition { in_old_state_ns, .. } = finding {
                told.push(in_old_state_ns);
            }
        });
    };
    take(&mut driven, transition(1, 1_000, SYN_SENT, ESTABLISHED));
    take(&mut driven, transition(1, 5_000, ESTABLISHED, CLOSE_WAIT));
    // A transition is missing here.
    take(&mut driven, transition(1, 9_000, LAST_ACK, CLOSE));
    assert_eq!(told, [None, Some(4_000), None]);
}

#[test]
fn an_identity_used_once_is_never_taken_for_another() {
    let mut driven = Driven::new(None);
    for cookie in 1..=100 {
        let born = cookie * 1_000;
        driven.transition(transition(cookie, born, LISTEN, SYN_RECV));
        driven.transition(transition(cookie, born + 1, SYN_RECV, ESTABLISHED));
        driven.transition(transition(cookie, born + 2, ESTABLISHED, CLOSE_WAIT));
        driven.transition(transition(cookie, born + 3, CLOSE_WAIT, LAST_ACK));
        driven.transition(transition(cookie, born + 4, LAST_ACK, CLOSE));
        assert_eq!(driven.tracker.len(), 0);
    }
    assert_eq!(driven.tracker.next_deadline_ns(), None);
    assert!(driven.found.is_empty());
}

#[test]
fn the_tuple_is_completed_from_what_was_seen_before() {
    let mut driven = tracker(None);
    let unchosen = Tuple { local_port: 0, ..tuple() };
    let released = Tuple { local_port: 0, remote_port: 0, ..tuple() };
    let mut tuples = Vec::new();
    for change in [
        StateChange { tuple: unchosen, ..transition(1, 1, CLOSE, SYN_SENT) },
        transition(1, 2, SYN_SENT, ESTABLISHED),
        StateChange { tuple: released, ..transition(1, 3, ESTABLISHED, CLOSE) },
    ] {
        driven.apply_transition(&change, &mut |finding| {
            if let Finding::Transition { change, .. } = finding {
                tuples.push(change.tuple);
            }
        });
    }
    assert_eq!(tuples, [unchosen, tuple(), tuple()]);
}

#[test]
fn the_origin_stays_with_the_socket() {
    let mut driven = Driven::new(None);
    driven.transition(StateChange { actor: Some(actor(7, 7)), ..transition(1, 1_000, CLOSE, SYN_SENT) });
    driven.transition(transition(1, 2_000, SYN_SENT, ESTABLISHED));
    driven.transition(transition(1, 3_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(33_000, &[row(1, 33_001, CLOSE_WAIT)]));
    let Finding::Stuck(Found { origin, .. }) = driven.found[0] else { panic!("{:?}", driven.found) };
    assert_eq!(origin.map(|origin| (origin.actor.pid, origin.at_ns)), Some((7, 1_000)));
}

#[test]
fn sockets_open_before_the_start_are_stuck_after_our_own_watching() {
    let mut driven = Driven::new(None);
    driven.walk(&walk(5_000, &[row(1, 5_001, CLOSE_WAIT), row(2, 5_002, ESTABLISHED)]));
    assert_eq!(driven.tracker.next_deadline_ns(), Some(35_001));
    driven.walk(&walk(35_001, &[row(1, 35_002, CLOSE_WAIT)]));
    let Finding::Stuck(Found { cookie: 1, socket, .. }) = driven.found[0] else {
        panic!("{:?}", driven.found)
    };
    assert_eq!((socket.since.exact_ns(), socket.since.latest_ns()), (None, 5_001));
}

#[test]
fn a_proven_age_over_the_threshold_is_stuck_at_once() {
    let mut driven = Driven::new(None);
    let seen = row(1, 100_001, CLOSE_WAIT);
    let found = &mut driven.found;
    driven.tracker.observe_socket(
        &Observation::of(&seen, Since::between(Some(20_000), 60_000)),
        &mut |finding| {
            found.push(finding);
        },
    );
    driven.walk(&walk(100_000, &[seen]));
    let Finding::Stuck(Found { socket, .. }) = driven.found[0] else { panic!("{:?}", driven.found) };
    assert_eq!((socket.since.earliest_ns(), socket.since.latest_ns()), (Some(20_000), 60_000));
}

/// The whole life of a passive socket, with one walk at any moment of it: whatever of the
/// transitions before the walk reaches the tracker late, after the walk's row, the state and the
/// times come out right.
#[test]
fn a_walk_at_any_moment_and_transitions_in_any_lateness_agree() {
    let life = [
        transition(1, 1_000, LISTEN, SYN_RECV),
        transition(1, 2_000, SYN_RECV, ESTABLISHED),
        transition(1, 3_000, ESTABLISHED, CLOSE_WAIT),
        transition(1, 4_000, CLOSE_WAIT, LAST_ACK),
        transition(1, 5_000, LAST_ACK, CLOSE),
    ];
    for seen_after in 1..life.len() {
        let happened = &life[..seen_after];
        let last = happened.last().expect("at least one");
        let seen = row(1, last.at_ns + 500, last.new_state);
        for early in 0..=seen_after {
            let mut driven = Driven::new(None);
            happened[..early].iter().for_each(|record| driven.transition(*record));
            let repaired = driven.walk(&walk(0, &[seen]));
            assert_eq!(repaired, usize::from(early < seen_after));
            happened[early..].iter().for_each(|record| driven.transition(*record));
            let socket = driven.tracker.sockets.get(1).expect("it is open");
            assert_eq!(socket.state, last.new_state, "after {seen_after}, {early} early");
            assert_eq!(socket.since.exact_ns(), Some(last.at_ns), "after {seen_after}, {early} early");
            life[seen_after..].iter().for_each(|record| driven.transition(*record));
            assert!(driven.tracker.is_empty());
            assert!(driven.found.is_empty(), "{:?}", driven.found);
        }
    }
}

#[test]
fn a_row_older_than_what_is_known_changes_nothing() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 3_000, ESTABLISHED, CLOSE_WAIT));
    assert_eq!(driven.walk(&walk(1_000, &[row(1, 2_000, ESTABLISHED)])), 0);
    assert_eq!(driven.tracker.next_deadline_ns(), Some(33_000));
}

#[test]
fn what_was_lost_is_repaired_by_the_next_walk() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.transition(transition(2, 1_000, SYN_SENT, ESTABLISHED));
    driven.transition(transition(3, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(31_000, &[row(1, 31_001, CLOSE_WAIT), row(3, 31_002, CLOSE_WAIT)]));
    assert_eq!(driven.stuck(), [1, 3]);

    // Lost: 1 went to LAST_ACK, 2 to CLOSE_WAIT, 3 was closed for good, 4 was born.
    let truth =
        walk(50_000, &[row(1, 50_001, LAST_ACK), row(2, 50_002, CLOSE_WAIT), row(4, 50_003, FIN_WAIT2)]);
    assert_eq!(driven.walk(&truth), 3);
    let found = &mut driven.found;
    let Unseen { gone, unknown } = driven.tracker.sweep_unseen(&truth, &mut |finding| found.push(finding));
    assert_eq!(unknown, 0);
    assert_eq!(gone.iter().map(|(cookie, _)| *cookie).collect::<Vec<_>>(), [3]);
    assert_eq!(driven.cleared(), [(1, LAST_ACK, 49_001), (3, CLOSE, 49_000)]);
    assert_eq!(driven.tracker.len(), 3);
    // 2 came there after it was last heard of, and before it was seen: the bracket.
    let socket = driven.tracker.sockets.get(2).expect("it is open");
    assert_eq!((socket.since.earliest_ns(), socket.since.latest_ns()), (Some(1_000), 50_002));
}

#[test]
fn what_a_walk_brings_to_light_is_found() {
    let states = state::bit(CLOSE_WAIT);
    let mut driven = Driven::new(None);
    for cookie in 1..=3 {
        driven.transition(transition(cookie, 1_000, ESTABLISHED, CLOSE_WAIT));
    }
    driven.transition(transition(4, 1_000, SYN_SENT, ESTABLISHED));
    let before = driven.tracker.states_among(states);
    assert_eq!(before.len(), 3);
    // 5 is heard of; 1 stays, 2 is found to have left, 3 is gone, 4 has come, 6 was not known and
    // is no matter.
    driven.transition(transition(5, 40_000, ESTABLISHED, CLOSE_WAIT));
    let truth = walk(
        50_000,
        &[
            row(1, 50_001, CLOSE_WAIT),
            row(2, 50_002, LAST_ACK),
            row(4, 50_003, CLOSE_WAIT),
            row(5, 50_004, CLOSE_WAIT),
            row(6, 50_005, ESTABLISHED),
        ],
    );
    for row in &truth.sockets {
        driven.tracker.observe_socket(&Observation::of(row, Since::between(None, row.ktime_ns)), &mut |_| {});
    }
    let Unseen { gone, .. } = driven.tracker.sweep_unseen(&truth, &mut |_| {});
    let found = driven.tracker.found_since(states, &before, &gone, truth.started_ns);
    let found: Vec<_> = found.iter().map(|found| (found.cookie, found.socket.state, found.seen_ns)).collect();
    assert_eq!(found, [(3, CLOSE, 50_000), (2, LAST_ACK, 50_002), (4, CLOSE_WAIT, 50_003)]);
}

#[test]
fn what_was_in_doubt_is_judged_again_when_it_is_trusted() {
    let mut driven = Driven::new(Some(10_000));
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    let judge = |driven: &mut Driven, until| {
        let Driven { tracker, found } = driven;
        tracker.judge_until(until, &mut |finding| found.push(finding));
    };
    judge(&mut driven, 31_000);
    driven.transition(transition(2, 20_000, ESTABLISHED, CLOSE_WAIT));
    driven.tracker.suspend_deadlines();
    judge(&mut driven, 60_000);
    assert_eq!(driven.stuck(), [1]);
    driven.tracker.resume_deadlines(60_000);
    judge(&mut driven, 69_999);
    assert_eq!(driven.stuck(), [1, 2]);
    judge(&mut driven, 70_000);
    assert_eq!(driven.stuck(), [1, 2, 1, 2], "reminded");
}

/// A walk that looked everywhere but in NETNS.
fn walk_without(started_ns: u64) -> Walk {
    let left_out = [NETNS].into_iter().collect();
    Walk { namespaces: [1].into_iter().collect(), left_out, ..walk(started_ns, &[]) }
}

/// A walk after NETNS had ended.
fn walk_after_the_end(started_ns: u64) -> Walk {
    let ended = [NETNS].into_iter().collect();
    Walk { namespaces: [1].into_iter().collect(), ended, ..walk(started_ns, &[]) }
}

#[test]
fn sockets_of_a_namespace_that_was_not_walked_are_kept() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, SYN_SENT, ESTABLISHED));
    driven.transition(StateChange { netns: 0, ..transition(2, 1_000, SYN_SENT, ESTABLISHED) });
    let unseen = driven.tracker.sweep_unseen(&walk_without(2_000), &mut |_| {});
    assert_eq!(unseen, Unseen { gone: vec![], unknown: 2 });
    assert_eq!(driven.tracker.len(), 2);
}

#[test]
fn sockets_of_a_namespace_that_has_ended_are_gone() {
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(31_000, &[row(1, 31_001, CLOSE_WAIT)]));
    let Driven { tracker, found } = &mut driven;
    let unseen = tracker.sweep_unseen(&walk_after_the_end(50_000), &mut |finding| found.push(finding));
    assert_eq!((unseen.gone.len(), unseen.unknown, tracker.len()), (1, 0, 0));
    assert_eq!((driven.stuck(), driven.cleared()), (vec![1], vec![(1, CLOSE, 49_000)]));
}

#[test]
fn a_due_socket_whose_namespace_was_not_walked_is_judged_by_a_later_walk() {
    const MS: u64 = 1_000_000;
    let mut driven = Driven::new(None);
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    let mut now_ns = 31_000;
    let mut waits = Vec::new();
    while now_ns < 10_000 * MS {
        driven.walk(&walk_without(now_ns));
        let due_ns = driven.tracker.next_deadline_ns().expect("it is still to be judged");
        waits.push((due_ns - now_ns) / MS);
        now_ns = due_ns;
    }
    assert_eq!((driven.stuck(), driven.cleared()), (vec![], vec![]), "nothing is known of it");
    assert!(waits.is_sorted() && waits.first() == Some(&20) && waits.last() == Some(&2_000), "{waits:?}");
    driven.walk(&walk(now_ns, &[row(1, now_ns + 5, CLOSE_WAIT)]));
    let [Finding::Stuck(Found { socket, seen_ns, .. })] = driven.found[..] else {
        panic!("{:?}", driven.found)
    };
    assert_eq!((socket.since.exact_ns(), seen_ns), (Some(1_000), now_ns + 5));
    assert_eq!(driven.tracker.next_deadline_ns(), None);
}

#[test]
fn a_reminder_whose_namespace_was_not_walked_comes_later_and_nothing_clears() {
    let mut driven = Driven::new(Some(10_000));
    driven.transition(transition(1, 1_000, ESTABLISHED, CLOSE_WAIT));
    driven.walk(&walk(31_000, &[row(1, 31_001, CLOSE_WAIT)]));
    driven.walk(&walk_without(41_001));
    assert_eq!((driven.stuck(), driven.cleared()), (vec![1], vec![]));
    let due_ns = driven.tracker.next_deadline_ns().expect("it is still to be reminded of");
    assert_eq!(due_ns, 41_001 + 20_000_000);
    driven.walk(&walk(due_ns, &[row(1, due_ns, CLOSE_WAIT)]));
    assert_eq!((driven.stuck(), driven.cleared()), (vec![1, 1], vec![]));
    assert_eq!(driven.tracker.next_deadline_ns(), Some(due_ns + 10_000));
    // And one that is gone clears at once.
    driven.walk(&walk_after_the_end(due_ns + 10_000));
    assert_eq!((driven.cleared().len(), driven.tracker.len()), (1, 0));
}

#[test]
fn a_walk_is_asked_for_the_sockets_that_are_due() {
    let mut driven = Driven::new(None);
    for cookie in 1..=100 {
        driven.transition(StateChange {
            netns: cookie as u32 % 3,
            ..transition(cookie, 1_000 * (1 + cookie % 7), ESTABLISHED, CLOSE_WAIT)
        });
    }
    for now_ns in [30_999, 31_000, 34_000, 37_000, 99_000] {
        let mut due = driven.tracker.due_sockets(now_ns);
        due.sort_unstable();
        let is_due = |cookie: &u64| 1_000 * (1 + cookie % 7) + THRESHOLD <= now_ns;
        let expected: Vec<_> = (1..=100).filter(is_due).map(|cookie| (cookie, cookie as u32 % 3)).collect();
        assert_eq!(due, expected, "by {now_ns}");
    }
    assert_eq!(driven.tracker.namespaces().len(), 3);
}

#[test]
fn only_followed_states_are_kept() {
    let watched = state::bit(CLOSE_WAIT);
    let policy =
        Policy { followed: watched, watched, threshold_ns: THRESHOLD, remind_ns: None, lives: false };
    let mut driven = Driven { tracker: Tracker::new(policy), found: Vec::new() };
    driven.walk(&walk(1, &[row(1, 2, ESTABLISHED), row(2, 3, CLOSE_WAIT), row(3, 4, FIN_WAIT1)]));
    assert_eq!(driven.tracker.len(), 1);
    driven.transition(transition(1, 10, ESTABLISHED, CLOSE_WAIT));
    assert_eq!(driven.tracker.len(), 2);
    driven.transition(transition(1, 11, CLOSE_WAIT, LAST_ACK));
    driven.transition(transition(2, 12, CLOSE_WAIT, LAST_ACK));
    assert!(driven.tracker.is_empty());
    assert_eq!(driven.tracker.next_deadline_ns(), None);
}

/// A connection's transitions, each at its time; the last replaces it by a timewait socket in
/// that state.
fn replaced_by(timewait_state: u8) -> Vec<StateChange> {
    let life = [
        (CLOSE, SYN_SENT),
        (SYN_SENT, ESTABLISHED),
        (ESTABLISHED, FIN_WAIT1),
        (FIN_WAIT1, FIN_WAIT2),
        (FIN_WAIT2, timewait_state),
    ];
    let mut all: Vec<_> =
        (1_000..).step_by(10).zip(life).map(|(at, (old, new))| transition(1, at, old, new)).collect();
    all[4].is_timewait = true;
    all
}

#[test]
fn what_both_programs_wrote_is_told_once() {
    for timewait_state in [TIME_WAIT, FIN_WAIT2] {
        let mut tracker = tracker(None);
        let mut told = Vec::new();
        for first in replaced_by(timewait_state) {
            let again = StateChange { is_fallback: true, at_ns: first.at_ns + 1, ..first };
            for change in [first, again] {
                tracker.apply_transition(&change, &mut |_| told.push(change.at_ns));
            }
        }
        assert_eq!((told, tracker.duplicates()), (vec![1_000, 1_010, 1_020, 1_030, 1_040], 5));
    }
}

#[test]
fn what_only_the_second_program_wrote_is_told() {
    for timewait_state in [TIME_WAIT, FIN_WAIT2] {
        let mut tracker = tracker(None);
        let mut told = 0;
        for change in replaced_by(timewait_state) {
            let change = StateChange { is_fallback: true, ..change };
            tracker.apply_transition(&change, &mut |_| told += 1);
        }
        assert_eq!((told, tracker.duplicates()), (5, 0));
    }
}

#[test]
fn one_look_finds_what_is_proven_to_be_stuck_and_counts_the_rest() {
    let mut driven = Driven::new(None);
    let at = 100_000;
    let ages = [THRESHOLD + 5, THRESHOLD, THRESHOLD - 1, 0];
    for (cookie, age) in (1..).zip(ages) {
        let since = Since::between(None, at - age);
        driven.tracker.observe_socket(&Observation::of(&row(cookie, at, CLOSE_WAIT), since), &mut |_| {
            panic!("nothing to tell")
        });
    }
    driven
        .tracker
        .observe_socket(&Observation::of(&row(9, at, ESTABLISHED), Since::between(None, 0)), &mut |_| {
            panic!("nothing to tell")
        });
    let (stuck, others) = driven.tracker.judge_at_observation();
    assert_eq!((&stuck[..], others.len()), (&[1, 2][..], 2), "the oldest first");
    let seen = |cookie| driven.tracker.find_observed(cookie).map(|found| (found.cookie, found.seen_ns));
    assert_eq!((seen(2), seen(7)), (Some((2, at)), None));
}
