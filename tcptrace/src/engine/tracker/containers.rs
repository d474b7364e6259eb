//! Containers for a million sockets.
//!
//! # What is here
//!
//! - [`socket_table::SocketTable`] holds every tracked socket by its cookie. It is the only one
//!   that the tracker uses; the others are its parts.
//! - [`slot::Slots`] is an `IndexMap` from a cookie to a [`slot::Slot`]: the socket, the task that
//!   opened it, and its position in the heap. A slot's index changes when another slot is removed:
//!   the last one takes its place.
//! - [`deadline_heap::DeadlineHeap`] orders the slots by deadline. It stores indices, and each
//!   slot stores its position in the heap, so that a deadline changes or goes without a search.
//! - [`opener_pool::OpenerPool`] holds each task that opened a socket once. A task takes 44 bytes,
//!   and a process opens most of its sockets in a few threads.
//! - [`capacity`] decides when they grow and shrink.
//!
//! # What has to hold
//!
//! - **Memory follows the sockets there are.** After a storm of connections it is given back.
//!   Hence lists that grow by a sixteenth instead of doubling, and shrink when three quarters are
//!   free. A socket takes some 150 bytes, 200 if connections are followed to their end.
//! - **One transition costs the same with a thousand sockets and with a million**, but for the
//!   processor's cache misses. The longest pause is that of the table's index as it doubles: some
//!   45 ms at 917,504 sockets. The ring holds 29,000 transitions meanwhile.
//! - **The first deadline is always a true one.** A socket that has left its state is not in the
//!   heap, so that nothing wakes up for it.
//!
//! # Own code or a crate
//!
//! Measured by `benches/pipeline.rs` with a million sockets that enter and leave CLOSE_WAIT. Time:
//! that of one transition from ring to output, at least, as a multiple of what is here.
//!
//! | instead of the heap | time | bytes per socket |
//! | --- | --- | --- |
//! | `BTreeSet<(deadline, cookie)>` | 1.4 | 18 more |
//! | `keyed_priority_queue` 0.4 | 3.6 | 71 more |
//! | `priority-queue` 2.7 (MPL-2.0) | 3.9 | 77 more |
//!
//! `slab` in place of the `IndexMap` gives nothing back after a storm: a slot cannot move.

pub(super) mod capacity;
pub(super) mod deadline_heap;
pub(super) mod opener_pool;
pub(super) mod slot;
pub(super) mod socket_table;
