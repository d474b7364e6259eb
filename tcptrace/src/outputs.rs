//! Where events go: each form in a folder of its own.
//!
//! To add one: implement [`Output`] in a new folder, and add it to the [`publisher`] in `main.rs`.

pub mod dotted;
pub mod json;
pub mod prometheus;
pub mod publisher;
pub mod stream;
pub mod text;
pub mod timestamp_cache;
pub mod writer;

use std::{
    future::{Future, pending},
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    events::{Figures, Record},
    outputs::writer::WriteEnd,
};

/// One form in which events are shown. Times are `CLOCK_MONOTONIC`, nanoseconds.
///
/// An output decides what it drops where it cannot keep up. Whatever may block does so in a
/// thread of the output's own.
pub trait Output {
    /// Takes a record. Returns whether it is shown: not if it was dropped, or held back.
    fn publish(&mut self, record: Record) -> bool;

    /// Shows what has waited long enough by now.
    fn flush(&mut self, _now_ns: u64) {}

    /// Shows what has become much, or has waited long enough, and waits until there is room for
    /// more: for sources that can wait.
    fn flush_and_wait(&mut self, _now_ns: u64) {}

    /// Shows the roll-ups that were just published, together with what waits beside them.
    fn settle_roll_ups(&mut self, _now_ns: u64) {}

    /// Shows all, whether or not more of its kind may follow.
    fn flush_all(&mut self) {}

    /// When [`Self::flush`] is to be called next; `None` if nothing waits.
    fn flush_due_ns(&self) -> Option<u64> {
        None
    }

    /// Before this time roll-ups come too early: lines about their sockets still wait.
    fn ready_ns(&self) -> u64 {
        0
    }

    /// How many records were dropped.
    fn dropped(&self) -> u64 {
        0
    }

    /// Whether showing has ended before its time: its reader has gone, or writing failed.
    fn has_ended(&self) -> bool {
        false
    }

    /// Waits until that is so.
    fn ended(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(pending())
    }

    /// The file that a reader has to take records from, to see when it has gone.
    fn reader(&self) -> Option<&OwnedFd> {
        None
    }

    /// Opens its file again, between two records (log rotation).
    fn reopen(&self) {}

    /// Ready when somebody wants the figures of the moment: [`Self::show_figures`] is called next.
    fn poll_figures_wanted(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Shows the figures of the moment to whoever wanted them.
    fn show_figures(&mut self, _figures: &Figures) {}

    /// Delivers what is left, and says how that ended; `None` if there was nothing to deliver to.
    fn finish(self: Box<Self>) -> Option<WriteEnd> {
        None
    }
}
