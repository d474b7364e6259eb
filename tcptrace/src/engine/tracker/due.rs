//! Which socket is to be judged next: a heap of the places of those that are to be judged at all.
//!
//! Each socket knows where in the heap it is, so that one that is no longer due leaves at once: the first one is always
//! the true one, and the heap has no more entries than there are sockets to judge. Most come with a later time than all
//! before, and go from anywhere among the last, so that hardly anything moves.

use crate::engine::tracker::{
    NEVER,
    dense::Dense,
    places::shrinks,
    sockets::{Kept, at, place_of},
};

/// [`Kept::due_at`] of a socket that is not in the heap.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// A heap of so many shrinks no more.
const SMALL: usize = 1024;

/// Flatter than a binary heap: three of four entries have none below them.
const CHILDREN: usize = 4;

/// The places of sockets, each due no earlier than the one above it.
#[derive(Debug, Default)]
pub(crate) struct Due {
    heap: Vec<u32>,
}

impl Due {
    /// The place of the one that is due first; of several at the same time the one with the lowest cookie.
    pub(crate) fn first(&self) -> Option<usize> {
        self.heap.first().copied().map(at)
    }

    /// The places of those that are due by then. Looks at none of the others but those right below.
    pub(crate) fn by(&self, now_ns: u64, kept: &Dense<Kept>) -> Vec<usize> {
        let (mut due, mut next) = (Vec::new(), vec![0]);
        while let Some(index) = next.pop() {
            let Some(place) = self.heap.get(index).copied().map(at) else { continue };
            if kept[place].socket.deadline_ns <= now_ns {
                due.push(place);
                next.extend(CHILDREN * index + 1..=CHILDREN * index + CHILDREN);
            }
        }
        due
    }

    /// Puts a socket where it belongs after its `deadline_ns` has changed: in, elsewhere, or out.
    pub(crate) fn settle(&mut self, place: usize, kept: &mut Dense<Kept>) {
        let Kept { due_at, socket, .. } = &kept[place];
        match (*due_at, socket.deadline_ns) {
            (NOWHERE, NEVER) => {}
            (NOWHERE, _) => {
                self.heap.push(place_of(place));
                self.sift(self.heap.len() - 1, kept);
            }
            (_, NEVER) => self.remove(place, kept),
            (due_at, _) => self.sift(at(due_at), kept),
        }
    }

    /// The socket that was in another place is now here.
    pub(crate) fn moved(&mut self, place: usize, kept: &Dense<Kept>) {
        if let Some(entry) = self.heap.get_mut(at(kept[place].due_at)) {
            *entry = place_of(place);
        }
    }

    /// Takes out all. Returns their places.
    pub(crate) fn clear(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.heap)
    }

    /// Takes out a socket, if it is in.
    pub(crate) fn remove(&mut self, place: usize, kept: &mut Dense<Kept>) {
        let due_at = std::mem::replace(&mut kept[place].due_at, NOWHERE);
        if due_at == NOWHERE {
            return;
        }
        let index = at(due_at);
        self.heap.swap_remove(index);
        if index < self.heap.len() {
            self.sift(index, kept);
        }
        if let Some(enough) = shrinks(self.heap.len(), self.heap.capacity(), SMALL) {
            self.heap.shrink_to(enough);
        }
    }

    /// Moves an entry up or down to where it belongs, and notes with each socket that moves where it is.
    fn sift(&mut self, mut index: usize, kept: &mut Dense<Kept>) {
        let entry = self.heap[index];
        let key = |entry: u32, kept: &Dense<Kept>| {
            let Kept { cookie, socket, .. } = &kept[at(entry)];
            (socket.deadline_ns, *cookie)
        };
        let own = key(entry, kept);
        while index > 0 {
            let above = (index - 1) / CHILDREN;
            if key(self.heap[above], kept) <= own {
                break;
            }
            self.set(index, self.heap[above], kept);
            index = above;
        }
        loop {
            let below = CHILDREN * index + 1;
            let below = below..(below + CHILDREN).min(self.heap.len());
            let Some(first) = below.min_by_key(|child| key(self.heap[*child], kept)) else { break };
            if own <= key(self.heap[first], kept) {
                break;
            }
            self.set(index, self.heap[first], kept);
            index = first;
        }
        self.set(index, entry, kept);
    }

    fn set(&mut self, index: usize, entry: u32, kept: &mut Dense<Kept>) {
        self.heap[index] = entry;
        kept[at(entry)].due_at = place_of(index);
    }
}

/// For tests of [`super::sockets`].
#[cfg(test)]
impl Due {
    pub(crate) const fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.heap.capacity()
    }

    pub(crate) fn place_at(&self, index: usize) -> usize {
        at(self.heap[index])
    }
}
