//! The task on this CPU: its identity, and whether it caused a transition.

use core::{ffi::c_void, ptr::from_ref};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel,
    generated::bpf_get_current_comm,
};
use tcptrace_common::{ABSENT, COMM_LEN, Task, TransitionFlags, state};

use crate::{
    change::RawChange,
    config::config,
    pointers::{CommWords, TaskStruct, TcpSock, sock_flag},
};

/// The flag of a task that is exiting (`include/linux/sched.h`).
const PF_EXITING: u32 = 4;

/// Returns whether the current task causes this change. `has_no_error`: whether the socket is known
/// to have no error.
///
/// All other changes happen in softirq, on top of whatever task the CPU was running. A socket goes
/// straight to CLOSE without an error if its process closes it with unread data or aborts it
/// (`__tcp_close`, `tcp_disconnect`, `net/ipv4/tcp.c`); with an error it was a reset or a timeout.
#[inline(always)]
pub(crate) fn causes_change(change: RawChange, has_no_error: bool) -> bool {
    match (change.old_state, change.new_state) {
        (state::CLOSE, state::SYN_SENT | state::LISTEN)
        | (state::ESTABLISHED, state::FIN_WAIT1)
        | (state::CLOSE_WAIT, state::LAST_ACK)
        | (state::LISTEN, state::CLOSE) => true,
        (state::SYN_SENT | state::ESTABLISHED | state::CLOSE_WAIT, state::CLOSE) => has_no_error,
        _ => false,
    }
}

/// Returns what ended a closing socket that enters CLOSE without an error.
///
/// - COMPLETED: the peer acknowledged our FIN or, in FIN_WAIT2, sent its own. Both show in the
///   socket by now.
/// - `ACTOR_KNOWN`: a process that had shut the socket down closes it, holding its lock. With
///   ABORTED, it closes the socket before an orderly end: the kernel orphans a socket before an
///   orderly close, but after an abort (`__tcp_close`, `net/ipv4/tcp.c`).
/// - Empty: the reason is not known, and no task holds the lock. A timer gave up a socket without a
///   process, or data arrived for one.
#[inline(always)]
pub(crate) fn close_flags(tcp: TcpSock, old_state: u8) -> TransitionFlags {
    find_close_flags(tcp, old_state).unwrap_or(TransitionFlags::empty())
}

#[inline(always)]
fn find_close_flags(tcp: TcpSock, old_state: u8) -> Option<TransitionFlags> {
    let flags = tcp.flags()?;
    let is_complete = match old_state {
        state::FIN_WAIT2 => flags & sock_flag::DONE != 0,
        state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK => tcp.snd_una() == tcp.write_seq(),
        _ => return None,
    };
    if is_complete {
        return Some(TransitionFlags::COMPLETED);
    }
    if tcp.owned()? == 0 {
        return None;
    }
    // SO_LINGER 0 sends no reset if the peer has closed too and all data was sent
    // (`tcp_disconnect`).
    let sends_no_reset = flags & sock_flag::LINGER != 0
        && matches!(old_state, state::CLOSING | state::LAST_ACK)
        && tcp.snd_nxt() == tcp.write_seq();
    let is_orderly = flags & sock_flag::DEAD != 0 || sends_no_reset;
    let aborted = if is_orderly { TransitionFlags::empty() } else { TransitionFlags::ABORTED };
    Some(TransitionFlags::ACTOR_KNOWN | aborted)
}

/// Writes the current task. Returns `PROCESS_NAMED` and `EXITING` as they apply.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn write_current_task(to: *mut Task) -> TransitionFlags {
    // SAFETY: the caller vouches for `to`.
    let (pf_flags, is_named) =
        unsafe { if config!(has_task).get() { read_task(to) } else { ask_helpers(to) } };
    let mut flags = TransitionFlags::empty();
    if is_named {
        flags |= TransitionFlags::PROCESS_NAMED;
    }
    if pf_flags & PF_EXITING != 0 {
        flags |= TransitionFlags::EXITING;
    }
    flags
}

