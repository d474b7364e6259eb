//! Where a socket came from: the task that connected or accepted it, or made it listen. And what it becomes: the state
//! of the stand-in that the kernel is about to put in its place.
//!
//! Kept by the kernel with the socket (`BPF_MAP_TYPE_SK_STORAGE`, `Documentation/bpf/map_sk_storage.rst`): written
//! once or twice in a socket's life, gone with it, and read only where somebody asks.

use core::{
    ffi::c_void,
    ptr::{from_ref, null_mut},
};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_sk_storage_get, bpf_skc_to_tcp_sock},
    },
    macros::btf_map,
};
use tcptrace_common::{COMM_LEN, OpenCall, Opener, OpenerFlags, Task, TransitionFlags};

use crate::{kernel::config, task};

#[btf_map]
static OPENERS: SkStorage<Opener> = SkStorage::new();

/// Of a socket that nothing is remembered of.
pub(crate) static UNKNOWN: Opener = Opener {
    ktime_ns: 0,
    task: Task { pid: 0, tid: 0, uid: 0, comm: [0; COMM_LEN], thread_comm: [0; COMM_LEN] },
    call: OpenCall::UNKNOWN,
    timewait_state: 0,
    flags: OpenerFlags::empty(),
    pad: 0,
};

/// Remembers the current task as the one that brought the socket at `sk` into its process.
#[inline(always)]
pub(crate) fn remember(sk: *const c_void, call: OpenCall) {
    // SAFETY: `sk` is a live `struct sock`; the helper answers null for whatever is not a full TCP socket.
    if !config!(has_storage).get() || unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.is_null() {
        return;
    }
    let Some(origin) = slot(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) else { return };
    // SAFETY: the slot belongs to this socket, which one task at a time opens.
    unsafe {
        (*origin).ktime_ns = bpf_ktime_get_ns();
        (*origin).call = call;
        (*origin).timewait_state = 0;
        let known = task::current(&raw mut (*origin).task);
        (*origin).flags = if known.contains(TransitionFlags::PROCESS_NAMED) {
            OpenerFlags::PROCESS_NAMED
        } else {
            OpenerFlags::empty()
        };
    }
}

/// Remembers that a stand-in in `state` is about to take the place of the socket at `sk`.
#[inline(always)]
pub(crate) fn replaced_by(sk: *const c_void, state: u32) {
    if config!(has_storage).get()
        && let Some(origin) = slot(sk, BPF_SK_STORAGE_GET_F_CREATE.into())
    {
        // SAFETY: the slot belongs to this socket, which the kernel has locked.
        unsafe { (*origin).timewait_state = state as u8 };
    }
}

/// What is remembered of the socket at `sk`, if anything is.
#[inline(always)]
pub(crate) fn of(sk: *const c_void) -> Option<&'static Opener> {
    if !config!(has_storage).get() {
        return None;
    }
    // SAFETY: it lives as long as the socket, which is held while this program looks at it, and is written before
    // the socket is of interest to anybody.
    slot(sk, 0).map(|origin| unsafe { &*origin })
}

/// Writes what is remembered of a socket, as [`of`] gives it.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn put(to: *mut Opener, origin: Option<&Opener>) {
    let origin = origin.unwrap_or(&UNKNOWN);
    // SAFETY: as promised by the caller.
    unsafe {
        (*to).ktime_ns = origin.ktime_ns;
        task::copy(&raw mut (*to).task, &origin.task);
        ((*to).call, (*to).timewait_state) = (origin.call, origin.timewait_state);
        ((*to).flags, (*to).pad) = (origin.flags, 0);
    }
}

#[inline(always)]
fn slot(sk: *const c_void, flags: u64) -> Option<*mut Opener> {
    let map = from_ref(&OPENERS).cast_mut().cast();
    // SAFETY: `sk` is a live `struct sock`.
    let slot: *mut Opener =
        unsafe { bpf_sk_storage_get(map, sk.cast_mut().cast(), null_mut(), flags) }.cast();
    (!slot.is_null()).then_some(slot)
}
