//! What is noted of a connection while it is open.

use std::num::NonZeroU64;

use tcptrace_common::state;

use crate::{
    engine::tracker::socket::Socket,
    events::{Role, TimeInState},
};

/// The states that a connection can leave for another one than CLOSE, in the order in which it
/// passes them.
const LEFT_STATES: [u8; 5] =
    [state::SYN_SENT, state::SYN_RECV, state::ESTABLISHED, state::FIN_WAIT1, state::CLOSE_WAIT];

/// How far a connection has come, and how long it was in each state that it has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionProgress {
    /// When it began, `CLOCK_MONOTONIC` nanoseconds, if that was seen.
    pub(super) opened_ns: Option<NonZeroU64>,
    /// The time in the states that it has left, nanoseconds, at their [`time_index`].
    left_ns: [u64; 4],
    /// Those states, as a mask.
    left: u16,
    pub(super) role: Role,
}

/// Where in [`ConnectionProgress`] the time of a state is. No connection leaves both of the last
/// two, so that they share a place.
const fn time_index(of: u8) -> Option<usize> {
    match of {
        state::SYN_SENT => Some(0),
        state::SYN_RECV => Some(1),
        state::ESTABLISHED => Some(2),
        state::FIN_WAIT1 | state::CLOSE_WAIT => Some(3),
        _ => None,
    }
}

impl ConnectionProgress {
    #[cfg(test)]
    pub(crate) fn opened_at(opened_ns: u64) -> Self {
        Self { opened_ns: NonZeroU64::new(opened_ns), ..Self::default() }
    }

    /// Makes the progress of a connection of which only its role is known.
    pub(super) fn of_role(role: Role) -> Self {
        Self { role, ..Self::default() }
    }

    /// Notes that the socket left its known state at `until_ns`.
    pub(crate) fn leave_state(&mut self, known: &Socket, until_ns: u64) {
        if let Some(index) = time_index(known.state) {
            self.left_ns[index] += until_ns.saturating_sub(known.since.latest_ns());
            self.left |= 1 << known.state;
        }
    }

    /// Returns the time in each state. `last`: the state it ended in and the time there, if known.
    pub(super) fn time_in_states(&self, last: Option<(u8, u64)>) -> TimeInState {
        let left = LEFT_STATES.into_iter().filter(|state| self.left & (1 << state) != 0);
        left.filter_map(|state| Some((state, self.left_ns[time_index(state)?]))).chain(last).collect()
    }
}
