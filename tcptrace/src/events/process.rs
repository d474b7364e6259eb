//! The record `process`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::events::{Name, bounds};

/// The roll-up of the stuck sockets of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ProcessRecord {
    /// The process (thread group), as the host's pid namespace numbers it.
    pub pid: u32,
    /// Its name, as it was last known; null if it ended before it was looked at.
    pub comm: Option<Name>,
    /// What a person would call it, as `program` of an owner.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub program: Option<Arc<str>>,
    /// Its systemd unit, as `unit` of an owner.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub unit: Option<Arc<str>>,
    /// The id of its container, as `container` of an owner.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub container: Option<Arc<str>>,
    /// The uid of its pod, as `pod` of an owner.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub pod: Option<Arc<str>>,
    /// Sockets found stuck and not cleared that it holds, or does not accept.
    pub stuck: usize,
    /// How many of them are charged to other processes as well.
    pub shared: usize,
    /// Age of the oldest of them, milliseconds: at least this; null if there is none.
    pub oldest_ms: Option<f64>,
    /// Net growth of `stuck` per minute, now; below 0 if there are fewer; 0 until it has been
    /// watched for long enough.
    pub growth_per_min: f64,
    /// Open descriptors (`/proc/PID/fd`); null if they cannot be read, or the process has ended.
    pub fds_open: Option<u64>,
    /// How many descriptors it may have open (the soft limit in `/proc/PID/limits`); null if it
    /// cannot be read.
    pub fds_limit: Option<u64>,
    /// Net growth of `fds_open` per minute, now: of all descriptors, whatever they are; 0 until it
    /// has been watched for long enough; null if they cannot be read.
    pub fds_growth_per_min: Option<f64>,
    /// Seconds until its descriptors run out at that growth; 0 if they have, null if they do not
    /// grow.
    pub fds_full_in_s: Option<f64>,
    /// Whether it has ended.
    #[serde(skip)]
    pub ended: bool,
    /// Stopped by a signal or a debugger.
    #[serde(skip)]
    pub stopped: bool,
    /// Its CPU time since its last record, as a share of one CPU.
    #[serde(skip)]
    pub busy: Option<f64>,
    /// Whether it has been watched for long enough to know how `stuck` grows.
    #[serde(skip)]
    pub growth_is_known: bool,
    /// Whether it has been watched for long enough to know how `fds_open` grows.
    #[serde(skip)]
    pub fds_growth_is_known: bool,
    /// The first by pid of the processes that hold exactly the same stuck sockets; `None` if no
    /// other does.
    #[serde(skip)]
    pub shared_with: Option<u32>,
}
