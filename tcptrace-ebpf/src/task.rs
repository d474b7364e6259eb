//! The task on this CPU.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid,
    bpf_probe_read_kernel,
};
use tcptrace_common::{ABSENT, COMM_LEN, EXITING, PROCESS_NAMED, Task};

use crate::kernel::layout;

/// `include/linux/sched.h`
const PF_EXITING: u32 = 4;

/// Fills in who it is. Returns [`PROCESS_NAMED`] and [`EXITING`], where that is so.
#[inline(always)]
pub(crate) fn current(task: &mut Task) -> u8 {
    let pid_tgid = bpf_get_current_pid_tgid();
    *task = Task {
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: [0; COMM_LEN],
        thread_comm: bpf_get_current_comm().unwrap_or([0; COMM_LEN]),
    };
    if layout!(task_leader) == ABSENT {
        return 0;
    }
    // SAFETY: probe reads check the addresses themselves.
    unsafe {
        let current = bpf_get_current_task() as *const c_void;
        let member = |offset: u32| current.byte_add(offset as usize);
        let is_exiting = bpf_probe_read_kernel(member(layout!(task_flags)).cast::<u32>())
            .is_ok_and(|flags| flags & PF_EXITING != 0);
        let comm = bpf_probe_read_kernel(member(layout!(task_leader)).cast::<*const c_void>())
            .and_then(|leader| bpf_probe_read_kernel(leader.byte_add(layout!(task_comm) as usize).cast()));
        let exiting = if is_exiting { EXITING } else { 0 };
        let Ok(comm) = comm else { return exiting };
        task.comm = comm;
        exiting | PROCESS_NAMED
    }
}
