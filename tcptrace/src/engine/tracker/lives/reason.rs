//! What ended a connection's life: a function of its last transition, and of whether its process
//! ended.

use rustix::io::Errno;
use tcptrace_common::state;

use crate::{engine::state_change::StateChange, events::CloseReason};

/// Decides what ended a life from its last state change. `has_exited`: the task that closed this
/// end was exiting.
pub(crate) fn close_reason(last: &StateChange, has_exited: bool) -> CloseReason {
    let StateChange { old_state, actor, ref final_stats, .. } = *last;
    let sk_err = final_stats.as_ref().map_or(0, |stats| stats.sk_err);
    let is_aborted = final_stats.as_ref().is_some_and(|stats| stats.is_aborted);
    let has_closed = match old_state {
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING => Some(CloseReason::LocalClose),
        state::LAST_ACK => Some(CloseReason::PeerClose),
        _ => None,
    };
    let is = |errno: Errno| sk_err == errno.raw_os_error();
    let is_reset = is(Errno::CONNRESET) || is(Errno::PIPE) || is(Errno::CONNREFUSED);
    if is(Errno::CONNABORTED) {
        return CloseReason::Destroyed;
    }
    if old_state == state::SYN_SENT && sk_err != 0 && !is(Errno::TIMEDOUT) {
        return CloseReason::Refused;
    }
    if sk_err != 0 && !is_reset {
        // The kernel reports an unreachable peer when its time is up (`tcp_write_err`,
        // `net/ipv4/tcp_timer.c`).
        return CloseReason::Timeout;
    }
    match has_closed {
        // An unacknowledged FIN did not end it. The kernel does not show what did.
        Some(_) if final_stats.is_none() && old_state == state::FIN_WAIT1 => CloseReason::Unknown,
        Some(_) if has_exited => CloseReason::Exit,
        Some(_) if is_aborted => CloseReason::ResetSent,
        Some(who) => who,
        None if is_reset => CloseReason::ResetReceived,
        // Without an error the process ended it, if that can be seen.
        None if actor.is_none() => CloseReason::Unknown,
        None if has_exited => CloseReason::Exit,
        None if old_state == state::SYN_SENT => CloseReason::LocalClose,
        None => CloseReason::ResetSent,
    }
}
