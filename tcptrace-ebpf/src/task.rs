//! The task on this CPU.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel,
    generated::{bpf_get_current_comm, bpf_get_current_task_btf},
};
use tcptrace_common::{ABSENT, COMM_LEN, Task, TransitionFlags};

use crate::kernel::{config, layout, load};

/// `include/linux/sched.h`
const PF_EXITING: u32 = 4;

/// Fills in who it is. Returns PROCESS_NAMED and EXITING, where that is so.
///
/// # Safety
/// All of `task` can be written to.
#[inline(always)]
pub(crate) unsafe fn current(task: *mut Task) -> TransitionFlags {
    // SAFETY: as promised by the caller.
    let (flags, is_named) = unsafe { if config!(has_task).get() { read(task) } else { ask(task) } };
    let named = if is_named { TransitionFlags::PROCESS_NAMED } else { TransitionFlags::empty() };
    if flags & PF_EXITING == 0 { named } else { named | TransitionFlags::EXITING }
}

/// Reads it from the task itself, which takes less than a helper for each part of it. Returns its `PF_` flags, and that the
/// process's name is known.
///
/// # Safety
/// As [`current`].
#[inline(always)]
unsafe fn read(task: *mut Task) -> (u32, bool) {
    // SAFETY: as promised by the caller; the offsets are those of a task's members.
    unsafe {
        let current: *const c_void = bpf_get_current_task_btf().cast();
        let cred: *const c_void = load(current, layout!(task_cred));
        let leader: *const c_void = load(current, layout!(task_leader));
        (*task).pid = load(current, layout!(task_tgid));
        (*task).tid = load(current, layout!(task_pid));
        (*task).uid = load(cred, layout!(cred_uid));
        put((&raw mut (*task).thread_comm).cast(), words(current, layout!(task_comm)));
        put((&raw mut (*task).comm).cast(), words(leader, layout!(task_comm)));
        (load(current, layout!(task_flags)), true)
    }
}

/// Asks the helpers. The process's name, which is its thread group leader's, and the flags are read where that is possible.
///
/// # Safety
/// As [`current`].
#[inline(always)]
unsafe fn ask(task: *mut Task) -> (u32, bool) {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: as promised by the caller. A name is as long as the helper is told; probe reads check the addresses
    // themselves.
    unsafe {
        (*task).pid = (pid_tgid >> 32) as u32;
        (*task).tid = pid_tgid as u32;
        (*task).uid = bpf_get_current_uid_gid() as u32;
        bpf_get_current_comm((&raw mut (*task).thread_comm).cast(), COMM_LEN as u32);
        let comm: *mut Words = (&raw mut (*task).comm).cast();
        put(comm, [0; 4]);
        if layout!(task_leader) == ABSENT {
            return (0, false);
        }
        let current = bpf_get_current_task() as *const c_void;
        let member = |offset: u32| current.byte_add(offset as usize);
        let flags = bpf_probe_read_kernel(member(layout!(task_flags)).cast()).unwrap_or(0);
        let named = bpf_probe_read_kernel(member(layout!(task_leader)).cast::<*const c_void>())
            .and_then(|leader| bpf_probe_read_kernel(leader.byte_add(layout!(task_comm) as usize).cast()))
            .map(|name| put(comm, name));
        (flags, named.is_ok())
    }
}

/// A name, as it is copied: a [`Task`] is aligned to that.
type Words = [u32; COMM_LEN / 4];

/// Sixteen bytes of a kernel structure.
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn words(base: *const c_void, offset: u32) -> Words {
    // SAFETY: as promised by the caller.
    unsafe { [load(base, offset), load(base, offset + 4), load(base, offset + 8), load(base, offset + 12)] }
}

/// Writes them word by word. (The compiler would rather call a function that does so byte by byte.)
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
unsafe fn put<const N: usize>(to: *mut [u32; N], words: [u32; N]) {
    let mut place = to.cast::<u32>();
    for word in words {
        // SAFETY: one of the N that may be written to.
        unsafe {
            place.write_volatile(word);
            place = place.add(1);
        }
    }
}

/// A task as words.
type TaskWords = [u32; size_of::<Task>() / 4];

/// Nobody.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn clear(to: *mut Task) {
    // SAFETY: as promised by the caller; it is as long, and aligned alike.
    unsafe { put(to.cast::<TaskWords>(), [0; size_of::<Task>() / 4]) }
}

/// The same one as there.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn copy(to: *mut Task, from: &Task) {
    // SAFETY: as promised by the caller; it is as long, and aligned alike.
    unsafe { put(to.cast::<TaskWords>(), *core::ptr::from_ref(from).cast::<TaskWords>()) }
}
