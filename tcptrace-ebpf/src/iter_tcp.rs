//! Walks the TCP sockets of a network namespace: one row for each socket in a wanted state.

use tcptrace_common::state;

use crate::{
    cookie,
    iter_context::IterContext,
    pointers::Sock,
    socket_row::{walk_filter, write_full_socket, write_timewait_socket},
};

/// Writes the row of the socket that the walk is at.
#[inline(always)]
pub(crate) fn write_socket(ctx: &IterContext) {
    let (Some(sk), Some(filter)) = (ctx.slot_pointer(1), walk_filter()) else { return };
    // SAFETY: the pointer is not null, and leads to a `struct sock_common` (`struct
    // bpf_iter__tcp`).
    let sock = unsafe { Sock::new(sk) };
    let state = sock.as_common().state();
    if state == state::TIME_WAIT {
        // Every timewait socket has this state. Its substate is FIN_WAIT2 if the socket that it
        // replaced was in that state, held by no process (`tcp_time_wait`,
        // `net/ipv4/tcp_minisocks.c`).
        if filter.socket_states & state::bit(state::FIN_WAIT2) != 0
            && let Some(timewait) = sock.as_timewait()
            && timewait.substate() == state::FIN_WAIT2
        {
            write_timewait_socket(ctx, timewait, cookie::of_sock(ctx, sock));
        }
    } else if filter.socket_states & state::bit(state) != 0
        && let Some(tcp) = sock.as_tcp()
    {
        write_full_socket(ctx, sock, tcp, cookie::of_sock(ctx, sock), state, filter);
    }
}
