//! Follows connections to their end, for `--lives`: what ended each, and how long it was in each
//! state. A listener is no connection and has no life.

use std::num::NonZeroU64;

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{Counters, state};

use self::{progress::ConnectionProgress, reason::close_reason};
use crate::{
    engine::{
        state_change::{Actor, Origin, StateChange},
        tracker::socket::Socket,
    },
    events::{CloseReason, Ending, OriginHow, Role, TimeInState},
};

pub(super) mod progress;
mod reason;

/// A connection that has ended, from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it began, `CLOCK_MONOTONIC` nanoseconds, if that was seen.
    pub opened_ns: Option<u64>,
    /// Whether its end was seen.
    pub is_end_seen: bool,
    /// Whether it was the client's or the server's end.
    pub role: Role,
    /// How long it was in each state. For a state that was not seen being entered and left, the
    /// time that is proven.
    pub states: TimeInState,
    /// What ended it.
    pub reason: CloseReason,
    /// The socket's error, an errno; 0 if there is none or it is unknown.
    pub sk_err: i32,
    /// What the kernel counted, if it was read.
    pub counters: Option<Counters>,
    /// The task that closed it, if one of this host did.
    pub closer: Option<Actor>,
    /// The task that connected or accepted it, if that was seen.
    pub origin: Option<Origin>,
}

/// What is known of connections besides their progress, which is stored with the socket.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// The task that closed each connection that is closing, and whether it was exiting.
    closers: FxHashMap<u64, (Actor, bool)>,
    /// How many sockets listen at a port of a namespace.
    listeners: FxHashMap<(u32, u16), u32>,
    /// The connections that the last walk after a loss did not see, so that their end was
    /// reported.
    reported_gone: FxHashSet<u64>,
}

impl Lives {
    /// Applies a state change that is not the last. `known`: the socket before, if the change is
    /// the newest that is known of it.
    pub(super) fn apply_change(
        &mut self,
        progress: &mut ConnectionProgress,
        change: &StateChange,
        known: Option<&Socket>,
    ) {
        let StateChange { cookie, at_ns, old_state, new_state, actor, .. } = *change;
        if new_state == state::LISTEN {
            return;
        }
        if let Some(known) = known {
            progress.leave_state(known, if known.state == old_state { at_ns } else { known.last_seen_ns });
        }
        match (old_state, new_state) {
            (state::CLOSE, state::SYN_SENT) => {
                (progress.opened_ns, progress.role) = (NonZeroU64::new(at_ns), Role::Client);
            }
            (state::LISTEN, state::SYN_RECV) => {
                (progress.opened_ns, progress.role) = (NonZeroU64::new(at_ns), Role::Server);
            }
            (state::SYN_SENT, _) if progress.role == Role::Unknown => progress.role = Role::Client,
            (state::SYN_RECV, _) if progress.role == Role::Unknown => progress.role = Role::Server,
            _ => {}
        }
        if let (Some(actor), state::FIN_WAIT1 | state::LAST_ACK) = (actor, new_state) {
            self.closers.insert(cookie, (actor, change.ending == Ending::Exited));
        }
    }

    /// Returns the progress of a connection that a walk sees for the first time.
    pub(super) fn progress_at_first_sight(&self, seen: &Socket) -> ConnectionProgress {
        let role = match seen.state {
            state::LISTEN => Role::Unknown,
            state::SYN_SENT => Role::Client,
            state::SYN_RECV => Role::Server,
            _ if self.listeners.contains_key(&(seen.netns, seen.tuple.local_port)) => Role::Server,
            _ => Role::Unknown,
        };
        ConnectionProgress::of_role(role)
    }

    /// Counts a listener that came or went: a socket was known as `before` and is known as `now`.
    pub(super) fn count_listener(&mut self, before: Option<&Socket>, now: Option<&Socket>) {
        let port_of = |socket: Option<&Socket>| {
            let listener = socket.filter(|socket| socket.state == state::LISTEN)?;
            Some((listener.netns, listener.tuple.local_port))
        };
        let (before, now) = (port_of(before), port_of(now));
        if before == now {
            return;
        }
        if let Some(now) = now {
            *self.listeners.entry(now).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.listeners.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.listeners.remove(&before);
            }
        }
    }

    /// Ends a connection with its last transition. Returns `None` for a listener, and if the end
    /// was reported before.
    pub(super) fn end_connection(
        &mut self,
        progress: ConnectionProgress,
        last: &StateChange,
        known: Option<&Socket>,
        origin: Option<Origin>,
    ) -> Option<Life> {
        let StateChange { cookie, at_ns, old_state, actor, ref final_stats, .. } = *last;
        let closed = self.closers.remove(&cookie);
        if self.reported_gone.remove(&cookie) || matches!(old_state, state::LISTEN | state::CLOSE) {
            return None;
        }
        let has_exited = last.ending == Ending::Exited || closed.is_some_and(|(_, was_exiting)| was_exiting);
        let in_last = known.map(|known| {
            let until_ns = if known.state == old_state { at_ns } else { known.last_seen_ns };
            (known.state, until_ns.saturating_sub(known.since.latest_ns()))
        });
        let (noted, how) = final_stats.as_ref().and_then(|stats| stats.origin).unzip();
        let role = match (progress.role, how) {
            (Role::Unknown, Some(OriginHow::Connect)) => Role::Client,
            (Role::Unknown, Some(OriginHow::Accept)) => Role::Server,
            (Role::Unknown, _) if old_state == state::SYN_SENT => Role::Client,
            (role, _) => role,
        };
        Some(Life {
            opened_ns: progress.opened_ns.map(NonZeroU64::get),
            is_end_seen: true,
            role,
            states: progress.time_in_states(in_last),
            reason: close_reason(last, has_exited),
            sk_err: final_stats.as_ref().map_or(0, |stats| stats.sk_err),
            counters: final_stats.as_ref().map(|stats| stats.counters),
            closer: actor.or(closed.map(|(actor, _)| actor)),
            origin: origin.or(noted),
        })
    }

    /// Ends a connection whose last transition was lost: a walk does not see it any more. Returns
    /// `None` for a listener.
    pub(super) fn end_gone_connection(
        &mut self,
        progress: ConnectionProgress,
        cookie: u64,
        known: &Socket,
        origin: Option<Origin>,
    ) -> Option<Life> {
        let closed = self.closers.remove(&cookie);
        if known.state == state::LISTEN {
            return None;
        }
        self.reported_gone.insert(cookie);
        let in_last = known.last_seen_ns.saturating_sub(known.since.latest_ns());
        Some(Life {
            opened_ns: progress.opened_ns.map(NonZeroU64::get),
            is_end_seen: false,
            role: progress.role,
            states: progress.time_in_states(Some((known.state, in_last))),
            reason: CloseReason::Unknown,
            sk_err: 0,
            counters: None,
            closer: closed.map(|(actor, _)| actor),
            origin,
        })
    }

    /// Forgets the connections that the walk before did not see: their last transitions would have
    /// come by now.
    pub(super) fn forget_reported_gone(&mut self) {
        self.reported_gone.clear();
    }
}

#[cfg(test)]
mod tests;
