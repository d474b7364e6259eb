//! The table against a model of maps, and what is left of it after a storm.

use std::collections::{BTreeSet, HashMap};

use bytemuck::Zeroable as _;
use proptest::prelude::*;
use tcptrace_common::{Tuple, state};

use super::*;
use crate::engine::{age::Since, state_change::Actor};

fn socket(deadline_ns: u64) -> Socket {
    Socket {
        tuple: Tuple::zeroed(),
        netns: 1,
        state: state::CLOSE_WAIT,
        since: Since::exact(1),
        last_seen_ns: 1,
        deadline_ns,
        is_reported: false,
    }
}

/// Opened by a task of which there are few.
fn origin(tid: u32) -> Origin {
    let actor = Actor { pid: 1, tid, uid: 0, comm: None, thread_comm: [0; 16] };
    Origin { actor, at_ns: 1_000 + u64::from(tid) }
}

/// Checks that the parts agree on where each socket is.
fn check(sockets: &SocketTable) {
    let SocketTable { slots, progress, deadlines, openers } = sockets;
    assert_eq!(progress.as_ref().map_or(slots.len(), Vec::len), slots.len());
    let (mut with_deadline, mut opened) = (0, 0);
    for (index, Slot { socket, heap_position, opener, .. }) in slots.values().enumerate() {
        assert_eq!(socket.deadline_ns == NEVER, *heap_position == NOT_IN_HEAP);
        if *heap_position != NOT_IN_HEAP {
            assert_eq!(deadlines.index_at(*heap_position), index);
            with_deadline += 1;
        }
        opened += usize::from(opener.is_some());
    }
    assert_eq!(deadlines.len(), with_deadline, "no entry of a socket without a deadline, or gone");
    assert_eq!(openers.sockets(), opened, "no share of a socket that is gone");
}

/// Takes the first one off again and again.
fn all_due(sockets: &mut SocketTable) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some((deadline_ns, cookie)) = sockets.next_deadline() {
        all.push((deadline_ns, cookie));
        sockets.insert(cookie, socket(NEVER));
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Remove(u64),
    Open(u64, Option<Origin>),
    ClearDeadlines,
}

fn step() -> impl Strategy<Value = Step> {
    // Few times, so that several are due at once.
    let due = prop_oneof![Just(NEVER), 0..20_u64];
    prop_oneof![
        10 => (0..60_u64, due).prop_map(|(cookie, deadline_ns)| Step::Insert(cookie, deadline_ns)),
        5 => (0..60_u64).prop_map(Step::Remove),
        5 => (0..60_u64, proptest::option::of((0..9_u32).prop_map(origin)))
            .prop_map(|(cookie, origin)| Step::Open(cookie, origin)),
        1 => Just(Step::ClearDeadlines),
    ]
}

proptest! {
    #[test]
    fn they_are_a_map_and_a_set_of_what_is_due(steps in proptest::collection::vec(step(), 0..300)) {
        let mut sockets = SocketTable::new(true);
        let (mut model, mut due, mut origins) = (HashMap::new(), BTreeSet::new(), HashMap::new());
        for step in steps {
            match step {
                Step::Insert(cookie, deadline_ns) => {
                    let before = model.insert(cookie, socket(deadline_ns));
                    prop_assert_eq!(sockets.insert(cookie, socket(deadline_ns)), before);
                    due.remove(&(before.map_or(NEVER, |before: Socket| before.deadline_ns), cookie));
                    due.extend((deadline_ns != NEVER).then_some((deadline_ns, cookie)));
                    let progress = sockets.progress_mut(cookie).expect("there is one for each");
                    *progress = ConnectionProgress::opened_at(1 + cookie);
                }
                Step::Remove(cookie) => {
                    let before = model.remove(&cookie);
                    origins.remove(&cookie);
                    prop_assert_eq!(sockets.remove(cookie), before);
                    due.remove(&(before.map_or(NEVER, |before| before.deadline_ns), cookie));
                }
                Step::Open(cookie, origin) => {
                    sockets.set_origin(cookie, origin);
                    if model.contains_key(&cookie) {
                        origins.insert(cookie, origin);
                    }
                }
                Step::ClearDeadlines => {
                    sockets.clear_deadlines();
                    due.clear();
                    model.values_mut().for_each(|socket| socket.deadline_ns = NEVER);
                }
            }
            check(&sockets);
            prop_assert_eq!(sockets.next_deadline(), due.first().copied());
        }
        for (cookie, socket) in &model {
            let origin = origins.get(cookie).copied().flatten();
            prop_assert_eq!(sockets.get(*cookie), Some(socket));
            prop_assert_eq!(sockets.get_with_origin(*cookie), Some((*socket, origin)));
            prop_assert_eq!(sockets.progress_of(*cookie), ConnectionProgress::opened_at(1 + cookie));
        }
        let mut seen: Vec<_> = sockets.iter().map(|(cookie, _)| cookie).collect();
        let mut expected: Vec<_> = model.keys().copied().collect();
        seen.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(all_due(&mut sockets), Vec::from_iter(due));
    }
}

