//! Decides how a socket left a state: closed, reset, timed out.

use rustix::io::Errno;
use tcptrace_common::state;

use crate::events::Ending;

/// The signs that show how a socket left a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a sign of its own")]
pub struct ExitSigns {
    /// The state it left.
    pub old_state: u8,
    /// The state it entered.
    pub new_state: u8,
    /// Whether a timewait socket replaced it.
    pub is_timewait: bool,
    /// Whether a task of this host acted.
    pub has_actor: bool,
    /// Whether that task was exiting.
    pub is_exiting: bool,
    /// Whether a closing socket reached its orderly end: the peer acknowledged our FIN, or sent its
    /// own.
    pub is_complete: bool,
    /// The socket's pending error, an errno; 0 if none or unknown.
    pub sk_err: i32,
}

impl ExitSigns {
    /// Decides how the socket left its state.
    pub fn infer_ending(self) -> Ending {
        let Self { old_state, new_state, is_timewait, has_actor, is_exiting, is_complete, sk_err } = self;
        if is_exiting {
            return Ending::Exited;
        }
        if has_actor {
            return Ending::Closed;
        }
        let is = |errno: Errno| sk_err == errno.raw_os_error();
        match new_state {
            // Its process had closed it before.
            state::FIN_WAIT2 if is_timewait => Ending::Unknown,
            // A walk of descriptors dropped the last reference, and its actor is dropped
            // (`host/walk/own_closes.rs`).
            state::FIN_WAIT1 if old_state == state::ESTABLISHED => Ending::Unknown,
            state::LAST_ACK if old_state == state::CLOSE_WAIT => Ending::Unknown,
            state::CLOSE if is(Errno::CONNABORTED) => Ending::Destroyed,
            state::CLOSE if is(Errno::CONNRESET) || is(Errno::PIPE) || is(Errno::CONNREFUSED) => {
                Ending::Reset
            }
            // While a socket connects, a router can turn it down too: unreachable.
            state::CLOSE if sk_err != 0 && !is(Errno::TIMEDOUT) && old_state == state::SYN_SENT => {
                Ending::Reset
            }
            // The kernel reports an unreachable peer when its time is up (`tcp_write_err`,
            // `net/ipv4/tcp_timer.c`).
            state::CLOSE if sk_err != 0 => Ending::TimedOut,
            state::CLOSE if is_complete => Ending::Peer,
            // The process acted unseen, a timer ran out, or the error is unknown.
            state::CLOSE => Ending::Unknown,
            _ => Ending::Peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_with(old_state: u8, errno: Errno) -> Ending {
        let sk_err = errno.raw_os_error();
        ExitSigns { old_state, new_state: state::CLOSE, sk_err, ..ExitSigns::default() }.infer_ending()
    }

    #[test]
    fn an_error_says_who_ended_it() {
        for old_state in [state::ESTABLISHED, state::CLOSE_WAIT, state::FIN_WAIT1, state::LAST_ACK] {
            assert_eq!(closed_with(old_state, Errno::CONNRESET), Ending::Reset);
            assert_eq!(closed_with(old_state, Errno::PIPE), Ending::Reset);
            assert_eq!(closed_with(old_state, Errno::CONNABORTED), Ending::Destroyed);
            assert_eq!(closed_with(old_state, Errno::TIMEDOUT), Ending::TimedOut);
            assert_eq!(
                closed_with(old_state, Errno::HOSTUNREACH),
                Ending::TimedOut,
                "after as many attempts"
            );
        }
        assert_eq!(closed_with(state::SYN_SENT, Errno::CONNREFUSED), Ending::Reset);
        assert_eq!(
            closed_with(state::SYN_SENT, Errno::HOSTUNREACH),
            Ending::Reset,
            "a router turned it down"
        );
        assert_eq!(closed_with(state::SYN_SENT, Errno::TIMEDOUT), Ending::TimedOut);
    }

    #[test]
    fn a_closing_socket_without_an_error_is_ended_by_its_process_by_the_peer_or_unseen() {
        for old_state in [state::FIN_WAIT1, state::FIN_WAIT2, state::CLOSING, state::LAST_ACK] {
            let closed = ExitSigns { old_state, new_state: state::CLOSE, ..ExitSigns::default() };
            assert_eq!(closed.infer_ending(), Ending::Unknown);
            assert_eq!(ExitSigns { is_complete: true, ..closed }.infer_ending(), Ending::Peer);
            let acted = ExitSigns { has_actor: true, ..closed };
            assert_eq!(acted.infer_ending(), Ending::Closed);
            assert_eq!(ExitSigns { is_exiting: true, ..acted }.infer_ending(), Ending::Exited);
        }
    }

    #[test]
    fn a_timewait_socket_replaces_what_its_process_or_the_peer_ended() {
        let replaced = |new_state| ExitSigns {
            old_state: state::FIN_WAIT2,
            new_state,
            is_timewait: true,
            ..ExitSigns::default()
        };
        let (orphan, timewait) = (replaced(state::FIN_WAIT2), replaced(state::TIME_WAIT));
        let acted = ExitSigns { has_actor: true, ..orphan };
        assert_eq!(acted.infer_ending(), Ending::Closed);
        assert_eq!(ExitSigns { is_exiting: true, ..acted }.infer_ending(), Ending::Exited);
        assert_eq!(orphan.infer_ending(), Ending::Unknown, "its process had closed it before");
        assert_eq!(ExitSigns { is_complete: true, ..timewait }.infer_ending(), Ending::Peer);
        assert_eq!(timewait.infer_ending(), Ending::Peer);
    }
}
