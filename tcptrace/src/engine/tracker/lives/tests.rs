//! Lives, driven by records, rows and time alone.

use bytemuck::Zeroable as _;
use rustix::io::Errno;
use tcptrace_common::{
    AF_INET, SocketRow, Tuple,
    state::{
        CLOSE, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
        TIME_WAIT,
    },
};

use super::*;
use crate::engine::{
    age::Since,
    exit_signs::ExitSigns,
    observation::Observation,
    state_change::FinalStats,
    tracker::{Policy, Tracker, finding::Finding},
    walk::Walk,
};

const NETNS: u32 = 4_026_531_840;

fn tuple() -> Tuple {
    Tuple { local_port: 9666, remote_port: 40112, family: AF_INET, ..Tuple::zeroed() }
}

fn transition(at_ns: u64, old_state: u8, new_state: u8) -> StateChange {
    StateChange { netns: NETNS, ..StateChange::new(at_ns, 1, tuple(), old_state, new_state) }
}

fn row(cookie: u64, ktime_ns: u64, state: u8) -> SocketRow {
    let remote_port = if state == LISTEN { 0 } else { 40112 };
    let tuple = Tuple { remote_port, ..tuple() };
    SocketRow { ktime_ns, cookie, netns: NETNS, state, tuple, ..SocketRow::zeroed() }
}

fn task(pid: u32) -> Actor {
    Actor { pid, tid: pid, uid: 0, comm: None, thread_comm: [0; 16] }
}

/// The same change, made by the task with that pid.
fn by(pid: u32, change: StateChange) -> StateChange {
    StateChange { actor: Some(task(pid)), ending: Ending::Closed, ..change }
}

fn exiting(change: StateChange) -> StateChange {
    StateChange { ending: Ending::Exited, ..change }
}

/// The last change of a connection, with what the kernel counted.
fn last(change: StateChange) -> StateChange {
    let counters = Counters { bytes_sent: 7, ..Counters::zeroed() };
    let stats = FinalStats { counters, sk_err: 0, is_aborted: false, origin: None };
    StateChange { final_stats: change.final_stats.or(Some(stats)), ..change }
}

fn with_error(errno: Errno, change: StateChange) -> StateChange {
    let StateChange { old_state, new_state, .. } = change;
    let mut change = last(change);
    let sk_err = errno.raw_os_error();
    change.ending = ExitSigns { old_state, new_state, sk_err, ..ExitSigns::default() }.infer_ending();
    change.final_stats.as_mut().expect("the last change has them").sk_err = sk_err;
    change
}

/// A tracker of lives, and those that it told.
struct Driven {
    tracker: Tracker,
    lives: Vec<(u64, Life)>,
}

impl Driven {
    fn new() -> Self {
        let policy =
            Policy { followed: state::ALL, watched: 0, threshold_ns: 0, remind_ns: None, lives: true };
        Self { tracker: Tracker::new(policy), lives: Vec::new() }
    }

    fn apply(&mut self, change: StateChange) {
        let Self { tracker, lives } = self;
        tracker.apply_transition(&change, &mut |finding| {
            if let Finding::Life { at_ns, life, .. } = finding {
                lives.push((at_ns, life));
            }
        });
    }

    /// Applies changes. Those that are a connection's last have final stats.
    fn lives(&mut self, changes: &[StateChange]) {
        for change in changes {
            self.apply(if change.is_last() { last(*change) } else { *change });
        }
    }

    fn row(&mut self, row: &SocketRow) {
        let since = Since::between(None, row.ktime_ns);
        self.tracker.observe_socket(&Observation::of(row, since), &mut |finding| {
            panic!("nothing to tell: {finding:?}")
        });
    }

    fn only(self) -> Life {
        let [(_, life)] = &self.lives[..] else { panic!("not one life: {:?}", self.lives) };
        life.clone()
    }
}

/// The states that it was in, and how long.
fn states(life: &Life) -> Vec<(u8, u64)> {
    life.states.iter().collect()
}

/// The one life that these transitions make.
fn life(transitions: &[StateChange]) -> Life {
    let mut driven = Driven::new();
    driven.lives(transitions);
    assert!(driven.tracker.is_empty());
    driven.only()
}

fn opened() -> [StateChange; 2] {
    [by(42, transition(1_000, CLOSE, SYN_SENT)), transition(2_000, SYN_SENT, ESTABLISHED)]
}

fn accepted() -> [StateChange; 2] {
    [transition(1_000, LISTEN, SYN_RECV), transition(2_000, SYN_RECV, ESTABLISHED)]
}

