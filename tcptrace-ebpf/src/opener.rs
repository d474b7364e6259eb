//! Stores with a socket who opened it, and which timewait socket is about to replace it.
//!
//! The kernel keeps both in the socket's storage (`BPF_MAP_TYPE_SK_STORAGE`,
//! `Documentation/bpf/map_sk_storage.rst`). They are written once or twice in the life of a socket,
//! vanish with it, and are read only when a record needs them.

use core::ptr::{from_ref, null_mut};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::{bpf_ktime_get_ns, generated::bpf_sk_storage_get},
    macros::btf_map,
};
use tcptrace_common::{COMM_LEN, OpenCall, OpenerFlags, OpenerRecord, Task, TransitionFlags};

use crate::{
    actor::{write_current_task, write_task},
    config::config,
    pointers::Sock,
};

/// The storage of each socket.
#[btf_map]
static OPENERS: SkStorage<OpenerRecord> = SkStorage::new();

/// The opener of a socket with which nothing is stored.
static UNKNOWN: OpenerRecord = OpenerRecord {
    ktime_ns: 0,
    task: Task { pid: 0, tid: 0, uid: 0, comm: [0; COMM_LEN], thread_comm: [0; COMM_LEN] },
    call: OpenCall::UNKNOWN,
    timewait_state: 0,
    flags: OpenerFlags::empty(),
    pad: 0,
};

/// Stores the current task as the opener of a socket, if it is a TCP socket.
#[inline(always)]
pub(crate) fn store_current_task(sock: Sock, call: OpenCall) {
    if !config!(has_storage).get() || sock.as_tcp().is_none() {
        return;
    }
    let Some(opener) = find_storage(sock, BPF_SK_STORAGE_GET_F_CREATE) else { return };
    // SAFETY: the storage belongs to this socket, and one task at a time opens a socket.
    unsafe {
        (*opener).ktime_ns = bpf_ktime_get_ns();
        (*opener).call = call;
        (*opener).timewait_state = 0;
        let known = write_current_task(&raw mut (*opener).task);
        (*opener).flags = if known.contains(TransitionFlags::PROCESS_NAMED) {
            OpenerFlags::PROCESS_NAMED
        } else {
            OpenerFlags::empty()
        };
    }
}

/// Stores the state of the timewait socket that is about to replace a socket.
#[inline(always)]
pub(crate) fn store_timewait_state(sock: Sock, state: u8) {
    if config!(has_storage).get()
        && let Some(opener) = find_storage(sock, BPF_SK_STORAGE_GET_F_CREATE)
    {
        // SAFETY: the storage belongs to this socket, which the kernel has locked.
        unsafe { (*opener).timewait_state = state };
    }
}

/// Returns what is stored with a socket.
#[inline(always)]
pub(crate) fn of_sock(sock: Sock) -> Option<&'static OpenerRecord> {
    if !config!(has_storage).get() {
        return None;
    }
    // SAFETY: the storage lives as long as the socket, which the kernel holds while this program
    // runs. It is written before any record needs it.
    find_storage(sock, 0).map(|opener| unsafe { &*opener })
}

/// Writes an opener that [`of_sock`] returned.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn write_opener(to: *mut OpenerRecord, opener: Option<&OpenerRecord>) {
    let opener = opener.unwrap_or(&UNKNOWN);
    // SAFETY: the caller vouches for `to`.
    unsafe {
        (*to).ktime_ns = opener.ktime_ns;
        write_task(&raw mut (*to).task, &opener.task);
        ((*to).call, (*to).timewait_state) = (opener.call, opener.timewait_state);
        ((*to).flags, (*to).pad) = (opener.flags, 0);
    }
}

#[inline(always)]
fn find_storage(sock: Sock, flags: u32) -> Option<*mut OpenerRecord> {
    let map = from_ref(&OPENERS).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and the helper takes any live `struct sock`.
    // Without a value to start with it zeroes a new storage.
    let opener: *mut OpenerRecord =
        unsafe { bpf_sk_storage_get(map, sock.as_ptr(), null_mut(), u64::from(flags)) }.cast();
    if opener.is_null() { None } else { Some(opener) }
}
