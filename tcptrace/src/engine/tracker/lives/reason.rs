//! What ended a connection's life: a function of its last transition, and of whether its process ended.

use rustix::io::Errno;
use tcptrace_common::{Transition, TransitionFlags, state};

use crate::events::CloseReason;

/// Returns what ended a life whose last transition this is.
///
/// `knows_error`: the kernel tells `sk_err`. `has_exited`: the task that closed this end was exiting.
pub(crate) fn close_reason(last: &Transition, knows_error: bool, has_exited: bool) -> CloseReason {
    let Transition { old_state, sk_err, flags, .. } = *last;
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
        // A peer that is unreachable is told when the time is up (`tcp_write_err`, `net/ipv4/tcp_timer.c`).
        return CloseReason::Timeout;
    }
    match has_closed {
        // A FIN that nobody has acknowledged is not what ended it; what did, the kernel does not tell.
        Some(_) if !knows_error && old_state == state::FIN_WAIT1 => CloseReason::Unknown,
        Some(_) if has_exited => CloseReason::Exit,
        Some(_) if flags.contains(TransitionFlags::ABORTED) => CloseReason::ResetSent,
        Some(who) => who,
        None if is_reset => CloseReason::ResetReceived,
        // With no error it is the process's doing, where that can be seen.
        None if !flags.contains(TransitionFlags::ACTOR_KNOWN) => CloseReason::Unknown,
        None if has_exited => CloseReason::Exit,
        None if old_state == state::SYN_SENT => CloseReason::LocalClose,
        None => CloseReason::ResetSent,
    }
}
