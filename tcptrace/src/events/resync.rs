//! The record `resync`.

use serde::{Deserialize, Serialize};

/// All sockets were looked at again after a loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// How many sockets were looked at.
    pub sockets: usize,
    /// How many of them were unknown, or not in the state they were thought to be in.
    pub repaired: usize,
    /// How many `found` records of this look came before this one; null if the stream has no such records.
    pub found: Option<u64>,
}
