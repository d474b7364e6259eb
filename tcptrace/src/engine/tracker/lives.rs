//! What each connection's life comes to: noted while it lives, told at its end. A listener is no connection and has none.
//!
//! For each socket there is little to keep: a connection leaves at most four states for another one before its last, so
//! that four times are enough.

use std::num::NonZeroU64;

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{Counters, state};

use self::reason::close_reason;
use crate::{
    engine::{
        state_change::{Actor, Origin, StateChange},
        tracker::Socket,
    },
    events::{CloseReason, Ending, OriginHow, Role, TimeInState},
};

pub mod reason;

/// A life that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it began, `CLOCK_MONOTONIC` nanoseconds, where that was seen.
    pub opened_ns: Option<u64>,
    /// Whether its end was seen.
    pub is_end_seen: bool,
    /// Which end of the connection it was.
    pub role: Role,
    /// How long it was in each state. Of a state that was not seen being entered and left: the time that is proven.
    pub states: TimeInState,
    /// What ended it.
    pub reason: CloseReason,
    /// The socket's error, an errno; 0 where there is none, or it is not known.
    pub sk_err: i32,
    /// What the kernel has counted, where it tells.
    pub counters: Option<Counters>,
    /// Who closed it, if a process of this host did.
    pub closer: Option<Actor>,
    /// Who connected or accepted it, where that was seen.
    pub origin: Option<Origin>,
}

/// What is noted of a living connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    opened_ns: Option<NonZeroU64>,
    /// How long it was in the states that it has left, nanoseconds: see [`slot`].
    left_ns: [u64; 4],
    /// Those states, as a mask.
    left: u16,
    role: Role,
}

/// Those that can be left for a state other than CLOSE. No connection leaves both of the last two.
const fn slot(of: u8) -> Option<usize> {
    match of {
        state::SYN_SENT => Some(0),
        state::SYN_RECV => Some(1),
        state::ESTABLISHED => Some(2),
        state::FIN_WAIT1 | state::CLOSE_WAIT => Some(3),
        _ => None,
    }
}

impl Course {
    #[cfg(test)]
    pub(crate) fn opened_at(opened_ns: u64) -> Self {
        Self { opened_ns: NonZeroU64::new(opened_ns), ..Self::default() }
    }

    /// Notes that the socket was in the state it is known in until then.
    pub(crate) fn leave(&mut self, known: &Socket, until_ns: u64) {
        if let Some(slot) = slot(known.state) {
            self.left_ns[slot] += until_ns.saturating_sub(known.since.latest_ns());
            self.left |= 1 << known.state;
        }
    }

    /// With the state that it was in at its end, if that is known, as the last.
    fn states(&self, last: Option<(u8, u64)>) -> TimeInState {
        const ORDER: [u8; 5] =
            [state::SYN_SENT, state::SYN_RECV, state::ESTABLISHED, state::FIN_WAIT1, state::CLOSE_WAIT];
        let left = ORDER.into_iter().filter(|state| self.left & (1 << state) != 0);
        left.filter_map(|state| Some((state, self.left_ns[slot(state)?]))).chain(last).collect()
    }
}

/// What is known beside the course of each connection, which is kept with its socket.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// Who closed those that are closing, and whether by ending.
    closers: FxHashMap<u64, (Actor, bool)>,
    /// How many listen at a port of a namespace.
    listening: FxHashMap<(u32, u16), u32>,
    /// What the last walk after a loss did not see, and was told.
    vanished: FxHashSet<u64>,
}

impl Lives {
    /// Notes a state change that is not the last, and the time in the old state where it is the newest word: `known` is
    /// what was known of the socket.
    pub(crate) fn hear(&mut self, course: &mut Course, change: &StateChange, known: Option<&Socket>) {
        let StateChange { cookie, at_ns, old_state, new_state, actor, .. } = *change;
        if new_state == state::LISTEN {
            return;
        }
        if let Some(known) = known {
            course.leave(known, if known.state == old_state { at_ns } else { known.last_seen_ns });
        }
        match (old_state, new_state) {
            (state::CLOSE, state::SYN_SENT) => {
                (course.opened_ns, course.role) = (NonZeroU64::new(at_ns), Role::Client);
            }
            (state::LISTEN, state::SYN_RECV) => {
                (course.opened_ns, course.role) = (NonZeroU64::new(at_ns), Role::Server);
            }
            (state::SYN_SENT, _) if course.role == Role::Unknown => course.role = Role::Client,
            (state::SYN_RECV, _) if course.role == Role::Unknown => course.role = Role::Server,
            _ => {}
        }
        if let (Some(actor), state::FIN_WAIT1 | state::LAST_ACK) = (actor, new_state) {
            self.closers.insert(cookie, (actor, change.ending == Ending::Exited));
        }
    }

