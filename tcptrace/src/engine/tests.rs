//! Inputs in, events out, with no kernel, clock or file.

use bytemuck::Zeroable as _;
use tcptrace_common::{SocketRow, Tuple, state, v4_mapped};

use super::*;
use crate::{
    engine::{filter::tests::filter, state_change::StateChange, tracker::Policy, walk::Holder},
    events::Views,
    testing::{Collected, OneProcess, settings},
};

const SECOND: u64 = 1_000_000_000;
const STUCK: Views = Views { transitions: false, stuck: true, lives: false };
const ALL: Views = Views { transitions: true, stuck: true, lives: false };
const NETNS: u32 = 7;

fn tuple() -> Tuple {
    Tuple {
        local_addr: v4_mapped([10, 0, 0, 5]),
        remote_addr: v4_mapped([10, 0, 0, 9]),
        local_port: 9666,
        remote_port: 40112,
        family: tcptrace_common::AF_INET,
        interface: 0,
    }
}

fn engine(settings: Settings) -> Engine<OneProcess> {
    Engine::new(settings, 0, OneProcess::default())
}

fn close_wait(views: Views) -> Settings {
    settings(views, state::bit(state::CLOSE_WAIT), 30 * SECOND)
}

/// A socket of namespace [`NETNS`] that enters CLOSE_WAIT at `at_ns`.
fn entered(cookie: u64, at_ns: u64) -> StateChange {
    let change = StateChange::new(at_ns, cookie, tuple(), state::ESTABLISHED, state::CLOSE_WAIT);
    StateChange { netns: NETNS, ..change }
}

/// A walk at `at_ns` that saw these sockets in CLOSE_WAIT, each held by process 42.
fn walk(at_ns: u64, cookies: &[u64]) -> Walk {
    let row = |cookie: &u64| SocketRow {
        ktime_ns: at_ns + 1,
        cookie: *cookie,
        netns: NETNS,
        state: state::CLOSE_WAIT,
        tuple: tuple(),
        ..SocketRow::zeroed()
    };
    let holder = |cookie: &u64| Holder { cookie: *cookie, pid: 42, fd: 5, process: None };
    Walk {
        started_ns: at_ns,
        sockets: cookies.iter().map(row).collect(),
        holders: cookies.iter().map(holder).collect(),
        namespaces: [NETNS].into_iter().collect(),
        ..Walk::default()
    }
}

fn apply_walk(engine: &mut Engine<OneProcess>, walk: &Walk, purpose: Purpose, out: &mut Collected) {
    engine.apply(Input::WalkBegan(walk, purpose), out);
    for row in &walk.sockets {
        engine.apply(Input::Socket(row), out);
    }
    engine.apply(Input::WalkEnded(walk, purpose), out);
}

fn names(out: &Collected) -> Vec<&'static str> {
    out.0.iter().map(|record| record.event.name()).collect()
}

#[test]
fn a_socket_is_stuck_once_a_walk_after_its_threshold_has_seen_it() {
    let (mut engine, mut out) = (engine(close_wait(ALL)), Collected::default());
    engine.apply(Input::Transition(&entered(1, SECOND)), &mut out);
    assert_eq!(engine.next_judgement_ns(), Some(31 * SECOND));
    apply_walk(&mut engine, &walk(20 * SECOND, &[1]), Purpose::Judge, &mut out);
    assert_eq!(names(&out), ["transition"]);
    assert_eq!(engine.due_sockets(31 * SECOND), [(1, NETNS)]);
    apply_walk(&mut engine, &walk(31 * SECOND, &[1]), Purpose::Judge, &mut out);
    assert_eq!(names(&out), ["transition", "stuck"]);
    let Event::Stuck(stuck) = &out.0[1].event else { panic!("{out:?}") };
    assert_eq!((stuck.details.owners[0].pid, stuck.details.owners[0].fd), (42, Some(5)));
    let left = StateChange::new(40 * SECOND, 1, tuple(), state::CLOSE_WAIT, state::LAST_ACK);
    engine.apply(Input::Transition(&left), &mut out);
    engine.apply(Input::Ended { began_ns: 0, at_ns: 41 * SECOND }, &mut out);
    assert_eq!(names(&out)[2..], ["transition", "cleared", "process", "summary"]);
    let Summary { transitions, stuck, cleared, .. } = engine.summary(0, 41 * SECOND);
    assert_eq!((transitions, stuck, cleared), (2, 1, 1));
}

