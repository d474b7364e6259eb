//! Gives transitions and rows of the same socket the same cookie, on kernels without BTF.
//!
//! There, the event identifies a socket by an id of ours, and sock_diag by its cookie. All they
//! share is the tuple: the two ends. Whichever comes first gives the socket its cookie. Two
//! sockets with the same tuple in two namespaces cannot be told apart; that is the limit of such
//! kernels.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{SocketRow, TransitionRecord, Tuple, state};

/// The cookies by which sockets go.
#[derive(Debug)]
pub(crate) struct CookieMap {
    /// The states (a mask) in which sockets are followed.
    followed: u32,
    /// The cookie for a tuple. Its interface is 0, because the event has none.
    by_tuple: FxHashMap<Tuple, u64>,
    /// The cookie for an id of the event.
    by_event: FxHashMap<u64, u64>,
    /// The cookies that the last walk did not see.
    unseen: FxHashSet<u64>,
}

impl CookieMap {
    /// Follows sockets in the states `followed` (a mask).
    pub(crate) fn new(followed: u32) -> Self {
        Self {
            followed,
            by_tuple: FxHashMap::default(),
            by_event: FxHashMap::default(),
            unseen: FxHashSet::default(),
        }
    }

    /// Gives a transition the cookie of its socket.
    pub(crate) fn resolve_transition(&mut self, transition: &mut TransitionRecord) {
        let TransitionRecord { cookie: event, tuple, new_state, .. } = *transition;
        let is_complete = tuple.local_port != 0;
        let tuple = Tuple { interface: 0, ..tuple };
        let by_tuple = &mut self.by_tuple;
        let cookie = *self.by_event.entry(event).or_insert_with(|| {
            let known = if is_complete { by_tuple.get(&tuple) } else { None };
            known.copied().unwrap_or(event)
        });
        if new_state == state::CLOSE || self.followed & state::bit(new_state) == 0 {
            self.by_event.remove(&event);
            if by_tuple.get(&tuple) == Some(&cookie) {
                by_tuple.remove(&tuple);
            }
        } else if is_complete {
            by_tuple.insert(tuple, cookie);
        }
        transition.cookie = cookie;
    }

    /// Gives the rows of a walk of all followed states the cookies of their sockets.
    ///
    /// Forgets the sockets that neither this walk nor the last one saw: when the last one missed
    /// them, their transitions may still have been in the ring. Forgets none unless the walk
    /// `is_complete`, which means that it left out no namespace.
    pub(crate) fn resolve_rows(&mut self, rows: &mut [SocketRow], is_complete: bool) {
        let mut seen = FxHashSet::default();
        for row in rows {
            let cookie = *self.by_tuple.entry(Tuple { interface: 0, ..row.tuple }).or_insert(row.cookie);
            if seen.insert(cookie) {
                row.cookie = cookie;
            }
        }
        if !is_complete {
            return;
        }
        let known = self.by_tuple.values().chain(self.by_event.values());
        let unseen: FxHashSet<u64> = known.filter(|cookie| !seen.contains(cookie)).copied().collect();
        let keep = |cookie: &u64| !(unseen.contains(cookie) && self.unseen.contains(cookie));
        self.by_tuple.retain(|_, cookie| keep(cookie));
        self.by_event.retain(|_, cookie| keep(cookie));
        self.unseen = unseen;
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use tcptrace_common::state::{CLOSE_WAIT, ESTABLISHED, LAST_ACK, SYN_SENT};

    use super::*;

    const EVENT: u64 = 0xfeed;
    const COOKIE: u64 = 17;

    fn tuple(local_port: u16) -> Tuple {
        Tuple { local_port, remote_port: 80, ..Tuple::zeroed() }
    }

    fn transition(tuple: Tuple, new_state: u8) -> TransitionRecord {
        TransitionRecord { cookie: EVENT, tuple, new_state, ..TransitionRecord::zeroed() }
    }

    fn resolve(cookies: &mut CookieMap, mut transition: TransitionRecord) -> u64 {
        cookies.resolve_transition(&mut transition);
        transition.cookie
    }

    fn walk(cookies: &mut CookieMap, tuples: &[(u64, Tuple)]) -> Vec<u64> {
        let row = |(cookie, tuple): &(u64, Tuple)| SocketRow {
            cookie: *cookie,
            tuple: *tuple,
            ..SocketRow::zeroed()
        };
        let mut rows: Vec<_> = tuples.iter().map(row).collect();
        cookies.resolve_rows(&mut rows, true);
        rows.iter().map(|row| row.cookie).collect()
    }

    #[test]
    fn a_socket_seen_by_a_walk_first_keeps_its_cookie() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1))]), [COOKIE]);
        assert_eq!(resolve(&mut cookies, transition(tuple(1), CLOSE_WAIT)), COOKIE);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1))]), [COOKIE]);
    }

    #[test]
    fn a_socket_seen_by_a_transition_first_keeps_the_id_of_the_event() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(resolve(&mut cookies, transition(tuple(0), SYN_SENT)), EVENT);
        assert_eq!(resolve(&mut cookies, transition(tuple(1), ESTABLISHED)), EVENT);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1)), (18, tuple(2))]), [EVENT, 18]);
    }

    #[test]
    fn a_tuple_used_again_is_another_socket() {
        let mut cookies = CookieMap::new(state::ALL);
        walk(&mut cookies, &[(COOKIE, tuple(1))]);
        assert_eq!(resolve(&mut cookies, transition(tuple(1), state::CLOSE)), COOKIE);
        assert_eq!(resolve(&mut cookies, transition(tuple(1), ESTABLISHED)), EVENT);
    }

    #[test]
    fn two_sockets_with_the_same_tuple_are_two() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1)), (18, tuple(1))]), [COOKIE, 18]);
    }

    #[test]
    fn what_is_no_longer_followed_or_no_longer_there_is_forgotten() {
        let mut cookies = CookieMap::new(state::bit(CLOSE_WAIT));
        resolve(&mut cookies, transition(tuple(1), CLOSE_WAIT));
        resolve(&mut cookies, transition(tuple(1), LAST_ACK));
        assert!(cookies.by_event.is_empty() && cookies.by_tuple.is_empty());

        resolve(&mut cookies, transition(tuple(2), CLOSE_WAIT));
        walk(&mut cookies, &[(18, tuple(3))]);
        assert_eq!(
            (cookies.by_event.len(), cookies.by_tuple.len()),
            (1, 2),
            "its closing may be in the ring"
        );
        cookies.resolve_rows(&mut [], false);
        cookies.resolve_rows(&mut [], false);
        assert_eq!(cookies.by_tuple.len(), 2, "it may be in a namespace that was left out");
        walk(&mut cookies, &[]);
        walk(&mut cookies, &[]);
        assert!(cookies.by_event.is_empty() && cookies.by_tuple.is_empty());
    }
}
