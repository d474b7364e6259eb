//! The sockets against a model of two maps, and what is left of a storm.

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

/// Whether everything knows where everything is.
fn check(sockets: &Sockets) {
    let Sockets { places, kept, courses, due, origins } = sockets;
    assert_eq!((places.len(), kept.len()), (kept.len(), courses.as_ref().map_or(kept.len(), Dense::len)));
    let (mut is_due, mut opened) = (0, 0);
    for (place, Kept { cookie, socket, due_at, opener, .. }) in kept.iter().enumerate() {
        assert_eq!(sockets.find(*cookie), Some(place));
        assert_eq!(socket.deadline_ns == NEVER, *due_at == NOWHERE);
        if *due_at != NOWHERE {
            assert_eq!(due.place_at(at(*due_at)), place);
            is_due += 1;
        }
        opened += u32::from(origins.get(*opener).is_some());
    }
    assert_eq!(due.len(), is_due, "no entry of one that is not due, or is gone");
    assert_eq!(origins.sockets(), opened, "none is counted that is gone");
}

/// Takes the first one off again and again.
fn all_due(sockets: &mut Sockets) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some((deadline_ns, cookie)) = sockets.next_due() {
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
    Doubt,
}

fn step() -> impl Strategy<Value = Step> {
    // Few times, so that several are due at once.
    let due = prop_oneof![Just(NEVER), 0..20_u64];
    prop_oneof![
        10 => (0..60_u64, due).prop_map(|(cookie, deadline_ns)| Step::Insert(cookie, deadline_ns)),
        5 => (0..60_u64).prop_map(Step::Remove),
        5 => (0..60_u64, proptest::option::of((0..9_u32).prop_map(origin)))
            .prop_map(|(cookie, origin)| Step::Open(cookie, origin)),
        1 => Just(Step::Doubt),
    ]
}

proptest! {
    #[test]
    fn they_are_a_map_and_a_set_of_what_is_due(steps in proptest::collection::vec(step(), 0..300)) {
        let mut sockets = Sockets::new(true);
        let (mut model, mut due, mut origins) = (HashMap::new(), BTreeSet::new(), HashMap::new());
        for step in steps {
            match step {
                Step::Insert(cookie, deadline_ns) => {
                    let before = model.insert(cookie, socket(deadline_ns));
                    prop_assert_eq!(sockets.insert(cookie, socket(deadline_ns)), before);
                    due.remove(&(before.map_or(NEVER, |before: Socket| before.deadline_ns), cookie));
                    due.extend((deadline_ns != NEVER).then_some((deadline_ns, cookie)));
                    let course = sockets.course_mut(cookie).expect("there is one for each");
                    *course = Course::opened_at(1 + cookie);
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
                Step::Doubt => {
                    sockets.clear_due();
                    due.clear();
                    model.values_mut().for_each(|socket| socket.deadline_ns = NEVER);
                }
            }
            check(&sockets);
            prop_assert_eq!(sockets.next_due(), due.first().copied());
        }
        for (cookie, socket) in &model {
            let origin = origins.get(cookie).copied().flatten();
            prop_assert_eq!(sockets.get(*cookie), Some(socket));
            prop_assert_eq!(sockets.known(*cookie), Some((*socket, origin)));
            prop_assert_eq!(sockets.course(*cookie), Course::opened_at(1 + cookie));
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
    let mut sockets = Sockets::new(false);
    for cookie in 1..=5 {
        sockets.insert(cookie, socket(10 * cookie));
    }
    sockets.remove(1);
    assert_eq!(sockets.next_due(), Some((20, 2)), "no stale entry comes first");
    sockets.insert(2, socket(45));
    sockets.insert(3, socket(NEVER));
    assert_eq!(all_due(&mut sockets), [(40, 4), (45, 2), (50, 5)]);
    assert_eq!(sockets.len(), 4);
}

#[test]
fn of_several_due_at_the_same_time_the_lowest_cookie_comes_first() {
    let mut sockets = Sockets::new(false);
    for cookie in [5, 2, 9, 1, 7] {
        sockets.insert(cookie, socket(30));
    }
    assert_eq!(all_due(&mut sockets).iter().map(|(_, cookie)| *cookie).collect::<Vec<_>>(), [1, 2, 5, 7, 9]);
}

#[test]
fn a_storm_gives_its_memory_back() {
    let mut sockets = Sockets::new(false);
    for cookie in 0..100_000 {
        sockets.insert(cookie, socket(cookie));
    }
    // Those that stay are spread over all of it.
    for cookie in (0..100_000).filter(|cookie| cookie % 100 != 0) {
        sockets.remove(cookie);
    }
    check(&sockets);
    assert_eq!(sockets.len(), 1_000);
    assert!(sockets.places.capacity() <= 8_000, "{}", sockets.places.capacity());
    assert!(sockets.due.capacity() <= 4_000, "{}", sockets.due.capacity());
    assert!(sockets.kept.chunks() <= 2, "{}", sockets.kept.chunks());
}

#[test]
fn sockets_that_come_and_go_need_no_more_memory() {
    let mut sockets = Sockets::new(false);
    let room = |sockets: &Sockets| (sockets.due.capacity(), sockets.kept.chunks());
    for cookie in 0..3_000 {
        sockets.insert(cookie, socket(cookie));
    }
    let before = room(&sockets);
    for cookie in 3_000..100_000 {
        sockets.remove(cookie - 3_000);
        sockets.insert(cookie, socket(cookie));
    }
    assert_eq!(room(&sockets), before);
    assert!(sockets.places.capacity() <= 4 * 3_000, "{}", sockets.places.capacity());
    check(&sockets);
}

#[test]
fn a_single_one_that_comes_and_goes_needs_no_new_memory() {
    let mut sockets = Sockets::new(false);
    let mut room = Vec::new();
    for cookie in 0..100 {
        sockets.insert(cookie, socket(cookie));
        sockets.remove(cookie);
        room.push((sockets.due.capacity(), sockets.kept.chunks(), sockets.places.capacity() > 0));
    }
    room.dedup();
    assert_eq!(room.len(), 1, "{room:?}");
    assert!(room[0].0 > 0 && room[0].1 == 1 && room[0].2, "{room:?}");
}
