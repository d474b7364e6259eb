//! The record `resync`.

use serde::{Deserialize, Serialize};

/// All sockets were looked at again after a loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resync {
    /// How many sockets were looked at.
    pub sockets: usize,
    /// How many of them were unknown, or not in the state they were thought to be in.
    pub repaired: usize,
    /// How many of them `found` records report, before this one, but for those that a filter keeps
    /// back; null without `--transitions`.
    pub found: Option<u64>,
}