#[test]
fn a_walk_that_does_not_see_a_reported_socket_clears_it_where_it_looked() {
    let (mut engine, mut out) = (engine(close_wait(STUCK)), Collected::default());
    apply_walk(&mut engine, &walk(SECOND, &[1, 2]), Purpose::Start, &mut out);
    apply_walk(&mut engine, &walk(40 * SECOND, &[1, 2]), Purpose::Judge, &mut out);
    assert_eq!(names(&out), ["stuck", "stuck"]);
    let elsewhere = Walk { namespaces: [8].into_iter().collect(), ..walk(50 * SECOND, &[1]) };
    apply_walk(&mut engine, &elsewhere, Purpose::Resync, &mut out);
    assert_eq!(engine.last_walk(), WalkOutcome { followed_loss: false, unknown: 1 });
    assert_eq!(names(&out).len(), 2, "it may still be there");
    apply_walk(&mut engine, &walk(60 * SECOND, &[1]), Purpose::Resync, &mut out);
    assert_eq!(names(&out)[2..], ["cleared", "resync"]);
}

#[test]
fn a_loss_is_told_and_takes_a_resync_that_says_what_it_repaired() {
    let (mut engine, mut out) = (engine(close_wait(STUCK)), Collected::default());
    let loss = |ring_full, suspected| Input::Loss(Loss { ring_full, suspected, ..Loss::default() });
    engine.apply(loss(0, 0), &mut out);
    assert!(!engine.needs_resync() && out.0.is_empty());
    engine.apply(loss(3, 0), &mut out);
    assert!(engine.needs_resync());
    apply_walk(&mut engine, &walk(SECOND, &[1, 2]), Purpose::Resync, &mut out);
    assert!(!engine.needs_resync() && engine.last_walk().followed_loss);
    assert_eq!(names(&out), ["lost", "resync"]);
    let Event::Resync(resync) = &out.0[1].event else { panic!("{out:?}") };
    assert_eq!((resync.sockets, resync.repaired), (2, 2));
    // What only may have been lost is told if there was something to repair.
    engine.apply(loss(0, 5), &mut out);
    apply_walk(&mut engine, &walk(9 * SECOND, &[1, 2]), Purpose::Resync, &mut out);
    assert_eq!(names(&out).len(), 2);
    engine.apply(loss(0, 5), &mut out);
    apply_walk(&mut engine, &walk(19 * SECOND, &[1, 2, 3]), Purpose::Resync, &mut out);
    assert_eq!(names(&out)[2..], ["lost", "resync"]);
}

#[test]
fn a_filter_keeps_back_records_and_no_history() {
    let settings = Settings { filter: filter("--pid 42"), ..close_wait(ALL) };
    let (mut engine, mut out) = (engine(settings), Collected::default());
    // No process is known to have to do with it yet.
    engine.apply(Input::Transition(&entered(1, SECOND)), &mut out);
    assert!(out.0.is_empty());
    apply_walk(&mut engine, &walk(31 * SECOND, &[1]), Purpose::Judge, &mut out);
    assert_eq!(names(&out), ["stuck"]);
    let Event::Stuck(stuck) = &out.0[0].event else { panic!("{out:?}") };
    assert!(stuck.exact && stuck.details.owners[0].is_requested);
    assert_eq!(engine.summary(0, 0).filtered, 1);
}

#[test]
fn what_a_filter_admits_for_the_first_time_is_no_reminder() {
    let policy = Policy { remind_ns: Some(SECOND), ..close_wait(STUCK).policy };
    let settings = Settings { policy, filter: filter("--pid 42"), ..close_wait(STUCK) };
    let (mut engine, mut out) = (engine(settings), Collected::default());
    let held_by = |pid, walk: Walk| {
        let holders = walk.holders.iter().map(|holder| Holder { pid, ..*holder }).collect();
        Walk { holders, ..walk }
    };
    apply_walk(&mut engine, &walk(SECOND, &[1]), Purpose::Start, &mut out);
    apply_walk(&mut engine, &held_by(41, walk(40 * SECOND, &[1])), Purpose::Judge, &mut out);
    assert!(out.0.is_empty(), "found stuck, and not reported");
    for at in [50, 60] {
        apply_walk(&mut engine, &walk(at * SECOND, &[1]), Purpose::Judge, &mut out);
    }
    let is_reminder = |record: &Record| matches!(&record.event, Event::Stuck(stuck) if stuck.is_reminder);
    assert_eq!(out.0.iter().map(is_reminder).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn one_walk_judges_by_what_it_proves_and_counts_what_it_cannot() {
    let (mut engine, mut out) = (engine(close_wait(STUCK)), Collected::default());
    let mut walk = walk(100 * SECOND, &[1, 2]);
    // In jiffies of 4 ms: 40 s since the last ACK, and none.
    walk.sockets[0].since_ack_jiffies = 10_001;
    walk.sockets[0].since_data_jiffies = 12_000;
    apply_walk(&mut engine, &walk, Purpose::Once, &mut out);
    assert_eq!(names(&out), ["stuck"]);
    let Event::Stuck(stuck) = &out.0[0].event else { panic!("{out:?}") };
    assert_eq!((stuck.socket.cookie, stuck.exact), (1, false));
    assert_eq!(engine.count_undecided(&walk), 1);
}
