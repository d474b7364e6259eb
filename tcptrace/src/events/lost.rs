//! The record `lost`.

use serde::{Deserialize, Serialize};

/// Transitions or records were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LostReason {
    /// Transitions for which the ring buffer had no room, because the host was busier than
    /// tcptrace. A `resync` follows.
    RingFull,
    /// Transitions for which the kernel did not run the program, because it was running on that
    /// CPU already. A `resync` follows.
    Skipped,
    /// Records that were made and not written, because nobody read stdout: `transition`, `life`,
    /// `found`, `resync`, and a `stuck` that only repeats one (`--remind`). Other `lost` records
    /// with the same reason become one meanwhile, and of the `process` records of a process the
    /// last is kept.
    ReaderSlow,
}
