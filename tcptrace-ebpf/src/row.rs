//! One socket, or one descriptor that holds a socket, as a row for user space.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_jiffies64, bpf_skc_to_tcp_sock},
    },
    macros::map,
    maps::Array,
};
use tcptrace_common::{Descriptor, IN_ACCEPT_QUEUE, SocketRow, state};

use crate::{
    IterContext, identity,
    kernel::{self, layout, load},
    origin,
};

/// The states wanted from the walk under way, as a mask. User space sets it before each walk.
#[map]
static ROW_STATES: Array<u32> = Array::with_max_entries(1, 0);

/// Writes the row of the socket at `sk` and where it came from, where it is a full TCP socket in a wanted state.
/// Says whether it is.
#[inline(always)]
pub(crate) fn write_socket(ctx: &IterContext, sk: *const c_void) -> bool {
    let Some(row) = of_socket(ctx, sk) else { return false };
    // One after the other, for the sake of the stack. A row of which only a part fits the kernel takes back.
    ctx.write(&row);
    ctx.write(origin::of(sk));
    true
}

#[inline(always)]
fn of_socket<C: EbpfContext>(ctx: &C, sk: *const c_void) -> Option<SocketRow> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: every socket, mini-sockets included, begins with `struct sock_common`.
    let found_in: u8 = unsafe { load(sk, layout!(state)) };
    let wanted = ROW_STATES.get(0).copied().unwrap_or(0);
    if wanted & state::bit(found_in) == 0 {
        return None;
    }
    // SAFETY: `sk` is the iterator's own pointer; null for what is not a full TCP socket.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return None;
    }
    // SAFETY: `tcp` is not null; the offsets are those of `struct tcp_sock` and of what its pointers lead to.
    unsafe {
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
        Some(SocketRow {
            ktime_ns: bpf_ktime_get_ns(),
            cookie: identity::of(ctx, sk),
            inode: if socket.is_null() { 0 } else { inode(socket) },
            netns: kernel::netns(tcp),
            state: found_in,
            flags: if socket.is_null() { IN_ACCEPT_QUEUE } else { 0 },
            pad: 0,
            tuple: kernel::tuple(tcp),
            unread,
            unsent,
            since_ack_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_ack))),
            since_data_jiffies: jiffies.wrapping_sub(load(tcp, layout!(last_data))),
            sk_err: load(tcp, layout!(err)),
            pad2: 0,
        })
    }
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
            comm: kernel::sixteen_bytes(leader, layout!(task_comm)),
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