fn after(beginning: [StateChange; 2], rest: &[StateChange]) -> Life {
    life(&[&beginning, rest].concat())
}

#[test]
fn who_closed_first() {
    let ours = after(
        opened(),
        &[
            by(43, transition(5_000, ESTABLISHED, FIN_WAIT1)),
            transition(6_000, FIN_WAIT1, FIN_WAIT2),
            transition(8_000, FIN_WAIT2, CLOSE),
        ],
    );
    assert_eq!((ours.reason, ours.role), (CloseReason::LocalClose, Role::Client));
    assert_eq!((ours.opened_ns, ours.sk_err), (Some(1_000), 0));
    assert_eq!(
        states(&ours),
        [(SYN_SENT, 1_000), (ESTABLISHED, 3_000), (FIN_WAIT1, 1_000), (FIN_WAIT2, 2_000)]
    );
    assert_eq!(ours.closer.map(|closer| closer.pid), Some(43));
    assert_eq!(ours.origin.map(|origin| origin.actor.pid), Some(42));
    assert_eq!(ours.counters.map(|counters| counters.bytes_sent), Some(7));

    let theirs = after(
        accepted(),
        &[
            transition(5_000, ESTABLISHED, CLOSE_WAIT),
            by(43, transition(6_000, CLOSE_WAIT, LAST_ACK)),
            transition(8_000, LAST_ACK, CLOSE),
        ],
    );
    assert_eq!((theirs.reason, theirs.role), (CloseReason::PeerClose, Role::Server));
    assert_eq!(
        states(&theirs),
        [(SYN_RECV, 1_000), (ESTABLISHED, 3_000), (CLOSE_WAIT, 1_000), (LAST_ACK, 2_000)]
    );

    let both = after(
        opened(),
        &[
            by(43, transition(5_000, ESTABLISHED, FIN_WAIT1)),
            transition(6_000, FIN_WAIT1, CLOSING),
            StateChange { is_timewait: true, ..transition(7_000, CLOSING, TIME_WAIT) },
        ],
    );
    assert_eq!(both.reason, CloseReason::LocalClose, "we did not know of theirs");
    assert_eq!(states(&both)[3], (CLOSING, 1_000));
}

#[test]
fn a_reset_of_either_end() {
    for state in [ESTABLISHED, CLOSE_WAIT] {
        let entered = transition(3_000, ESTABLISHED, state);
        let before = if state == ESTABLISHED { vec![] } else { vec![entered] };
        let ended = |last| after(accepted(), &[&before[..], &[last]].concat());
        let closed = ended(by(43, transition(5_000, state, CLOSE)));
        assert_eq!(closed.reason, CloseReason::ResetSent);
        assert_eq!(closed.closer.map(|closer| closer.pid), Some(43));
        for errno in [Errno::CONNRESET, Errno::PIPE] {
            let reset = ended(with_error(errno, transition(5_000, state, CLOSE)));
            assert_eq!((reset.reason, reset.closer), (CloseReason::ResetReceived, None));
            assert_eq!(reset.sk_err, errno.raw_os_error());
        }
    }
}

#[test]
fn a_reset_that_we_send_after_a_shutdown_is_what_ended_it() {
    let aborted = |change| {
        let mut change = last(change);
        change.final_stats.as_mut().expect("the last change has them").is_aborted = true;
        change
    };
    for state in [FIN_WAIT1, FIN_WAIT2] {
        let ours = [by(43, transition(5_000, ESTABLISHED, FIN_WAIT1))];
        let ended = |last| after(opened(), &[&ours[..], &[last]].concat());
        let closed = by(44, transition(8_000, state, CLOSE));
        let told = ended(aborted(closed));
        assert_eq!((told.reason, told.closer.map(|closer| closer.pid)), (CloseReason::ResetSent, Some(44)));
        assert_eq!(ended(closed).reason, CloseReason::LocalClose, "an orderly one");
        assert_eq!(ended(aborted(exiting(closed))).reason, CloseReason::Exit);
    }
    let theirs = [
        transition(5_000, ESTABLISHED, CLOSE_WAIT),
        by(43, transition(6_000, CLOSE_WAIT, LAST_ACK)),
        aborted(by(43, transition(8_000, LAST_ACK, CLOSE))),
    ];
    assert_eq!(after(accepted(), &theirs).reason, CloseReason::ResetSent);
}

