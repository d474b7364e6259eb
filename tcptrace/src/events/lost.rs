//! The record `lost`.

use serde::{Deserialize, Serialize};

/// Transitions or records were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many since the last `lost` record with the same reason.
    pub lost: u64,
    /// How many in this run for this reason.
    pub lost_total: u64,
    /// Why they were lost.
    pub reason: LostReason,
}

/// Why transitions or records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostReason {
    /// Transitions for which the ring buffer had no room.
    RingFull,
    /// Transitions for which the kernel did not run the program.
    Skipped,
    /// Records that were not written because the reader of stdout was too slow.
    ReaderSlow,
}
