//! Processes that hold the same stuck sockets, such as the workers of a server that forks.

use crate::engine::processes::{ProcessId, Processes};

impl Processes {
    /// The first, by pid, of the processes that hold exactly the same stuck sockets as this one;
    /// `None` if no other does.
    pub fn first_sharer(&self, id: ProcessId) -> Option<ProcessId> {
        let stuck = &self.by_id.get(&id)?.stuck;
        let (_, cookie) = stuck.first()?;
        let holds_the_same =
            |other: &&ProcessId| self.by_id.get(other).is_some_and(|other| other.stuck == *stuck);
        let mut sharers = self.sockets.get(cookie)?.by.iter().filter(holds_the_same);
        let first = sharers.next()?;
        sharers.next().map(|_| *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::age::Since;

    #[test]
    fn processes_share_if_all_their_stuck_sockets_are_the_same() {
        let [parent, one, two, own] = [100, 101, 102, 103].map(|pid| ProcessId { pid, start_ticks: 1 });
        let mut rollup = Processes::new(0, 0);
        let mut hold = |cookie, by: &[ProcessId]| {
            rollup.add_stuck(cookie, Since::exact(cookie), cookie, by);
            [parent, one, two, own].map(|id| rollup.first_sharer(id))
        };
        assert_eq!(hold(1, &[two, one, parent]), [Some(parent), Some(parent), Some(parent), None]);
        assert_eq!(hold(2, &[own]), [Some(parent), Some(parent), Some(parent), None]);
        // One that holds more than the others shares with none.
        assert_eq!(hold(3, &[parent]), [None, Some(one), Some(one), None]);
        assert_eq!(hold(4, &[two]), [None, None, None, None]);
    }
}
