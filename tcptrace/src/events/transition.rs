//! The record `transition`.

use crate::events::{Ending, Owner, OwnerHow, SocketId, State, fields::record};

record! {
    /// A socket changed its state (`sock:inet_sock_set_state`).
    pub struct Transition {
        ..socket: SocketId,
        /// The state it left.
        pub old_state: State,
        /// The state it entered.
        pub new_state: State,
        /// Whether the socket is gone: the new state is that of the timewait socket that replaces
        /// it, which no process holds (`fentry/tcp_time_wait`).
        pub stand_in: bool,
        /// How long it was in the old state, milliseconds; null if it was not seen entering that
        /// state.
        pub in_old_state_ms: Option<f64>,
        /// The process that acted (`owner_how` is `close`, or `origin` for one that connects or
        /// listens), or else the one that connected the socket or, if `fentry/security_sock_graft`
        /// is in use, accepted it (`origin`). Null if neither is known, as before accept(2).
        pub owner: Option<Owner>,
        /// How `owner` is known.
        pub owner_how: OwnerHow,
        /// How it left the old state; null for a socket that is opening.
        pub how: Option<Ending>,
    }
}