#[test]
fn what_leaves_is_due_no_more_and_what_is_put_off_comes_later() {
    let mut sockets = SocketTable::new(false);
    for cookie in 1..=5 {
        sockets.insert(cookie, socket(10 * cookie));
    }
    sockets.remove(1);
    assert_eq!(sockets.next_deadline(), Some((20, 2)), "no stale entry comes first");
    sockets.insert(2, socket(45));
    sockets.insert(3, socket(NEVER));
    assert_eq!(all_due(&mut sockets), [(40, 4), (45, 2), (50, 5)]);
    assert_eq!(sockets.len(), 4);
}

#[test]
fn of_several_due_at_the_same_time_the_lowest_cookie_comes_first() {
    let mut sockets = SocketTable::new(false);
    for cookie in [5, 2, 9, 1, 7] {
        sockets.insert(cookie, socket(30));
    }
    assert_eq!(all_due(&mut sockets).iter().map(|(_, cookie)| *cookie).collect::<Vec<_>>(), [1, 2, 5, 7, 9]);
}

#[test]
fn a_storm_gives_its_memory_back() {
    let mut sockets = SocketTable::new(true);
    for cookie in 0..100_000 {
        sockets.insert(cookie, socket(cookie));
    }
    // Those that stay are spread over all of it.
    for cookie in (0..100_000).filter(|cookie| cookie % 100 != 0) {
        sockets.remove(cookie);
    }
    check(&sockets);
    assert_eq!(sockets.len(), 1_000);
    assert!(sockets.slots.capacity() <= 4_000, "{}", sockets.slots.capacity());
    assert!(sockets.deadlines.capacity() <= 4_000, "{}", sockets.deadlines.capacity());
    let progress = sockets.progress.as_ref().expect("it is asked for");
    assert!(progress.capacity() <= 4_000, "{}", progress.capacity());
}

#[test]
fn sockets_that_come_and_go_need_no_more_memory() {
    let mut sockets = SocketTable::new(false);
    let room = |sockets: &SocketTable| (sockets.deadlines.capacity(), sockets.slots.capacity());
    for cookie in 0..3_000 {
        sockets.insert(cookie, socket(cookie));
    }
    let before = room(&sockets);
    for cookie in 3_000..100_000 {
        sockets.remove(cookie - 3_000);
        sockets.insert(cookie, socket(cookie));
    }
    assert_eq!(room(&sockets), before);
    check(&sockets);
}

#[test]
fn a_single_one_that_comes_and_goes_needs_no_new_memory() {
    let mut sockets = SocketTable::new(false);
    let mut room = Vec::new();
    for cookie in 0..100 {
        sockets.insert(cookie, socket(cookie));
        sockets.remove(cookie);
        room.push((sockets.deadlines.capacity(), sockets.slots.capacity()));
    }
    room.dedup();
    assert_eq!(room.len(), 1, "{room:?}");
    assert!(room[0].0 > 0 && room[0].1 > 0, "{room:?}");
}
