//! The tracked sockets by cookie, with their deadlines, openers and progress.

use indexmap::map::Entry;

use super::{
    capacity::{growth, shrunk},
    deadline_heap::DeadlineHeap,
    opener_pool::OpenerPool,
    slot::{NOT_IN_HEAP, Slot, Slots},
};
use crate::engine::{
    state_change::Origin,
    tracker::{
        lives::progress::ConnectionProgress,
        socket::{NEVER, Socket},
    },
};

/// The capacity that stays.
const MIN_CAPACITY: usize = 1024;

/// All tracked sockets.
#[derive(Debug, Default)]
pub(crate) struct SocketTable {
    slots: Slots,
    /// The progress of each connection, at the index of its slot, if connections are followed to
    /// their end.
    progress: Option<Vec<ConnectionProgress>>,
    deadlines: DeadlineHeap,
    openers: OpenerPool,
}

impl SocketTable {
    /// Makes an empty table. `with_progress`: whether it holds the progress of each connection.
    pub(crate) fn new(with_progress: bool) -> Self {
        Self { progress: with_progress.then(Vec::new), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, cookie: u64) -> Option<&Socket> {
        self.slots.get(&cookie).map(|slot| &slot.socket)
    }

    /// Returns a socket and the task that opened it.
    pub(crate) fn get_with_origin(&self, cookie: u64) -> Option<(Socket, Option<Origin>)> {
        self.slots.get(&cookie).map(|slot| (slot.socket, slot.origin()))
    }

    /// Returns the task that opened a socket, and when.
    pub(crate) fn origin_of(&self, cookie: u64) -> Option<Origin> {
        self.slots.get(&cookie)?.origin()
    }

    /// Sets the task that opened a socket, if the socket is tracked.
    pub(crate) fn set_origin(&mut self, cookie: u64, origin: Option<Origin>) {
        let Some(slot) = self.slots.get_mut(&cookie) else { return };
        let opener = origin.map(|origin| self.openers.share(origin.actor));
        if let Some(before) = std::mem::replace(&mut slot.opener, opener) {
            self.openers.release(before);
        }
        slot.opened_ns = origin.map_or(0, |origin| origin.at_ns);
    }

    /// Returns the progress of a connection; an empty one if none is held.
    pub(crate) fn progress_of(&self, cookie: u64) -> ConnectionProgress {
        let progress = self.progress.as_ref();
        progress.and_then(|all| Some(all[self.slots.get_index_of(&cookie)?])).unwrap_or_default()
    }

    pub(crate) fn progress_mut(&mut self, cookie: u64) -> Option<&mut ConnectionProgress> {
        let all = self.progress.as_mut()?;
        Some(&mut all[self.slots.get_index_of(&cookie)?])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.slots.iter().map(|(cookie, slot)| (*cookie, &slot.socket))
    }

    /// Inserts or replaces a socket. Returns the one before.
    pub(crate) fn insert(&mut self, cookie: u64, socket: Socket) -> Option<Socket> {
        let Self { slots, progress, deadlines, .. } = self;
        if slots.len() == slots.capacity() {
            slots.reserve_exact(growth(slots.len()));
        }
        match slots.entry(cookie) {
            Entry::Occupied(mut entry) => {
                let index = entry.index();
                let before = std::mem::replace(&mut entry.get_mut().socket, socket);
                if before.deadline_ns != socket.deadline_ns {
                    deadlines.update(index, slots);
                }
                Some(before)
            }
            Entry::Vacant(entry) => {
                let index = entry.index();
                entry.insert(Slot::new(socket));
                deadlines.update(index, slots);
                if let Some(progress) = progress {
                    if progress.len() == progress.capacity() {
                        progress.reserve_exact(growth(progress.len()));
                    }
                    progress.push(ConnectionProgress::default());
                }
                None
            }
        }
    }

    /// Removes a socket and returns it.
    pub(crate) fn remove(&mut self, cookie: u64) -> Option<Socket> {
        let Self { slots, progress, deadlines, openers } = self;
        let index = slots.get_index_of(&cookie)?;
        deadlines.remove(index, slots);
        let (_, Slot { socket, opener, .. }) = slots.swap_remove_index(index)?;
        if index < slots.len() {
            deadlines.update_index(index, slots);
        }
        if let Some(capacity) = shrunk(slots.len(), slots.capacity(), MIN_CAPACITY) {
            slots.shrink_to(capacity);
        }
        if let Some(opener) = opener {
            openers.release(opener);
        }
        if let Some(progress) = progress {
            progress.swap_remove(index);
            if let Some(capacity) = shrunk(progress.len(), progress.capacity(), MIN_CAPACITY) {
                progress.shrink_to(capacity);
            }
        }
        Some(socket)
    }

    /// Returns the earliest deadline and whose it is: `(deadline_ns, cookie)`.
    pub(crate) fn next_deadline(&self) -> Option<(u64, u64)> {
        let (cookie, slot) = self.slots.get_index(self.deadlines.first()?)?;
        Some((slot.socket.deadline_ns, *cookie))
    }

    /// Returns the sockets whose deadline is not after `now_ns`, in no order.
    pub(crate) fn due_by(&self, now_ns: u64) -> impl Iterator<Item = (u64, &Socket)> {
        let indices = self.deadlines.due_by(now_ns).into_iter();
        indices.filter_map(|index| self.slots.get_index(index)).map(|(cookie, slot)| (*cookie, &slot.socket))
    }

    /// Removes all deadlines.
    pub(crate) fn clear_deadlines(&mut self) {
        for index in self.deadlines.take_all() {
            let slot = &mut self.slots[index];
            (slot.socket.deadline_ns, slot.heap_position) = (NEVER, NOT_IN_HEAP);
        }
    }
}

/// A socket takes this with its cookie and hash, 10 to 20 bytes of the index, 8 to 16 more if it
/// has a deadline, and its part of the task that opened it.
const _: () = assert!(size_of::<Slot>() <= 104 && size_of::<ConnectionProgress>() <= 48);

#[cfg(test)]
mod tests;
