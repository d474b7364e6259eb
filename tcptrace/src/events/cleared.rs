//! The record `cleared`.

use crate::events::{Ending, Owner, SocketId, State, fields::record};

record! {
    /// A socket that was reported stuck has left the state.
    pub struct Cleared {
        ..socket: SocketId,
        /// The state it was stuck in.
        pub state: State,
        /// The state it left for.
        pub new_state: State,
        /// How long it was in `state`, milliseconds; at least this long if it was not seen
        /// entering the state.
        pub in_state_ms: f64,
        /// The process that closed it; null unless `how` is `closed` or `exited`.
        pub by: Option<Owner>,
        /// How it left the state.
        pub how: Ending,
    }
}
