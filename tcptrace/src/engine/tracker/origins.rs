//! The tasks that live sockets came from: each is kept once, however many sockets it has opened.
//!
//! A task takes more room than a socket's two ends, and a process opens most of its sockets in a few threads. Memory is
//! that of the tasks whose sockets live; room for as many as there were at the same time stays until none does.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use crate::engine::{
    state_change::Actor,
    tracker::{
        places::shrinks,
        sockets::{at, place_of},
    },
};

/// The place of a task that is not known.
pub(crate) const NOBODY: u32 = u32::MAX;

/// Room for so many stays.
const SMALL: usize = 64;

/// A task, and how many sockets came from it; 0 where the place is free.
#[derive(Debug)]
struct Opener {
    task: Actor,
    sockets: u32,
}

/// All of them, each in a place that it keeps.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    openers: Vec<Opener>,
    free: Vec<u32>,
    /// The place of each, by what it is.
    places: HashTable<u32>,
    /// Keyed: processes choose their names, and must not choose where in the table those are.
    hasher: DefaultHashBuilder,
}

impl Origins {
    /// The task in a place; `None` for [`NOBODY`].
    pub(crate) fn get(&self, place: u32) -> Option<Actor> {
        self.openers.get(at(place)).map(|opener| opener.task)
    }

    /// Counts a socket that came from this task. Returns the task's place.
    pub(crate) fn enter(&mut self, task: Actor) -> u32 {
        let Self { openers, free, places, hasher } = self;
        let same = |place: &u32| openers[at(*place)].task == task;
        let rehash = |place: &u32| hasher.hash_one(openers[at(*place)].task);
        let vacant = match places.entry(hasher.hash_one(task), same, rehash) {
            Entry::Occupied(entry) => {
                let place = *entry.get();
                openers[at(place)].sockets += 1;
                return place;
            }
            Entry::Vacant(vacant) => vacant,
        };
        let opener = Opener { task, sockets: 1 };
        let place = free.pop().unwrap_or_else(|| place_of(openers.len()));
        match openers.get_mut(at(place)) {
            Some(unused) => *unused = opener,
            None => openers.push(opener),
        }
        vacant.insert(place);
        place
    }

    /// A socket that came from the task in this place, or from [`NOBODY`], is gone.
    pub(crate) fn leave(&mut self, place: u32) {
        let Self { openers, free, places, hasher } = self;
        let Some(opener) = openers.get_mut(at(place)) else { return };
        opener.sockets -= 1;
        if opener.sockets > 0 {
            return;
        }
        if let Ok(entry) = places.find_entry(hasher.hash_one(opener.task), |found| *found == place) {
            entry.remove();
        }
        free.push(place);
        if let Some(enough) = shrinks(places.len(), places.capacity(), SMALL) {
            places.shrink_to(enough, |place| hasher.hash_one(openers[at(*place)].task));
        }
        if places.is_empty() && openers.capacity() > SMALL {
            (self.openers, self.free) = (Vec::new(), Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    impl Origins {
        /// How many tasks are known, and how many there is room for.
        pub(in crate::engine::tracker) fn room(&self) -> (usize, usize) {
            (self.places.len(), self.openers.capacity())
        }

        /// How many sockets came from all of them.
        pub(in crate::engine::tracker) fn sockets(&self) -> u32 {
            self.openers.iter().map(|opener| opener.sockets).sum()
        }
    }

    fn task(tid: u32) -> Actor {
        Actor { pid: 1, tid, uid: 0, comm: None, thread_comm: [0; 16] }
    }

    proptest! {
        #[test]
        fn each_is_kept_once_and_in_its_place(steps in proptest::collection::vec((any::<bool>(), 0..200_u32), 0..600)) {
            let (mut origins, mut model) = (Origins::default(), HashMap::<u32, (u32, usize)>::new());
            for (enters, tid) in steps {
                if enters {
                    let place = origins.enter(task(tid));
                    let (known, sockets) = model.entry(tid).or_insert((place, 0));
                    prop_assert_eq!(*known, place);
                    *sockets += 1;
                } else if let Some((place, sockets)) = model.get_mut(&tid) {
                    origins.leave(*place);
                    *sockets -= 1;
                    if *sockets == 0 {
                        model.remove(&tid);
                    }
                }
                prop_assert_eq!(origins.room().0, model.len());
            }
            for (tid, (place, sockets)) in model {
                prop_assert_eq!(origins.get(place), Some(task(tid)));
                (0..sockets).for_each(|_| origins.leave(place));
            }
            let (known, room) = origins.room();
            prop_assert!(known == 0 && room <= SMALL, "{known} {room}");
        }
    }

    #[test]
    fn nobody_is_no_task() {
        let mut origins = Origins::default();
        let place = origins.enter(task(1));
        origins.leave(NOBODY);
        assert_eq!((origins.get(NOBODY), origins.get(place)), (None, Some(task(1))));
    }
}
