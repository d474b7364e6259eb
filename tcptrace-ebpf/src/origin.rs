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
use tcptrace_common::{COMM_LEN, Origin, PROCESS_NAMED, Task, UNKNOWN_ORIGIN};

use crate::{kernel::config, task};

#[btf_map]
static ORIGINS: SkStorage<Origin> = SkStorage::new();

/// Of a socket that nothing is remembered of.
pub(crate) static UNKNOWN: Origin = Origin {
    ktime_ns: 0,
    task: Task { pid: 0, tid: 0, uid: 0, comm: [0; COMM_LEN], thread_comm: [0; COMM_LEN] },
    how: UNKNOWN_ORIGIN,
    stand_in: 0,
    flags: 0,
    pad: 0,
};

/// Remembers the current task as the one that brought the socket at `sk` into its process.
#[inline(always)]
pub(crate) fn remember(sk: *const c_void, how: u8) {
    // SAFETY: `sk` is a live `struct sock`; the helper answers null for whatever is not a full TCP socket.
    if config!(has_storage) == 0 || unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.is_null() {
        return;
    }
    let Some(origin) = slot(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) else { return };
    // SAFETY: the slot belongs to this socket, which one task at a time opens.
    unsafe {
        (*origin).ktime_ns = bpf_ktime_get_ns();
        (*origin).how = how;
        (*origin).stand_in = 0;
        (*origin).flags = task::current(&raw mut (*origin).task) & PROCESS_NAMED;
    }
}

/// Remembers that a stand-in in `state` is about to take the place of the socket at `sk`.
#[inline(always)]
pub(crate) fn replaced_by(sk: *const c_void, state: u32) {
    if config!(has_storage) == 1
        && let Some(origin) = slot(sk, BPF_SK_STORAGE_GET_F_CREATE.into())
    {
        // SAFETY: the slot belongs to this socket, which the kernel has locked.
        unsafe { (*origin).stand_in = state as u8 };
    }
}

/// What is remembered of the socket at `sk`, if anything is.
#[inline(always)]
pub(crate) fn of(sk: *const c_void) -> Option<&'static Origin> {
    if config!(has_storage) == 0 {
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
pub(crate) unsafe fn put(to: *mut Origin, origin: Option<&Origin>) {
    let origin = origin.unwrap_or(&UNKNOWN);
    // SAFETY: as promised by the caller.
    unsafe {
        (*to).ktime_ns = origin.ktime_ns;
        task::copy(&raw mut (*to).task, &origin.task);
        ((*to).how, (*to).stand_in) = (origin.how, origin.stand_in);
        ((*to).flags, (*to).pad) = (origin.flags, 0);
    }
}

#[inline(always)]
fn slot(sk: *const c_void, flags: u64) -> Option<*mut Origin> {
    let map = from_ref(&ORIGINS).cast_mut().cast();
    // SAFETY: `sk` is a live `struct sock`.
    let slot: *mut Origin =
        unsafe { bpf_sk_storage_get(map, sk.cast_mut().cast(), null_mut(), flags) }.cast();
    (!slot.is_null()).then_some(slot)
}
