//! What a look at all sockets found and no transition has told: for who reads transitions alone, such as a replay.

use rustc_hash::FxHashMap;
use tcptrace_common::state;

use crate::engine::{
    state_change::Origin,
    tracker::{NEVER, Since, Socket, Tracker},
};

/// How a look at sockets found one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub cookie: u64,
    /// As it is; in CLOSE where it is gone.
    pub socket: Socket,
    /// Where it came from, as far as that was seen.
    pub origin: Option<Origin>,
    /// When it was seen so, `CLOCK_MONOTONIC` nanoseconds.
    pub seen_ns: u64,
    /// Whether it was found stuck in this state before: this one only repeats that.
    pub is_reminder: bool,
}

impl Tracker {
    /// The sockets that are thought to be in one of these states, and in which.
    pub fn states_among(&self, states: u32) -> FxHashMap<u64, u8> {
        let among = self.sockets.iter().filter(|(_, socket)| states & state::bit(socket.state) != 0);
        among.map(|(cookie, socket)| (cookie, socket.state)).collect()
    }

    /// What a walk that began then has brought to light about these states: which sockets are in one of them, or no longer
    /// in that of `before`, without a transition that told so. `gone`: the sockets that it has not seen any more.
    pub fn found_since(
        &self,
        states: u32,
        before: &FxHashMap<u64, u8>,
        gone: &[(u64, Socket)],
        walked_ns: u64,
    ) -> Vec<Found> {
        let is_meant = |state: u8| states & state::bit(state) != 0;
        let is_news = |(cookie, socket): &(u64, &Socket)| {
            let was = before.get(cookie);
            // What was seen entering its state has been told.
            socket.since.exact_ns().is_none()
                && was != Some(&socket.state)
                && (was.is_some() || is_meant(socket.state))
        };
        let there = self.sockets.iter().filter(is_news);
        let there = there.map(|(cookie, socket)| {
            let origin = self.sockets.origin(cookie);
            Found { cookie, socket: *socket, origin, seen_ns: socket.last_seen_ns, is_reminder: false }
        });
        let gone = gone.iter().filter(|(_, socket)| is_meant(socket.state)).map(|(cookie, socket)| {
            let since = Since::between(Some(socket.last_seen_ns), walked_ns);
            Found {
                cookie: *cookie,
                socket: Socket { state: state::CLOSE, since, ..*socket },
                origin: None,
                seen_ns: walked_ns,
                is_reminder: false,
            }
        });
        let mut found: Vec<_> = there.chain(gone).collect();
        found.sort_unstable_by_key(|found| (found.seen_ns, found.cookie));
        found
    }

    /// What was in doubt has been looked at, and what was wrong has been put right: judges all again.
    pub fn resume_deadlines(&mut self, now_ns: u64) {
        let quiet = self.sockets.iter().filter(|(_, socket)| socket.deadline_ns == NEVER);
        let quiet: Vec<_> = quiet.map(|(cookie, socket)| (cookie, *socket)).collect();
        for (cookie, socket) in quiet {
            let again = self.policy.remind_ns.filter(|_| socket.is_reported);
            let deadline_ns = again.map_or(NEVER, |remind| now_ns.saturating_add(remind));
            self.put(cookie, Socket { deadline_ns, ..socket });
        }
    }
}
