//! Where each socket is in the list of them: a hash table in parts.
//!
//! A table that is full looks at every socket to make a larger one. Of a million that takes a fifth of a second, during which
//! nothing is read from the ring; a part does so by itself, in some milliseconds.

use std::hash::BuildHasher as _;

use hashbrown::{HashTable, hash_table::Entry};
use rustc_hash::FxBuildHasher;

/// How many parts there are.
const PARTS: usize = 64;

/// A part of so many shrinks no more.
const SMALL: usize = 16;

/// The place of each socket, by its cookie. Which socket is at a place, its user says.
#[derive(Debug)]
pub(crate) struct Places {
    parts: [HashTable<u32>; PARTS],
}

impl Default for Places {
    fn default() -> Self {
        Self { parts: [const { HashTable::new() }; PARTS] }
    }
}

impl Places {
    pub(crate) fn find(&self, cookie: u64, cookie_at: impl Fn(u32) -> u64) -> Option<u32> {
        let hash = hash(cookie);
        self.parts[part(hash)].find(hash, |place| cookie_at(*place) == cookie).copied()
    }

    /// Where the socket is, or else puts it at the place `new`.
    pub(crate) fn find_or_insert(
        &mut self,
        cookie: u64,
        new: u32,
        cookie_at: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let hashed = hash(cookie);
        let same = |place: &u32| cookie_at(*place) == cookie;
        match self.parts[part(hashed)].entry(hashed, same, |place| hash(cookie_at(*place))) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(new);
                None
            }
        }
    }

    /// Forgets a socket; returns where it was.
    pub(crate) fn remove(&mut self, cookie: u64, cookie_at: impl Fn(u32) -> u64) -> Option<u32> {
        let hashed = hash(cookie);
        let part = &mut self.parts[part(hashed)];
        let (place, _) = part.find_entry(hashed, |place| cookie_at(*place) == cookie).ok()?.remove();
        if let Some(enough) = shrinks(part.len(), part.capacity(), SMALL) {
            part.shrink_to(enough, |place| hash(cookie_at(*place)));
        }
        Some(place)
    }

    /// The socket at the place `from` is at `to` from now on.
    pub(crate) fn moved(&mut self, cookie: u64, from: u32, to: u32) {
        let hash = hash(cookie);
        if let Some(place) = self.parts[part(hash)].find_mut(hash, |place| *place == from) {
            *place = to;
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.parts.iter().map(HashTable::capacity).sum()
    }
}

/// To how many something is to shrink that has room for so many, more than `small`: so late, and by so much, that it is
/// seldom. What is small stays, so that a few sockets that come and go cost no allocation.
pub(crate) fn shrinks(len: usize, capacity: usize, small: usize) -> Option<usize> {
    (capacity > small && len < capacity / 4).then_some(2 * len)
}

fn hash(cookie: u64) -> u64 {
    FxBuildHasher.hash_one(cookie)
}

/// By bits that the table itself makes nothing of: it takes the lowest and the highest.
const fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}
