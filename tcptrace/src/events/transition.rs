//! The record `transition`.

use serde::{Deserialize, Serialize};

use crate::events::{Ending, Owner, OwnerHow, SocketId, State};

/// A socket changed its state (`sock:inet_sock_set_state`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The socket.
    #[serde(flatten)]
    pub socket: SocketId,
    /// The state it left.
    pub old_state: State,
    /// The state it entered.
    pub new_state: State,
    /// Whether the socket is gone, and the new state is that of the kernel's timewait socket, which no process holds.
    pub stand_in: bool,
    /// How long it was in the old state, milliseconds; null if it was not seen entering that state.
    pub in_old_state_ms: Option<f64>,
    /// The process that acted, or else the one that connected or accepted the socket; null if neither is known.
    pub owner: Option<Owner>,
    /// How `owner` is known.
    pub owner_how: OwnerHow,
    /// How it left the old state; null for a socket that is opening.
    pub how: Option<Ending>,
}
