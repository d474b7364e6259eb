//! Joins what an event calls a socket to what sock_diag calls it, on kernels without BTF.
//!
//! There the tracepoint knows a socket's address, sock_diag its cookie, and all they share is the two ends. Who
//! comes first gives the socket its identity. Two sockets with the same two ends, in two namespaces, cannot be
//! told apart by this: that is the limit of such kernels.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{SocketRow, Transition, Tuple, state};

/// Which identity is which.
#[derive(Debug)]
pub(crate) struct CookieMap {
    /// The states in which sockets are followed, as a mask.
    followed: u32,
    /// What goes by these two ends. The event does not tell the interface.
    by_tuple: FxHashMap<Tuple, u64>,
    /// What the tracepoint's name of a socket stands for.
    by_event: FxHashMap<u64, u64>,
    /// What the last walk did not see.
    unseen: FxHashSet<u64>,
}

impl CookieMap {
    pub(crate) fn new(followed: u32) -> Self {
        Self {
            followed,
            by_tuple: FxHashMap::default(),
            by_event: FxHashMap::default(),
            unseen: FxHashSet::default(),
        }
    }

    /// The same transition, with the identity that its socket goes by.
    pub(crate) fn transition(&mut self, transition: Transition) -> Transition {
        let Transition { cookie: event, tuple, new_state, .. } = transition;
        let is_complete = tuple.local_port != 0;
        let tuple = Tuple { interface: 0, ..tuple };
        let by_tuple = &mut self.by_tuple;
        let identity = *self.by_event.entry(event).or_insert_with(|| {
            let known = if is_complete { by_tuple.get(&tuple) } else { None };
            known.copied().unwrap_or(event)
        });
        if new_state == state::CLOSE || self.followed & state::bit(new_state) == 0 {
            self.by_event.remove(&event);
            if by_tuple.get(&tuple) == Some(&identity) {
                by_tuple.remove(&tuple);
            }
        } else if is_complete {
            by_tuple.insert(tuple, identity);
        }
        Transition { cookie: identity, ..transition }
    }

    /// Gives the rows of a walk of all followed states the identities that their sockets go by. Forgets those
    /// that neither this walk nor the last one saw: what the last one missed may still have had its transitions
    /// in the ring. `is_complete`: whether the walk left out no namespace; otherwise none is forgotten.
    pub(crate) fn rows(&mut self, rows: &mut [SocketRow], is_complete: bool) {
        let mut seen = FxHashSet::default();
        for row in rows {
            let identity = *self.by_tuple.entry(Tuple { interface: 0, ..row.tuple }).or_insert(row.cookie);
            if seen.insert(identity) {
                row.cookie = identity;
            }
        }
        if !is_complete {
            return;
        }
        let known = self.by_tuple.values().chain(self.by_event.values());
        let unseen: FxHashSet<u64> = known.filter(|identity| !seen.contains(identity)).copied().collect();
        let keep = |identity: &u64| !(unseen.contains(identity) && self.unseen.contains(identity));
        self.by_tuple.retain(|_, identity| keep(identity));
        self.by_event.retain(|_, identity| keep(identity));
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

    fn transition(tuple: Tuple, new_state: u8) -> Transition {
        Transition { cookie: EVENT, tuple, new_state, ..Transition::zeroed() }
    }

    fn walk(cookies: &mut CookieMap, tuples: &[(u64, Tuple)]) -> Vec<u64> {
        let row = |(cookie, tuple): &(u64, Tuple)| SocketRow {
            cookie: *cookie,
            tuple: *tuple,
            ..SocketRow::zeroed()
        };
        let mut rows: Vec<_> = tuples.iter().map(row).collect();
        cookies.rows(&mut rows, true);
        rows.iter().map(|row| row.cookie).collect()
    }

    #[test]
    fn a_socket_seen_by_a_walk_first_keeps_its_cookie() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1))]), [COOKIE]);
        assert_eq!(cookies.transition(transition(tuple(1), CLOSE_WAIT)).cookie, COOKIE);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1))]), [COOKIE]);
    }

    #[test]
    fn a_socket_seen_by_a_transition_first_keeps_the_events_name() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(cookies.transition(transition(tuple(0), SYN_SENT)).cookie, EVENT);
        assert_eq!(cookies.transition(transition(tuple(1), ESTABLISHED)).cookie, EVENT);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1)), (18, tuple(2))]), [EVENT, 18]);
    }

    #[test]
    fn an_address_used_again_is_another_socket() {
        let mut cookies = CookieMap::new(state::ALL);
        walk(&mut cookies, &[(COOKIE, tuple(1))]);
        assert_eq!(cookies.transition(transition(tuple(1), state::CLOSE)).cookie, COOKIE);
        assert_eq!(cookies.transition(transition(tuple(1), ESTABLISHED)).cookie, EVENT);
    }

    #[test]
    fn two_sockets_with_the_same_ends_are_two() {
        let mut cookies = CookieMap::new(state::ALL);
        assert_eq!(walk(&mut cookies, &[(COOKIE, tuple(1)), (18, tuple(1))]), [COOKIE, 18]);
    }

    #[test]
    fn what_is_no_longer_followed_or_no_longer_there_is_forgotten() {
        let mut cookies = CookieMap::new(state::bit(CLOSE_WAIT));
        cookies.transition(transition(tuple(1), CLOSE_WAIT));
        cookies.transition(transition(tuple(1), LAST_ACK));
        assert!(cookies.by_event.is_empty() && cookies.by_tuple.is_empty());

        cookies.transition(transition(tuple(2), CLOSE_WAIT));
        walk(&mut cookies, &[(18, tuple(3))]);
        assert_eq!(
            (cookies.by_event.len(), cookies.by_tuple.len()),
            (1, 2),
            "its closing may be in the ring"
        );
        cookies.rows(&mut [], false);
        cookies.rows(&mut [], false);
        assert_eq!(cookies.by_tuple.len(), 2, "it may be in a namespace that was left out");
        walk(&mut cookies, &[]);
        walk(&mut cookies, &[]);
        assert!(cookies.by_event.is_empty() && cookies.by_tuple.is_empty());
    }
}