#[test]
fn a_reset_after_we_have_closed_is_not_what_ended_it() {
    let reset = |state| with_error(Errno::CONNRESET, transition(8_000, state, CLOSE));
    let ours = [by(43, transition(5_000, ESTABLISHED, FIN_WAIT1))];
    let ended = after(opened(), &[&ours[..], &[reset(FIN_WAIT1)]].concat());
    assert_eq!((ended.reason, ended.sk_err), (CloseReason::LocalClose, Errno::CONNRESET.raw_os_error()));
    let theirs = [
        transition(5_000, ESTABLISHED, CLOSE_WAIT),
        by(43, transition(6_000, CLOSE_WAIT, LAST_ACK)),
        reset(LAST_ACK),
    ];
    assert_eq!(after(accepted(), &theirs).reason, CloseReason::PeerClose);
}

#[test]
fn what_the_kernel_gave_up() {
    for errno in [Errno::TIMEDOUT, Errno::HOSTUNREACH] {
        let ended = after(opened(), &[with_error(errno, transition(5_000, ESTABLISHED, CLOSE))]);
        assert_eq!(ended.reason, CloseReason::Timeout, "{errno:?}");
    }
    let unanswered = with_error(Errno::TIMEDOUT, transition(9_000, SYN_SENT, CLOSE));
    assert_eq!(life(&[opened()[0], unanswered]).reason, CloseReason::Timeout);
    let closed = by(43, transition(5_000, ESTABLISHED, FIN_WAIT1));
    let unacknowledged = with_error(Errno::TIMEDOUT, transition(9_000, FIN_WAIT1, CLOSE));
    assert_eq!(after(opened(), &[closed, unacknowledged]).reason, CloseReason::Timeout);
}

#[test]
fn connections_that_were_never_made() {
    for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH] {
        let refused = life(&[opened()[0], with_error(errno, transition(2_000, SYN_SENT, CLOSE))]);
        assert_eq!((refused.reason, refused.role), (CloseReason::Refused, Role::Client));
        assert_eq!((refused.closer, states(&refused)), (None, vec![(SYN_SENT, 1_000)]));
    }
    let given_up = life(&[opened()[0], by(42, transition(2_000, SYN_SENT, CLOSE))]);
    assert_eq!((given_up.reason, given_up.closer.is_some()), (CloseReason::LocalClose, true));
    let reset = with_error(Errno::CONNRESET, transition(2_000, SYN_RECV, CLOSE));
    let child = life(&[accepted()[0], reset]);
    assert_eq!((child.reason, child.role), (CloseReason::ResetReceived, Role::Server));
    assert_eq!(life(&[accepted()[0], transition(2_000, SYN_RECV, CLOSE)]).reason, CloseReason::Unknown);
}

#[test]
fn a_process_that_ends_with_it_open() {
    let closed = exiting(by(43, transition(5_000, ESTABLISHED, FIN_WAIT1)));
    let rest = [closed, transition(6_000, FIN_WAIT1, FIN_WAIT2), transition(7_000, FIN_WAIT2, CLOSE)];
    assert_eq!(after(opened(), &rest).reason, CloseReason::Exit);
    let leaked = [
        transition(5_000, ESTABLISHED, CLOSE_WAIT),
        exiting(by(43, transition(6_000, CLOSE_WAIT, LAST_ACK))),
        transition(7_000, LAST_ACK, CLOSE),
    ];
    assert_eq!(after(accepted(), &leaked).reason, CloseReason::Exit);
    let unread = exiting(by(43, transition(5_000, ESTABLISHED, CLOSE)));
    assert_eq!(after(accepted(), &[unread]).reason, CloseReason::Exit);
    let connecting = exiting(by(42, transition(5_000, SYN_SENT, CLOSE)));
    assert_eq!(life(&[opened()[0], connecting]).reason, CloseReason::Exit);
}

#[test]
fn what_an_administrator_destroys() {
    for state in [ESTABLISHED, SYN_SENT, LAST_ACK] {
        let destroyed = life(&[with_error(Errno::CONNABORTED, transition(5_000, state, CLOSE))]);
        assert_eq!(destroyed.reason, CloseReason::Destroyed);
    }
}

#[test]
fn what_the_plain_event_leaves_open() {
    for (state, reason) in [
        (ESTABLISHED, CloseReason::Unknown),
        (CLOSE_WAIT, CloseReason::Unknown),
        (SYN_SENT, CloseReason::Unknown),
        (FIN_WAIT1, CloseReason::Unknown),
        (FIN_WAIT2, CloseReason::LocalClose),
        (CLOSING, CloseReason::LocalClose),
        (LAST_ACK, CloseReason::PeerClose),
    ] {
        let mut driven = Driven::new();
        driven.apply(transition(5_000, state, CLOSE));
        let told = driven.only();
        assert_eq!((told.reason, told.counters), (reason, None), "{state}");
    }
}

