//! One record into the ring.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid,
        bpf_probe_read_kernel,
    },
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use bytemuck::Zeroable as _;
use tcptrace_common::{
    ABSENT, ACTOR_KNOWN, COMM_LEN, Closing, Counters, EXITING, PROCESS_NAMED, REPLACED, Transition, Tuple,
    state,
};

use crate::{
    identity,
    kernel::{config, layout},
    life, origin,
};

/// `include/linux/sched.h`
const PF_EXITING: u32 = 4;

/// The loader sets the size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Transitions that found the ring full, counted per CPU and program.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// What is read of a socket. It has no padding: until Linux 6.2 the verifier lets nothing be copied from the stack that
/// was not written there.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    /// Its two ends.
    pub(crate) tuple: Tuple,
    /// Its namespace.
    pub(crate) netns: u32,
    /// `sk->sk_err`, if it can be read.
    pub(crate) sk_err: i32,
    /// The same as a `struct tcp_sock`; null where no more than the event can be read.
    pub(crate) tcp: *const c_void,
}

/// Writes one record, or counts that there was no room for it.
#[inline(always)]
pub(crate) fn write<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    (old_state, new_state): (u8, u8),
    ktime_ns: u64,
    nth: u32,
    fields: &impl Fn() -> Fields,
) {
    // The identity comes first: the ring's space is held from `reserve` to `submit`, and no one behind us can
    // be read meanwhile.
    // SAFETY: `sk` is the live socket that changes its state.
    let cookie = unsafe { identity::of(ctx, sk) };
    if new_state == state::CLOSE {
        identity::forget(sk);
    }
    let stand_in = if new_state == state::CLOSE { origin::stand_in(sk, old_state) } else { 0 };
    let header = Header { ktime_ns, cookie, old_state, new_state, stand_in, nth };
    // A listener is no connection, and lives no connection's life.
    if config!(has_lives) == 1 && new_state == state::CLOSE && old_state != state::LISTEN {
        let Some(mut entry) = TRANSITIONS.reserve::<Closing>(0) else {
            count(&LOST, nth);
            return;
        };
        let fields = fields();
        let record = entry.as_mut_ptr();
        // SAFETY: the ring's space is ours until it is submitted. `tcp` is what `record_watched` has checked.
        unsafe {
            header.fill(&mut *(&raw mut (*record).transition).cast(), &fields);
            let counters = if fields.tcp.is_null() { Counters::zeroed() } else { life::counters(fields.tcp) };
            (&raw mut (*record).counters).write(counters);
            (&raw mut (*record).origin).write(*origin::of(sk));
        }
        entry.submit(0);
        return;
    }
    let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
        count(&LOST, nth);
        return;
    };
    header.fill(&mut entry, &fields());
    // No flags: user space is woken only when it had read everything before this record.
    entry.submit(0);
}

/// What is known of a transition before there is room for its record.
struct Header {
    ktime_ns: u64,
    cookie: u64,
    old_state: u8,
    new_state: u8,
    /// The state of what takes the socket's place; 0: nothing does.
    stand_in: u8,
    nth: u32,
}

impl Header {
    /// Writes the record.
    #[inline(always)]
    fn fill(&self, entry: &mut MaybeUninit<Transition>, fields: &Fields) {
        let &Self { ktime_ns, cookie, old_state, new_state, stand_in, nth } = self;
        let &Fields { tuple, netns, sk_err, tcp } = fields;
        let taken_over = if nth == 0 { 0 } else { tcptrace_common::TAKEN_OVER };
        let record = entry.write(Transition {
            ktime_ns,
            cookie,
            netns,
            sk_err,
            tuple,
            old_state,
            new_state: if stand_in == 0 { new_state } else { stand_in },
            flags: if stand_in == 0 { taken_over } else { taken_over | REPLACED },
            pad: 0,
            pid: 0,
            tid: 0,
            uid: 0,
            comm: [0; COMM_LEN],
            thread_comm: [0; COMM_LEN],
        });
        if current_task_acts(old_state, new_state, !tcp.is_null() && sk_err == 0) {
            actor(record);
        }
    }
}

/// Adds one to a counter of this CPU that no other program writes. (Where the kernel lets a program interrupt
/// itself, until Linux 6.1, one of two losses at once may go uncounted; the other is not.)
#[inline(always)]
pub(crate) fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: as said.
        unsafe { *counter += 1 };
    }
}

/// Whether the task on this CPU is the one that caused the change. All others run in softirq, on whatever
/// task the CPU was busy with.
///
/// A socket goes straight to CLOSE without an error where its process closes it with data unread, or aborts it
/// (`__tcp_close`, `tcp_disconnect`, `net/ipv4/tcp.c`). With one it was a reset, or a timeout. `has_no_error`: whether
/// that is known.
#[inline(always)]
fn current_task_acts(old_state: u8, new_state: u8, has_no_error: bool) -> bool {
    match (old_state, new_state) {
        (state::CLOSE, state::SYN_SENT | state::LISTEN)
        | (state::ESTABLISHED, state::FIN_WAIT1)
        | (state::CLOSE_WAIT, state::LAST_ACK)
        | (state::LISTEN, state::CLOSE) => true,
        (state::SYN_SENT | state::ESTABLISHED | state::CLOSE_WAIT, state::CLOSE) => has_no_error,
        _ => false,
    }
}

/// Fills in the current task: the process by its leader's name, and the thread by its own.
#[inline(always)]
fn actor(record: &mut Transition) {
    let pid_tgid = bpf_get_current_pid_tgid();
    record.flags |= ACTOR_KNOWN;
    record.pid = (pid_tgid >> 32) as u32;
    record.tid = pid_tgid as u32;
    record.uid = bpf_get_current_uid_gid() as u32;
    if let Ok(comm) = bpf_get_current_comm() {
        record.thread_comm = comm;
    }
    if layout!(task_leader) == ABSENT {
        return;
    }
    // SAFETY: probe reads check the addresses themselves.
    unsafe {
        let task = bpf_get_current_task() as *const c_void;
        let member = |offset: u32| task.byte_add(offset as usize);
        if bpf_probe_read_kernel(member(layout!(task_flags)).cast::<u32>())
            .is_ok_and(|flags| flags & PF_EXITING != 0)
        {
            record.flags |= EXITING;
        }
        let comm = bpf_probe_read_kernel(member(layout!(task_leader)).cast::<*const c_void>())
            .and_then(|leader| bpf_probe_read_kernel(leader.byte_add(layout!(task_comm) as usize).cast()));
        if let Ok(comm) = comm {
            record.comm = comm;
            record.flags |= PROCESS_NAMED;
        }
    }
}
