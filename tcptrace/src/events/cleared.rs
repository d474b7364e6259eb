//! The record `cleared`.

use serde::{Deserialize, Serialize};

use crate::events::{Ending, Owner, SocketId, State};

/// A socket that was reported stuck has left the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cleared {
    /// The socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// The state it was stuck in.
    pub state: State,
    /// The state it left for.
    pub new_state: State,
    /// How long it was in `state`, milliseconds; at least this long if it was not seen entering
    /// the state.
    pub in_state_ms: f64,
    /// The process that closed it; null unless `how` is `closed` or `exited`.
    pub by: Option<Owner>,
    /// How it left the state.
    pub how: Ending,
}
