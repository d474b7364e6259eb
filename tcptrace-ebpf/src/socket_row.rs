//! Writes the row of a socket: the only place that fills in a [`SocketRow`].

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::map,
    maps::Array,
};
use bytemuck::Zeroable;
use tcptrace_common::{RowFlags, SocketRow, WalkFilter, state};

use crate::{
    iter_context::IterContext,
    opener,
    pointers::{Sock, SockCommon, TcpSock, TimewaitSock},
    tuple::write_tuple,
};

/// The filter of the walk under way: one entry, which user space sets before each walk.
#[map]
static WALK_FILTER: Array<WalkFilter> = Array::with_max_entries(1, 0);

/// Returns the filter of the walk under way.
#[inline(always)]
pub(crate) fn walk_filter() -> Option<&'static WalkFilter> {
    WALK_FILTER.get(0)
}

/// Writes the row of a full socket, and its opener if one is stored. `sock` and `tcp` are the same
/// socket, `cookie` is its cookie, and `state` the state in which it was found.
#[inline(always)]
pub(crate) fn write_full_socket(
    ctx: &IterContext,
    sock: Sock,
    tcp: TcpSock,
    cookie: u64,
    state: u8,
    filter: &WalkFilter,
) {
    let opener = opener::of_sock(sock);
    let mut row = start_row(tcp.as_common(), cookie, state, tcp.local_port());
    // SAFETY: the helper takes no arguments.
    let jiffies = unsafe { bpf_jiffies64() } as u32; // the kernel's timestamps have the lower 32 bits
    row.flags = RowFlags::HAS_SEQUENCES;
    match tcp.socket() {
        None => row.flags |= RowFlags::IN_ACCEPT_QUEUE,
        Some(socket) => {
            if let Some(file) = socket.file() {
                row.flags |= RowFlags::HAS_FILE;
                // The number of the inode takes two more loads.
                if filter.needs_inode.get() {
                    row.inode = file.inode().number() as u32; // the kernel numbers sockets with 32 bits
                }
            }
        }
    }
    if opener.is_some() {
        row.flags |= RowFlags::HAS_OPENER;
    }
    (row.snd_una, row.rcv_nxt) = (tcp.snd_una(), tcp.rcv_nxt());
    (row.unread, row.unsent) = if state == state::LISTEN {
        (tcp.backlog(), tcp.backlog_limit())
    } else {
        (row.rcv_nxt.wrapping_sub(tcp.copied_seq()), tcp.write_seq().wrapping_sub(row.snd_una))
    };
    row.since_ack_jiffies = jiffies.wrapping_sub(tcp.last_ack());
    row.since_data_jiffies = jiffies.wrapping_sub(tcp.last_data());
    row.sk_err = tcp.err();
    // Two writes, because both together would take more of the stack.
    ctx.write_row(&row);
    if let Some(opener) = opener {
        ctx.write_row(opener);
    }
}

/// Writes the row of a timewait socket in FIN_WAIT2.
#[inline(always)]
pub(crate) fn write_timewait_socket(ctx: &IterContext, timewait: TimewaitSock, cookie: u64) {
    let common = timewait.as_common();
    let mut row = start_row(common, cookie, state::FIN_WAIT2, common.held_port());
    row.flags = RowFlags::TIMEWAIT | RowFlags::HAS_SEQUENCES;
    // In this state the peer has acknowledged all that was sent.
    row.snd_una = timewait.snd_nxt();
    row.rcv_nxt = timewait.rcv_nxt();
    ctx.write_row(&row);
}

/// Returns a row with what every socket has; the rest is 0.
#[inline(always)]
fn start_row(common: SockCommon, cookie: u64, state: u8, local_port: u16) -> SocketRow {
    let mut row = SocketRow::zeroed();
    // SAFETY: the helper takes no arguments.
    row.ktime_ns = unsafe { bpf_ktime_get_ns() };
    row.cookie = cookie;
    row.netns = common.netns();
    row.state = state;
    // SAFETY: the row is aligned to eight bytes, and so is the tuple in it.
    unsafe { write_tuple(&raw mut row.tuple, common, local_port) };
    row
}

// The tuple is written in words of eight bytes.
const _: () = assert!(core::mem::offset_of!(SocketRow, tuple) % 8 == 0);
