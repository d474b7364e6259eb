//! One socket, or one descriptor that holds a socket, as a row for user space.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_jiffies64, bpf_skc_to_tcp_sock, bpf_skc_to_tcp_timewait_sock},
    },
    macros::map,
    maps::Array,
};
use tcptrace_common::{Descriptor, RowFlags, SocketRow, WalkFilter, state};

use crate::{
    IterContext, identity,
    kernel::{self, layout, load},
    origin,
};

/// What is wanted of the walk under way: one entry, which user space sets before each walk.
#[map]
static WALK_FILTER: Array<WalkFilter> = Array::with_max_entries(1, 0);

/// Writes the row of the socket at `sk` and where it came from, where it is a TCP socket in a wanted state.
#[inline(always)]
pub(crate) fn write_socket(ctx: &IterContext, sk: *const c_void) {
    let Some(wanted) = WALK_FILTER.get(0) else { return };
    if sk.is_null() {
        return;
    }
    // SAFETY: every socket, mini-sockets included, begins with `struct sock_common`.
    let found_in: u8 = unsafe { load(sk, layout!(state)) };
    if found_in == state::TIME_WAIT {
        if wanted.socket_states & state::bit(state::FIN_WAIT2) != 0 {
            write_stand_in(ctx, sk);
        }
    } else if wanted.socket_states & state::bit(found_in) != 0 {
        // SAFETY: `sk` is the iterator's own pointer; null for what is not a full TCP socket.
        let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
        if !tcp.is_null() {
            // SAFETY: `sk` is not null.
            let cookie = unsafe { identity::of(ctx, sk) };
            write_full_socket(ctx, sk, tcp, cookie, found_in, wanted);
        }
    }
}

/// Writes the descriptor `fd` of `task`, where it holds, at `sk`, a TCP socket in a wanted state, and that socket's row
/// where no walk of its namespace gives it.
#[inline(always)]
pub(crate) fn write_holder(ctx: &IterContext, sk: *const c_void, task: *const c_void, fd: u32) {
    let Some(wanted) = WALK_FILTER.get(0) else { return };
    if sk.is_null() {
        return;
    }
    // SAFETY: as there. What a descriptor holds is never a mini-socket.
    let found_in: u8 = unsafe { load(sk, layout!(state)) };
    if wanted.holder_states & state::bit(found_in) == 0 {
        return;
    }
    // SAFETY: `sk` is what a live `struct socket` leads to; null for what is not a full TCP socket.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return;
    }
    // SAFETY: neither is null.
    let (cookie, netns) = unsafe { (identity::of(ctx, sk), kernel::netns(tcp)) };
    let has_row = netns != wanted.walked_netns;
    ctx.write(&descriptor(task, fd, cookie, has_row));
    if has_row {
        write_full_socket(ctx, sk, tcp, cookie, found_in, wanted);
    }
}

/// A socket that nobody holds any more is replaced in FIN_WAIT2 already by the stand-in for its TIME_WAIT
/// (`tcp_time_wait`, `net/ipv4/tcp_minisocks.c`).
#[inline(always)]
fn write_stand_in(ctx: &IterContext, sk: *const c_void) {
    // SAFETY: `sk` is the iterator's own pointer; null for what is not such a stand-in.
    let stand_in: *const c_void = unsafe { bpf_skc_to_tcp_timewait_sock(sk.cast_mut()) }.cast();
    // SAFETY: not null; the offsets are those of what it begins with.
    if stand_in.is_null() || unsafe { load::<u8>(stand_in, layout!(timewait_substate)) } != state::FIN_WAIT2 {
        return;
    }
    // SAFETY: as above.
    let row = unsafe {
        SocketRow {
            ktime_ns: bpf_ktime_get_ns(),
            cookie: identity::of(ctx, sk),
            inode: 0,
            netns: kernel::netns(stand_in),
            state: state::FIN_WAIT2,
            flags: RowFlags::TIMEWAIT | RowFlags::HAS_SEQUENCES,
            pad: 0,
            // All is acknowledged in this state.
            snd_una: load(stand_in, layout!(timewait_snd_nxt)),
            tuple: kernel::ends(stand_in, load(stand_in, layout!(held_port))),
            unread: 0,
            unsent: 0,
            since_ack_jiffies: 0,
            since_data_jiffies: 0,
            sk_err: 0,
            rcv_nxt: load(stand_in, layout!(timewait_rcv_nxt)),
        }
    };
    ctx.write(&row);
}

