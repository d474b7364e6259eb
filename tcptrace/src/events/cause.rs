//! Why a stuck socket stays in its state.

use serde::{Deserialize, Serialize};

/// Why a stuck socket stays in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The socket is still in the accept queue: no process has called accept(2).
    NotAccepted,
    /// Bytes wait that the process has not read.
    DataUnread,
    /// Only the end of the stream waits to be read.
    EofUnread,
    /// The process has read everything; data that it wrote is unsent or not acknowledged.
    Sending,
    /// Nothing is left to read or to send: the process just keeps the socket open.
    NotClosed,
    /// The socket waits for the other end; not in CLOSE_WAIT.
    Peer,
    /// The cause is not known.
    Unknown,
}
