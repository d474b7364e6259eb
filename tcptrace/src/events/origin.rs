//! Where a socket came from.

use serde::{Deserialize, Serialize};
use tcptrace_common::OpenCall;

use crate::events::{
    Instant, Name,
    instant::{rfc3339, wall_time},
};

/// The thread that brought a socket into its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OriginRecord {
    /// The process (thread group), as the host's pid namespace numbers it.
    pub pid: u32,
    /// The thread, as the host's pid namespace numbers it.
    pub tid: u32,
    /// The thread's name.
    pub comm: Name,
    /// The system call that it made.
    pub how: OriginHow,
    /// When the thread made the call.
    #[serde(serialize_with = "rfc3339", deserialize_with = "wall_time")]
    pub time: Instant,
}

/// The system call that brings a socket into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OriginHow {
    /// The thread called connect(2).
    Connect,
    /// The thread called accept(2).
    Accept,
    /// The thread called listen(2).
    Listen,
}

impl OriginHow {
    /// Converts the kernel record's value.
    pub const fn of(call: OpenCall) -> Option<Self> {
        match call {
            OpenCall::CONNECT => Some(Self::Connect),
            OpenCall::ACCEPT => Some(Self::Accept),
            OpenCall::LISTEN => Some(Self::Listen),
            _ => None,
        }
    }
}