/// Writes the row of the socket at `sk`, which is a full one with this identity, and where it came from; `tcp` is the same
/// socket.
#[inline(always)]
fn write_full_socket(
    ctx: &IterContext,
    sk: *const c_void,
    tcp: *const c_void,
    cookie: u64,
    found_in: u8,
    wanted: &WalkFilter,
) {
    let origin = origin::of(sk);
    // SAFETY: `tcp` is not null; the offsets are those of `struct tcp_sock` and of what its pointers lead to.
    let row = unsafe {
        let jiffies = bpf_jiffies64() as u32;
        let socket: *const c_void = load(tcp, layout!(socket));
        let (mut belongs, mut inode) = (RowFlags::IN_ACCEPT_QUEUE | RowFlags::HAS_SEQUENCES, 0);
        if !socket.is_null() {
            let file: *const c_void = load(socket, layout!(socket_file));
            belongs = if file.is_null() {
                RowFlags::HAS_SEQUENCES
            } else {
                RowFlags::HAS_SEQUENCES | RowFlags::HAS_FILE
            };
            // It is two places in memory further.
            if wanted.needs_inode.get() {
                let of_file: *const c_void = load(file, layout!(file_inode));
                inode = load::<u64>(of_file, layout!(inode_number)) as u32;
            }
        }
        let (snd_una, rcv_nxt): (u32, u32) = (load(tcp, layout!(snd_una)), load(tcp, layout!(rcv_nxt)));
        let (unread, unsent) = if found_in == state::LISTEN {
            (load(tcp, layout!(backlog)), load(tcp, layout!(backlog_limit)))
        } else {
            (
                rcv_nxt.wrapping_sub(load(tcp, layout!(copied_seq))),
                load::<u32>(tcp, layout!(write_seq)).wrapping_sub(snd_una),
            )
        };
        SocketRow {
            ktime_ns: bpf_ktime_get_ns(),
            cookie,
            inode,
            netns: kernel::netns(tcp),
            state: found_in,
            flags: if origin.is_some() { belongs | RowFlags::HAS_OPENER } else { belongs },
            pad: 0,
            snd_una,
            tuple: kernel::ends(tcp, kernel::local_port(tcp)),
            unread,
            unsent,
            since_ack_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_ack))),
            since_data_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_data))),
            sk_err: load(tcp, layout!(err)),
            rcv_nxt,
        }
    };
    // One after the other, for the sake of the stack. A row of which only a part fits the kernel takes back.
    ctx.write(&row);
    if let Some(origin) = origin {
        ctx.write(origin);
    }
}

/// The descriptor `fd` of `task`, which holds this socket.
#[inline(always)]
fn descriptor(task: *const c_void, fd: u32, cookie: u64, has_row: bool) -> Descriptor {
    // SAFETY: `task` is the iterator's own pointer, checked for null by the caller.
    unsafe {
        let leader: *const c_void = load(task, layout!(task_leader));
        let cred: *const c_void = load(task, layout!(task_cred));
        Descriptor {
            cookie,
            pid: load(task, layout!(task_tgid)),
            has_row: has_row.into(),
            fd,
            uid: load(cred, layout!(cred_uid)),
            start_ns: load(leader, layout!(task_start)),
            comm: bytemuck::cast(kernel::two_words(leader, layout!(task_comm))),
        }
    }
}
