//! The place of one socket in the table.

use std::rc::Rc;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::engine::{
    state_change::{Actor, Origin},
    tracker::socket::Socket,
};

/// All slots by cookie. A cookie is the kernel's count of sockets: nobody can choose it, so that a
/// fast hash without a key is enough.
pub(super) type Slots = IndexMap<u64, Slot, FxBuildHasher>;

/// [`Slot::heap_position`] of a socket without a deadline.
pub(super) const NOT_IN_HEAP: usize = usize::MAX;

/// A socket, and what the containers know of it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: Socket,
    /// When it was opened, `CLOCK_MONOTONIC` nanoseconds; 0 if no opener is known.
    pub(super) opened_ns: u64,
    /// The task that opened it, from the pool.
    pub(super) opener: Option<Rc<Actor>>,
    /// Its position in the heap of deadlines, or [`NOT_IN_HEAP`].
    pub(super) heap_position: usize,
}

impl Slot {
    /// Makes the slot of a socket without an opener that is not in the heap.
    pub(super) const fn new(socket: Socket) -> Self {
        Self { socket, opened_ns: 0, opener: None, heap_position: NOT_IN_HEAP }
    }

    /// The task that opened the socket, and when.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.opener.as_deref().map(|actor| Origin { actor: *actor, at_ns: self.opened_ns })
    }
}
