//! What ended a connection's life: a function of its last transition, and of whether its process ended.

use rustix::io::Errno;
use tcptrace_common::{Transition, TransitionFlags, state};

/// What ended a connection's life. Where several had a part in it, the first in this list:
/// `destroyed`, `timeout`, `refused`, `reset_received` before this end had closed, `exit`, `reset_sent`, and then who
/// closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// This end closed first: it sent the first FIN, or gave up while it was still connecting.
    LocalClose,
    /// The peer sent the first FIN, and this end closed after it.
    PeerClose,
    /// The peer reset the connection before this end had closed.
    ResetReceived,
    /// This end reset the connection: closed it with data unread or with SO_LINGER 0, also after it had shut down its side,
    /// aborted it, or closed the listener before it was accepted.
    ResetSent,
    /// The kernel gave up waiting for the peer.
    Timeout,
    /// The connection was turned down, by the peer or by a router on the way.
    Refused,
    /// The process ended with it open, and that closed it.
    Exit,
    /// It was destroyed from outside (`ss --kill`).
    Destroyed,
    /// Nobody saw it, or the kernel does not tell.
    Unknown,
}

impl CloseReason {
    /// `knows_error`: the kernel tells `sk_err`. `has_exited`: the task that closed this end was exiting.
    pub(crate) fn of(last: &Transition, knows_error: bool, has_exited: bool) -> Self {
        let Transition { old_state, sk_err, flags, .. } = *last;
        let has_closed = match old_state {
            state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING => Some(Self::LocalClose),
            state::LAST_ACK => Some(Self::PeerClose),
            _ => None,
        };
        let is = |errno: Errno| sk_err == errno.raw_os_error();
        let is_reset = is(Errno::CONNRESET) || is(Errno::PIPE) || is(Errno::CONNREFUSED);
        if is(Errno::CONNABORTED) {
            return Self::Destroyed;
        }
        if old_state == state::SYN_SENT && sk_err != 0 && !is(Errno::TIMEDOUT) {
            return Self::Refused;
        }
        if sk_err != 0 && !is_reset {
            // A peer that is unreachable is told when the time is up (`tcp_write_err`, `net/ipv4/tcp_timer.c`).
            return Self::Timeout;
        }
        match has_closed {
            // A FIN that nobody has acknowledged is not what ended it; what did, the kernel does not tell.
            Some(_) if !knows_error && old_state == state::FIN_WAIT1 => Self::Unknown,
            Some(_) if has_exited => Self::Exit,
            Some(_) if flags.contains(TransitionFlags::ABORTED) => Self::ResetSent,
            Some(who) => who,
            None if is_reset => Self::ResetReceived,
            // With no error it is the process's doing, where that can be seen.
            None if !flags.contains(TransitionFlags::ACTOR_KNOWN) => Self::Unknown,
            None if has_exited => Self::Exit,
            None if old_state == state::SYN_SENT => Self::LocalClose,
            None => Self::ResetSent,
        }
    }
}
