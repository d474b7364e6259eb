//! The tasks that opened live sockets, each held once however many sockets it has opened.

use std::rc::Rc;

use hashbrown::HashSet;

use super::capacity::shrunk;
use crate::engine::state_change::Actor;

/// The capacity that stays.
const MIN_CAPACITY: usize = 64;

/// The tasks that opened live sockets. Its hash has a key: processes choose their names, and must
/// not choose where in the set those are.
#[derive(Debug, Default)]
pub(super) struct OpenerPool {
    tasks: HashSet<Rc<Actor>>,
}

impl OpenerPool {
    /// Returns the shared copy of a task, for one more socket.
    pub(super) fn share(&mut self, task: Actor) -> Rc<Actor> {
        Rc::clone(self.tasks.get_or_insert_with(&task, |task| Rc::new(*task)))
    }

    /// Takes back what a socket shared. The last one of a task removes it.
    pub(super) fn release(&mut self, shared: Rc<Actor>) {
        // The other one is the pool's.
        let is_last = Rc::strong_count(&shared) == 2;
        if is_last {
            self.tasks.remove(&shared);
        }
        drop(shared);
        if let Some(capacity) = shrunk(self.tasks.len(), self.tasks.capacity(), MIN_CAPACITY) {
            self.tasks.shrink_to(capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    impl OpenerPool {
        /// How many tasks are held, and how many there is room for.
        pub(in crate::engine::tracker::containers) fn room(&self) -> (usize, usize) {
            (self.tasks.len(), self.tasks.capacity())
        }

        /// How many sockets share all of them.
        pub(in crate::engine::tracker::containers) fn sockets(&self) -> usize {
            self.tasks.iter().map(|task| Rc::strong_count(task) - 1).sum()
        }
    }

    fn task(tid: u32) -> Actor {
        Actor { pid: 1, tid, uid: 0, comm: None, thread_comm: [0; 16] }
    }

    proptest! {
        #[test]
        fn each_task_is_held_once_and_as_long_as_a_socket_shares_it(
            steps in proptest::collection::vec((any::<bool>(), 0..200_u32), 0..600),
        ) {
            let (mut pool, mut model) = (OpenerPool::default(), HashMap::<u32, Vec<Rc<Actor>>>::new());
            for (shares, tid) in steps {
                if shares {
                    let shared = pool.share(task(tid));
                    prop_assert_eq!(*shared, task(tid));
                    let same = model.entry(tid).or_default();
                    prop_assert!(same.iter().all(|other| Rc::ptr_eq(other, &shared)));
                    same.push(shared);
                } else if let Some(same) = model.get_mut(&tid) {
                    pool.release(same.pop().expect("at least one"));
                    if same.is_empty() {
                        model.remove(&tid);
                    }
                }
                prop_assert_eq!(pool.room().0, model.len());
                prop_assert_eq!(pool.sockets(), model.values().map(Vec::len).sum::<usize>());
            }
            for (_, same) in model {
                same.into_iter().for_each(|shared| pool.release(shared));
            }
            let (held, room) = pool.room();
            prop_assert!(held == 0 && room <= MIN_CAPACITY, "{held} {room}");
        }
    }
}