    /// The course of a socket that a walk sees for the first time.
    pub(crate) fn meet(&self, seen: &Socket) -> Course {
        let role = match seen.state {
            state::LISTEN => Role::Unknown,
            state::SYN_SENT => Role::Client,
            state::SYN_RECV => Role::Server,
            _ if self.listening.contains_key(&(seen.netns, seen.tuple.local_port)) => Role::Server,
            _ => Role::Unknown,
        };
        Course { role, ..Course::default() }
    }

    /// Counts who listens: `before` was known of a socket, `now` is.
    pub(crate) fn count_listeners(&mut self, before: Option<&Socket>, now: Option<&Socket>) {
        let place = |socket: Option<&Socket>| {
            let listener = socket.filter(|socket| socket.state == state::LISTEN)?;
            Some((listener.netns, listener.tuple.local_port))
        };
        let (before, now) = (place(before), place(now));
        if before == now {
            return;
        }
        if let Some(now) = now {
            *self.listening.entry(now).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.listening.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.listening.remove(&before);
            }
        }
    }

    /// What the life came to that a transition ends; nothing where it was a listener's, or has been told.
    pub(crate) fn end(
        &mut self,
        course: Course,
        last: &StateChange,
        known: Option<&Socket>,
        origin: Option<Origin>,
    ) -> Option<Life> {
        let StateChange { cookie, at_ns, old_state, actor, ref final_stats, .. } = *last;
        let closed = self.closers.remove(&cookie);
        if self.vanished.remove(&cookie) || matches!(old_state, state::LISTEN | state::CLOSE) {
            return None;
        }
        let has_exited = last.ending == Ending::Exited || closed.is_some_and(|(_, by_ending)| by_ending);
        let in_last = known.map(|known| {
            let until_ns = if known.state == old_state { at_ns } else { known.last_seen_ns };
            (known.state, until_ns.saturating_sub(known.since.latest_ns()))
        });
        let (noted, how) = final_stats.as_ref().and_then(|stats| stats.origin).unzip();
        let role = match (course.role, how) {
            (Role::Unknown, Some(OriginHow::Connect)) => Role::Client,
            (Role::Unknown, Some(OriginHow::Accept)) => Role::Server,
            (Role::Unknown, _) if old_state == state::SYN_SENT => Role::Client,
            (role, _) => role,
        };
        Some(Life {
            opened_ns: course.opened_ns.map(NonZeroU64::get),
            is_end_seen: true,
            role,
            states: course.states(in_last),
            reason: close_reason(last, has_exited),
            sk_err: final_stats.as_ref().map_or(0, |stats| stats.sk_err),
            counters: final_stats.as_ref().map(|stats| stats.counters),
            closer: actor.or(closed.map(|(actor, _)| actor)),
            origin: origin.or(noted),
        })
    }

    /// The same of a socket whose end was lost: it is no longer there.
    pub(crate) fn vanish(
        &mut self,
        course: Course,
        cookie: u64,
        known: &Socket,
        origin: Option<Origin>,
    ) -> Option<Life> {
        let closed = self.closers.remove(&cookie);
        if known.state == state::LISTEN {
            return None;
        }
        self.vanished.insert(cookie);
        let in_last = known.last_seen_ns.saturating_sub(known.since.latest_ns());
        Some(Life {
            opened_ns: course.opened_ns.map(NonZeroU64::get),
            is_end_seen: false,
            role: course.role,
            states: course.states(Some((known.state, in_last))),
            reason: CloseReason::Unknown,
            sk_err: 0,
            counters: None,
            closer: closed.map(|(actor, _)| actor),
            origin,
        })
    }

    /// What the walk before did not see, and was told, will not be heard of any more.
    pub(crate) fn forget_vanished(&mut self) {
        self.vanished.clear();
    }
}

#[cfg(test)]
mod tests;
