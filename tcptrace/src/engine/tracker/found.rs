//! What a walk of all sockets found and no transition has told. A replay reads it from the `found`
//! records.

use rustc_hash::FxHashMap;
use tcptrace_common::state;

use crate::engine::{
    age::Since,
    tracker::{Tracker, finding::Found, socket::Socket},
};

impl Tracker {
    /// Returns the tracked sockets in one of `states` (a mask), each with its state.
    pub fn states_among(&self, states: u32) -> FxHashMap<u64, u8> {
        let among = self.sockets.iter().filter(|(_, socket)| states & state::bit(socket.state) != 0);
        among.map(|(cookie, socket)| (cookie, socket.state)).collect()
    }

    /// Returns the sockets that a walk found in one of `states` (a mask), or no longer in their
    /// state of `before`, without a transition that told it. `gone`: the sockets that the walk did
    /// not see any more. `walked_ns`: when it began.
    pub fn found_since(
        &self,
        states: u32,
        before: &FxHashMap<u64, u8>,
        gone: &[(u64, Socket)],
        walked_ns: u64,
    ) -> Vec<Found> {
        let is_asked_for = |state: u8| states & state::bit(state) != 0;
        let is_new = |(cookie, socket): &(u64, &Socket)| {
            let state_before = before.get(cookie);
            // A transition has told it if it was seen entering its state.
            socket.since.exact_ns().is_none()
                && state_before != Some(&socket.state)
                && (state_before.is_some() || is_asked_for(socket.state))
        };
        let open = self.sockets.iter().filter(is_new).map(|(cookie, socket)| Found {
            cookie,
            socket: *socket,
            origin: self.sockets.origin_of(cookie),
            seen_ns: socket.last_seen_ns,
            is_reminder: false,
        });
        let gone = gone.iter().filter(|(_, socket)| is_asked_for(socket.state)).map(|(cookie, socket)| {
            let since = Since::between(Some(socket.last_seen_ns), walked_ns);
            Found {
                cookie: *cookie,
                socket: Socket { state: state::CLOSE, since, ..*socket },
                origin: None,
                seen_ns: walked_ns,
                is_reminder: false,
            }
        });
        let mut found: Vec<_> = open.chain(gone).collect();
        found.sort_unstable_by_key(|found| (found.seen_ns, found.cookie));
        found
    }
}
