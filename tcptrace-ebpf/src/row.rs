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
use tcptrace_common::{Descriptor, IN_ACCEPT_QUEUE, STAND_IN, SocketRow, state};

use crate::{
    IterContext, identity,
    kernel::{self, layout, load},
    origin,
};

/// The states wanted from the walk under way, as a mask, for each iterator
/// (`tcptrace_common::WANTED_SOCKETS`, `WANTED_HELD`). User space sets them before each walk.
#[map]
static ROW_STATES: Array<u32> = Array::with_max_entries(2, 0);

/// Writes the row of the socket at `sk` and where it came from, where it is a TCP socket in a wanted state; `by` says
/// which iterator asks. Says whether it is.
#[inline(always)]
pub(crate) fn write_socket(ctx: &IterContext, sk: *const c_void, by: u32) -> bool {
    if sk.is_null() {
        return false;
    }
    let wanted = ROW_STATES.get(by).copied().unwrap_or(0);
    // SAFETY: every socket, mini-sockets included, begins with `struct sock_common`.
    let found_in: u8 = unsafe { load(sk, layout!(state)) };
    let is_written = if found_in == state::TIME_WAIT {
        wanted & state::bit(state::FIN_WAIT2) != 0 && write_stand_in(ctx, sk)
    } else {
        wanted & state::bit(found_in) != 0 && write_full_socket(ctx, sk, found_in)
    };
    // One after the other, for the sake of the stack. A row of which only a part fits the kernel takes back.
    if is_written {
        ctx.write(origin::of(sk).unwrap_or(&origin::UNKNOWN));
    }
    is_written
}

/// A socket that nobody holds any more is replaced in FIN_WAIT2 already by the stand-in for its TIME_WAIT
/// (`tcp_time_wait`, `net/ipv4/tcp_minisocks.c`).
#[inline(always)]
fn write_stand_in(ctx: &IterContext, sk: *const c_void) -> bool {
    // SAFETY: `sk` is the iterator's own pointer; null for what is not such a stand-in.
    let stand_in: *const c_void = unsafe { bpf_skc_to_tcp_timewait_sock(sk.cast_mut()) }.cast();
    // SAFETY: not null; the offsets are those of what it begins with.
    if stand_in.is_null() || unsafe { load::<u8>(stand_in, layout!(substate)) } != state::FIN_WAIT2 {
        return false;
    }
    // SAFETY: as above.
    let row = unsafe {
        SocketRow {
            ktime_ns: bpf_ktime_get_ns(),
            cookie: identity::of(ctx, sk),
            inode: 0,
            netns: kernel::netns(stand_in),
            state: state::FIN_WAIT2,
            flags: STAND_IN,
            pad: 0,
            tuple: kernel::ends(stand_in, load(stand_in, layout!(held_port))),
            unread: 0,
            unsent: 0,
            since_ack_jiffies: 0,
            since_data_jiffies: 0,
            sk_err: 0,
            pad2: 0,
        }
    };
    ctx.write(&row);
    true
}

#[inline(always)]
fn write_full_socket(ctx: &IterContext, sk: *const c_void, found_in: u8) -> bool {
    // SAFETY: `sk` is the iterator's own pointer; null for what is not a full TCP socket.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return false;
    }
    // SAFETY: `tcp` is not null; the offsets are those of `struct tcp_sock` and of what its pointers lead to.
    let row = unsafe {
        let jiffies = bpf_jiffies64() as u32;
        let socket: *const c_void = load(tcp, layout!(socket));
        let (unread, unsent) = if found_in == state::LISTEN {
            (load(tcp, layout!(backlog)), load(tcp, layout!(backlog_limit)))
        } else {
            (
                difference(tcp, layout!(rcv_nxt), layout!(copied_seq)),
                difference(tcp, layout!(write_seq), layout!(snd_una)),
            )
        };
        SocketRow {
            ktime_ns: bpf_ktime_get_ns(),
            cookie: identity::of(ctx, sk),
            inode: if socket.is_null() { 0 } else { inode(socket) },
            netns: kernel::netns(tcp),
            state: found_in,
            flags: if socket.is_null() { IN_ACCEPT_QUEUE } else { 0 },
            pad: 0,
            tuple: kernel::ends(tcp, kernel::local_port(tcp)),
            unread,
            unsent,
            since_ack_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_ack))),
            since_data_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_data))),
            sk_err: load(tcp, layout!(err)),
            pad2: 0,
        }
    };
    ctx.write(&row);
    true
}

/// The descriptor `fd` of `task`.
#[inline(always)]
pub(crate) fn descriptor(task: *const c_void, fd: u32) -> Descriptor {
    // SAFETY: `task` is the iterator's own pointer, checked for null by the caller.
    unsafe {
        let leader: *const c_void = load(task, layout!(task_leader));
        let cred: *const c_void = load(task, layout!(task_cred));
        Descriptor {
            pid: load(task, layout!(task_tgid)),
            tid: load(task, layout!(task_pid)),
            fd,
            uid: load(cred, layout!(cred_uid)),
            start_ns: load(leader, layout!(task_start)),
            comm: bytemuck::cast(kernel::two_words(leader, layout!(task_comm))),
        }
    }
}

/// `a − b` of two sequence numbers.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null.
#[inline(always)]
unsafe fn difference(tcp: *const c_void, a: u32, b: u32) -> u32 {
    // SAFETY: as promised by the caller.
    unsafe { load::<u32>(tcp, a).wrapping_sub(load(tcp, b)) }
}

/// The inode number of a socket's file.
///
/// # Safety
/// `socket` is a `struct socket`, not null.
#[inline(always)]
unsafe fn inode(socket: *const c_void) -> u64 {
    // SAFETY: a pointer that is null or stale reads as zeros.
    unsafe {
        let file: *const c_void = load(socket, layout!(socket_file));
        let inode: *const c_void = load(file, layout!(file_inode));
        load(inode, layout!(inode_number))
    }
}