/// Reads the current task by loads, which is faster than a helper for each part. Returns its `PF_`
/// flags, and `true` because the name of the process is known.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
unsafe fn read_task(to: *mut Task) -> (u32, bool) {
    let task = TaskStruct::current();
    let (cred, leader) = (task.cred(), task.group_leader());
    // SAFETY: the caller vouches for `to`.
    unsafe {
        (*to).pid = task.tgid();
        (*to).tid = task.pid();
        (*to).uid = cred.uid();
        write_words((&raw mut (*to).thread_comm).cast(), task.comm());
        write_words((&raw mut (*to).comm).cast(), leader.comm());
    }
    (task.flags(), true)
}

/// Asks helpers for the current task. Returns its `PF_` flags, and whether the name of the process
/// is known.
///
/// The name of the process, which is that of the thread group leader, and the `PF_` flags are
/// probed if their offsets are known.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
unsafe fn ask_helpers(to: *mut Task) -> (u32, bool) {
    let (tgid, pid) = split_halves(bpf_get_current_pid_tgid());
    let (_gid, uid) = split_halves(bpf_get_current_uid_gid());
    // SAFETY: the caller vouches for `to`. The helper writes no more bytes than `thread_comm` has.
    let comm: *mut CommWords = unsafe {
        ((*to).pid, (*to).tid, (*to).uid) = (tgid, pid, uid);
        bpf_get_current_comm((&raw mut (*to).thread_comm).cast(), COMM_BYTES);
        (&raw mut (*to).comm).cast()
    };
    // SAFETY: the caller vouches for `to`, and `comm` has as many bytes.
    unsafe { write_words(comm, [0; COMM_LEN / 4]) };
    if config!(layout.task_leader) == ABSENT {
        return (0, false);
    }
    // SAFETY: a probe read checks the address itself, and these are offsets of members of the types
    // that are read. `comm` has as many bytes as before.
    unsafe {
        let task = bpf_get_current_task() as *const c_void; // the helper returns the address as a number
        let pf_flags = bpf_probe_read_kernel(member_address(task, config!(layout.task_flags))).unwrap_or(0);
        let name = bpf_probe_read_kernel(member_address(task, config!(layout.task_leader)))
            .and_then(|leader| bpf_probe_read_kernel(member_address(leader, config!(layout.task_comm))));
        let is_named = name.map(|name| write_words(comm, name)).is_ok();
        (pf_flags, is_named)
    }
}

/// The size that is passed to `bpf_get_current_comm`.
const COMM_BYTES: u32 = COMM_LEN as u32; // 16

/// Returns the address of a member. It is for a probe read, which checks the address.
#[inline(always)]
const fn member_address<T>(base: *const c_void, offset: u32) -> *const T {
    base.wrapping_byte_add(offset as usize).cast() // addresses have 64 bits
}

/// Splits a number into its upper and its lower 32 bits.
#[inline(always)]
const fn split_halves(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32) // each cast keeps the half it is about
}

/// Writes words one by one. For a plain copy the compiler calls a function that copies byte by
/// byte.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
unsafe fn write_words<const N: usize>(to: *mut [u32; N], words: [u32; N]) {
    let mut place = to.cast::<u32>();
    for word in words {
        // SAFETY: `place` is one of the N words of `to`.
        unsafe {
            place.write_volatile(word);
            place = place.add(1);
        }
    }
}

/// The words that make up a [`Task`].
type TaskWords = [u32; size_of::<Task>() / 4];

/// Writes the task that stands for an unknown one: zeros.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn write_no_task(to: *mut Task) {
    // SAFETY: the caller vouches for `to`. A task has the size and the alignment of its words.
    unsafe { write_words(to.cast::<TaskWords>(), [0; size_of::<Task>() / 4]) }
}

/// Writes a copy of a task.
///
/// # Safety
/// All of `to` can be written to.
#[inline(always)]
pub(crate) unsafe fn write_task(to: *mut Task, from: &Task) {
    // SAFETY: the caller vouches for `to`. A task has the size and the alignment of its words, and
    // no padding.
    unsafe { write_words(to.cast::<TaskWords>(), *from_ref(from).cast::<TaskWords>()) }
}
