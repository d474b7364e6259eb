//! A heap of the sockets that have a deadline, the earliest first.
//!
//! An entry has the index of its slot, and each slot has its entry's position in the heap, so
//! that a socket without a deadline leaves at once: the heap has no stale entries. Most sockets
//! come with a later deadline than all before, and leave from among the last, so that hardly
//! anything moves. An entry repeats the deadline, because four children then share one line of
//! the processor's cache.

use std::cmp::Ordering;

use super::{
    capacity::shrunk,
    slot::{NOT_IN_HEAP, Slots},
};
use crate::engine::tracker::socket::NEVER;

/// The capacity that stays.
const MIN_CAPACITY: usize = 1024;

/// Children of an entry. Four make the heap flatter than two: most entries are leaves.
const ARITY: usize = 4;

/// The slots that have a deadline. That of each is no earlier than that of its parent.
#[derive(Debug, Default)]
pub(super) struct DeadlineHeap {
    entries: Vec<DeadlineEntry>,
}

/// A slot and the deadline of its socket, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug)]
struct DeadlineEntry {
    deadline_ns: u64,
    index: usize,
}

impl DeadlineEntry {
    /// Compares by deadline; if it is the same, by cookie.
    fn compare(&self, other: &Self, slots: &Slots) -> Ordering {
        let cookie = |entry: &Self| slots.get_index(entry.index).map(|(cookie, _)| *cookie);
        self.deadline_ns.cmp(&other.deadline_ns).then_with(|| cookie(self).cmp(&cookie(other)))
    }
}

impl DeadlineHeap {
    /// Returns the index of the slot with the earliest deadline; of several with the same one,
    /// that with the lowest cookie.
    pub(super) fn first(&self) -> Option<usize> {
        self.entries.first().map(|entry| entry.index)
    }

    /// Returns the indices of the slots whose deadline is not after `now_ns`, in no order. Looks
    /// at no others but their children.
    pub(super) fn due_by(&self, now_ns: u64) -> Vec<usize> {
        let (mut due, mut positions) = (Vec::new(), vec![0]);
        while let Some(position) = positions.pop() {
            if let Some(entry) = self.entries.get(position)
                && entry.deadline_ns <= now_ns
            {
                due.push(entry.index);
                positions.extend(children(position));
            }
        }
        due
    }

    /// Inserts, moves or removes a slot whose deadline has changed.
    pub(super) fn update(&mut self, index: usize, slots: &mut Slots) {
        let slot = &slots[index];
        let (position, deadline_ns) = (slot.heap_position, slot.socket.deadline_ns);
        match (self.entries.get_mut(position), deadline_ns) {
            (None, NEVER) => {}
            (Some(_), NEVER) => self.remove(index, slots),
            (None, _) => {
                self.entries.push(DeadlineEntry { deadline_ns, index });
                self.sift(self.entries.len() - 1, slots);
            }
            (Some(entry), _) => {
                entry.deadline_ns = deadline_ns;
                self.sift(position, slots);
            }
        }
    }

    /// Notes the new index of a slot that took the place of a removed one.
    pub(super) fn update_index(&mut self, index: usize, slots: &Slots) {
        if let Some(entry) = self.entries.get_mut(slots[index].heap_position) {
            entry.index = index;
        }
    }

    /// Removes all entries and returns the indices of their slots.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = usize> + use<> {
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.index)
    }

    /// Removes a slot, if it has an entry.
    pub(super) fn remove(&mut self, index: usize, slots: &mut Slots) {
        let position = std::mem::replace(&mut slots[index].heap_position, NOT_IN_HEAP);
        if position == NOT_IN_HEAP {
            return;
        }
        self.entries.swap_remove(position);
        if position < self.entries.len() {
            self.sift(position, slots);
        }
        if let Some(capacity) = shrunk(self.entries.len(), self.entries.capacity(), MIN_CAPACITY) {
            self.entries.shrink_to(capacity);
        }
    }

    /// Moves an entry up or down to where it belongs.
    fn sift(&mut self, mut position: usize, slots: &mut Slots) {
        let entry = self.entries[position];
        while position > 0 {
            let parent = self.entries[(position - 1) / ARITY];
            if parent.compare(&entry, slots).is_le() {
                break;
            }
            self.set_entry(position, parent, slots);
            position = (position - 1) / ARITY;
        }
        while let Some(first) = self.first_child(position, slots)
            && self.entries[first].compare(&entry, slots).is_lt()
        {
            self.set_entry(position, self.entries[first], slots);
            position = first;
        }
        self.set_entry(position, entry, slots);
    }

    /// Returns the position of the child with the earliest deadline.
    fn first_child(&self, position: usize, slots: &Slots) -> Option<usize> {
        let within = children(position).filter(|child| *child < self.entries.len());
        within.min_by(|one, other| self.entries[*one].compare(&self.entries[*other], slots))
    }

    fn set_entry(&mut self, position: usize, entry: DeadlineEntry, slots: &mut Slots) {
        self.entries[position] = entry;
        slots[entry.index].heap_position = position;
    }
}

/// The positions below one.
fn children(position: usize) -> std::ops::RangeInclusive<usize> {
    ARITY * position + 1..=ARITY * position + ARITY
}

/// For the tests of the table.
#[cfg(test)]
impl DeadlineHeap {
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(super) fn index_at(&self, position: usize) -> usize {
        self.entries[position].index
    }
}
