//! Where the engine's events go: the one thing that it knows of what comes after it.

use crate::events::Record;

/// Takes events as the engine emits them.
pub trait EventSink {
    /// Whether more records of the views are wanted (`--count`).
    fn is_open(&self) -> bool;

    /// Takes a record.
    fn publish(&mut self, record: Record);
}
