//! TCP states by their kernel numbers (`include/net/tcp_states.h`), and sets of them as bit masks.

/// Everything has been received and acknowledged, data can flow.
pub const ESTABLISHED: u8 = 1;
/// A SYN was sent, the answer is awaited.
pub const SYN_SENT: u8 = 2;
/// A SYN was received, the handshake's last ACK is awaited.
pub const SYN_RECV: u8 = 3;
/// We closed; our FIN is not acknowledged yet.
pub const FIN_WAIT1: u8 = 4;
/// We closed and the peer knows; its FIN is awaited.
pub const FIN_WAIT2: u8 = 5;
/// Both ends closed; late segments are awaited. Never seen on a full socket.
pub const TIME_WAIT: u8 = 6;
/// Not connected.
pub const CLOSE: u8 = 7;
/// The peer closed; our process has not.
pub const CLOSE_WAIT: u8 = 8;
/// Both closed, the peer first; the ACK of our FIN is awaited.
pub const LAST_ACK: u8 = 9;
/// Waiting for connections.
pub const LISTEN: u8 = 10;
/// Both closed at once; the ACK of our FIN is awaited.
pub const CLOSING: u8 = 11;
/// A request socket in a SYN queue. Never seen on a full socket.
pub const NEW_SYN_RECV: u8 = 12;

/// The highest number a state has here.
pub const MAX: u8 = NEW_SYN_RECV;

/// The mask in which bit *s* stands for state *s*. A number that is no state has no bit.
#[inline(always)]
pub const fn bit(state: u8) -> u32 {
    if state <= MAX { 1 << state } else { 0 }
}

/// Every state that a full socket can be in.
pub const ALL: u32 = (1 << (MAX + 1)) - 2;

/// Returns whether a transition leaves or enters one of `states` (a mask).
///
/// The kernel also reports changes that are none: a process closes a socket that is closing
/// already (`tcp_close_state`, `net/ipv4/tcp.c`).
#[inline(always)]
pub const fn leaves_or_enters(states: u32, old_state: u8, new_state: u8) -> bool {
    old_state != new_state
        && (states.wrapping_shr(old_state as u32) & 1 != 0 || states.wrapping_shr(new_state as u32) & 1 != 0)
}