#[test]
fn a_listener_has_no_life() {
    let mut driven = Driven::new();
    driven.lives(&[by(42, transition(1_000, CLOSE, LISTEN)), by(42, transition(2_000, LISTEN, CLOSE))]);
    driven.row(&row(2, 3_000, LISTEN));
    driven.lives(&[StateChange { cookie: 2, ..by(42, transition(4_000, LISTEN, CLOSE)) }]);
    assert_eq!(driven.lives, []);
}

#[test]
fn a_connection_from_before_the_start_is_a_listeners_if_one_is_at_its_port() {
    for (state, role) in [(LISTEN, Role::Server), (ESTABLISHED, Role::Unknown)] {
        let mut driven = Driven::new();
        driven.row(&row(2, 1_000, state));
        driven.row(&row(1, 1_010, ESTABLISHED));
        driven.lives(&[transition(5_000, ESTABLISHED, CLOSE_WAIT), transition(6_000, CLOSE_WAIT, CLOSE)]);
        let told = driven.only();
        assert_eq!((told.role, told.opened_ns), (role, None));
        assert_eq!(states(&told), [(ESTABLISHED, 3_990), (CLOSE_WAIT, 1_000)], "from when it was seen");
    }
}

#[test]
fn the_kernel_knows_where_it_came_from() {
    for (how, role) in [(OriginHow::Connect, Role::Client), (OriginHow::Accept, Role::Server)] {
        let mut driven = Driven::new();
        let mut change = last(transition(5_000, ESTABLISHED, CLOSE));
        let noted = Origin { actor: task(44), at_ns: 1_000 };
        change.final_stats.as_mut().expect("the last change has them").origin = Some((noted, how));
        driven.apply(change);
        let told = driven.only();
        assert_eq!((told.role, told.origin.map(|origin| origin.actor.pid)), (role, Some(44)));
    }
}

#[test]
fn a_life_whose_end_was_lost_is_told_once_and_says_so() {
    let mut driven = Driven::new();
    driven.lives(&opened());
    let walk = Walk { started_ns: 9_000, namespaces: [NETNS].into_iter().collect(), ..Walk::default() };
    let Driven { tracker, lives } = &mut driven;
    tracker.sweep_unseen(&walk, &mut |finding| match finding {
        Finding::Life { at_ns, life, .. } => lives.push((at_ns, life)),
        other => panic!("{other:?}"),
    });
    // It was on its way all the same.
    driven.lives(&[transition(8_000, ESTABLISHED, CLOSE)]);
    let [(9_000, told)] = &driven.lives[..] else { panic!("{:?}", driven.lives) };
    assert_eq!((told.reason, told.is_end_seen, told.counters), (CloseReason::Unknown, false, None));
    assert_eq!((told.opened_ns, states(told)), (Some(1_000), vec![(SYN_SENT, 1_000), (ESTABLISHED, 0)]));
}

#[test]
fn transitions_that_were_lost_leave_what_was_seen() {
    let mut driven = Driven::new();
    driven.lives(&opened());
    driven.row(&row(1, 4_000, ESTABLISHED));
    // Lost: to CLOSE_WAIT.
    driven.lives(&[by(43, transition(8_000, CLOSE_WAIT, LAST_ACK)), transition(9_000, LAST_ACK, CLOSE)]);
    let told = driven.only();
    assert_eq!(states(&told), [(SYN_SENT, 1_000), (ESTABLISHED, 2_000), (LAST_ACK, 1_000)]);
    assert_eq!((told.reason, told.opened_ns), (CloseReason::PeerClose, Some(1_000)));
}

#[test]
fn what_two_programs_wrote_is_one_life() {
    let mut driven = Driven::new();
    driven.lives(&opened());
    let closed = with_error(Errno::CONNRESET, transition(5_000, ESTABLISHED, CLOSE));
    driven.lives(&[closed, StateChange { is_fallback: true, at_ns: 5_001, ..closed }]);
    assert_eq!(driven.only().reason, CloseReason::ResetReceived);
}

#[test]
fn a_socket_that_connects_again_lives_again() {
    let mut driven = Driven::new();
    for _ in 0..2 {
        driven.lives(&opened());
        driven.lives(&[by(42, transition(5_000, ESTABLISHED, CLOSE))]);
    }
    assert_eq!(driven.lives.len(), 2);
    assert_eq!(driven.lives[0], driven.lives[1]);
}
