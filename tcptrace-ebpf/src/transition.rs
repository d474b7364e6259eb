//! One state change → one [`Transition`] in the ring.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid,
        bpf_ktime_get_ns, bpf_probe_read_kernel, generated::bpf_skc_to_tcp_sock,
    },
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tcptrace_common::{ACTOR_KNOWN, COMM_LEN, Transition, state};

use crate::{
    identity,
    kernel::{self, config, layout},
};

/// The loader sets the size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Transitions that found the ring full, counted per CPU.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes the record of one transition, where it is one of TCP that is watched.
#[inline(always)]
pub(crate) fn record<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8) {
    if config!(watched_states) & (state::bit(old_state) | state::bit(new_state)) == 0 {
        return;
    }
    // SAFETY: `sk` is the tracepoint's own argument. The helper answers null for whatever is not a full TCP
    // socket: the tracepoint fires for SCTP, DCCP and MPTCP too.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return;
    }
    // The identity comes first: the ring's space is held from `reserve` to `submit`, and no one behind us can
    // be read meanwhile.
    // SAFETY: `sk` is a live `struct sock`.
    let cookie = unsafe { identity::of(ctx, sk) };
    if new_state == state::CLOSE {
        identity::forget(sk);
    }
    let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: this CPU's own slot.
            unsafe { *lost += 1 };
        }
        return;
    };
    // SAFETY: `tcp` is not null; the offsets are those of `struct tcp_sock`.
    let transition = unsafe {
        Transition {
            ktime_ns: bpf_ktime_get_ns(),
            cookie,
            netns: kernel::netns(tcp),
            sk_err: kernel::load(tcp, layout!(err)),
            tuple: kernel::tuple(tcp),
            old_state,
            new_state,
            flags: 0,
            pad: 0,
            pid: 0,
            tid: 0,
            uid: 0,
            comm: [0; COMM_LEN],
            thread_comm: [0; COMM_LEN],
        }
    };
    let record = entry.write(transition);
    if current_task_acts(old_state, new_state) {
        actor(record);
    }
    // No flags: user space is woken only when it had read everything before this record.
    entry.submit(0);
}

/// Whether the task on this CPU is the one that caused the change. All others run in softirq, on whatever
/// task the CPU was busy with.
#[inline(always)]
const fn current_task_acts(old_state: u8, new_state: u8) -> bool {
    matches!(
        (old_state, new_state),
        (state::CLOSE, state::SYN_SENT | state::LISTEN)
            | (state::ESTABLISHED, state::FIN_WAIT1)
            | (state::CLOSE_WAIT, state::LAST_ACK)
            | (state::LISTEN, state::CLOSE)
    )
}

/// Fills in the current task: the process by its leader's name, and the thread by its own.
#[inline(always)]
fn actor(record: &mut Transition) {
    let pid_tgid = bpf_get_current_pid_tgid();
    record.flags = ACTOR_KNOWN;
    record.pid = (pid_tgid >> 32) as u32;
    record.tid = pid_tgid as u32;
    record.uid = bpf_get_current_uid_gid() as u32;
    if let Ok(comm) = bpf_get_current_comm() {
        record.thread_comm = comm;
    }
    // SAFETY: probe reads check the addresses themselves.
    let comm = unsafe {
        let task = bpf_get_current_task() as *const c_void;
        bpf_probe_read_kernel(task.byte_add(layout!(task_leader) as usize).cast::<*const c_void>())
            .and_then(|leader| bpf_probe_read_kernel(leader.byte_add(layout!(task_comm) as usize).cast()))
    };
    record.comm = comm.unwrap_or(record.thread_comm);
}
