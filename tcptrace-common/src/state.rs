//! TCP states by their kernel numbers (`include/net/tcp_states.h`), and sets of them as bit masks.

/// Connected: the handshake is complete, and neither side has closed.
pub const ESTABLISHED: u8 = 1;
/// Connecting: our SYN is sent, and the answer is awaited.
pub const SYN_SENT: u8 = 2;
/// Being connected to: the last ACK of the handshake is awaited.
pub const SYN_RECV: u8 = 3;
/// We have closed; the ACK of our FIN is awaited.
pub const FIN_WAIT1: u8 = 4;
/// We have closed, and the peer has acknowledged it; its FIN is awaited.
pub const FIN_WAIT2: u8 = 5;
/// Both sides have closed; late segments are awaited. A full socket is never in this state.
pub const TIME_WAIT: u8 = 6;
/// Not connected, or not any more.
pub const CLOSE: u8 = 7;
/// The peer has closed; our process has not.
pub const CLOSE_WAIT: u8 = 8;
/// Both sides have closed, the peer first; the ACK of our FIN is awaited.
pub const LAST_ACK: u8 = 9;
/// Waiting for connections.
pub const LISTEN: u8 = 10;
/// Both sides have closed at the same time; the ACK of our FIN is awaited.
pub const CLOSING: u8 = 11;
/// A request socket in a SYN queue. A full socket is never in this state.
pub const NEW_SYN_RECV: u8 = 12;

/// The highest number of a state.
pub const MAX: u8 = NEW_SYN_RECV;

/// Returns the mask of one state: bit *s* stands for state *s*. A number that is no state has no
/// bit.
#[inline(always)]
pub const fn bit(state: u8) -> u32 {
    if state <= MAX { 1 << state } else { 0 }
}

/// The mask of every state that a full socket can be in.
pub const ALL: u32 = (1 << (MAX + 1)) - 2;

/// Returns whether a transition leaves or enters one of `states` (a mask).
///
/// The kernel also reports a change from a state to itself, if a process closes a socket that is
/// already closing (`tcp_close_state`, `net/ipv4/tcp.c`). That is no transition.
#[inline(always)]
pub const fn leaves_or_enters(states: u32, old_state: u8, new_state: u8) -> bool {
    old_state != new_state
        && (states.wrapping_shr(old_state as u32) & 1 != 0 || states.wrapping_shr(new_state as u32) & 1 != 0)
}
