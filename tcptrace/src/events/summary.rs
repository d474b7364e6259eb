//! The record `summary`.

use serde::{Deserialize, Serialize};

/// The totals of a run: its last record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// Transitions that reached the tracker.
    pub transitions: u64,
    /// Transitions that did not: `ring_full` and `skipped` together.
    pub lost: u64,
    /// Of these, transitions for which the kernel did not run the program; for all others the ring
    /// had no room.
    #[serde(skip)]
    pub skipped: u64,
    /// Records not written because the reader was too slow.
    pub dropped: u64,
    /// Records of the views that the filters kept back.
    pub filtered: u64,
    /// Sockets that were reported stuck; a reminder does not count again.
    pub stuck: u64,
    /// The number of `cleared` records.
    pub cleared: u64,
    /// The number of `life` records.
    pub lives: u64,
    /// The number of `resync` records.
    pub resyncs: u64,
    /// How long the run was, milliseconds.
    pub duration_ms: f64,
}
