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
    programs::TracePointContext,
};
use tcptrace_common::{
    ABSENT, ACTOR_KNOWN, AF_INET6, COMM_LEN, EXITING, PROCESS_NAMED, Transition, Tuple, state, v4_mapped,
};

use crate::{
    identity,
    kernel::{self, config, layout},
    origin,
};

/// `include/uapi/linux/in.h`
const IPPROTO_TCP: u16 = 6;
/// `include/linux/sched.h`
const PF_EXITING: u32 = 4;

/// The offset of one field of the event.
macro_rules! event {
    ($field:ident) => {
        config!(event.$field) as usize
    };
}

/// The loader sets the size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Transitions that found the ring full, counted per CPU: for [`record`], and for [`take_over`].
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// 1 while [`record`] is at work on this CPU.
#[map]
static BUSY: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Transitions that [`take_over`] recorded, counted per CPU.
#[map]
static TAKEN_OVER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes the record of one transition, where it is one of TCP that is watched.
#[inline(always)]
pub(crate) fn record<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8) {
    origin::remember_opening(sk, old_state, new_state);
    if is_unwatched(sk, old_state, new_state) {
        return;
    }
    let Some(busy) = BUSY.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own slot. Volatile: whoever looks does so in the midst of what is between the two.
    unsafe { busy.write_volatile(1) };
    record_watched(ctx, sk, old_state, new_state, 0);
    // SAFETY: as above.
    unsafe { busy.write_volatile(0) };
}

/// Writes the record of a transition for which the kernel did not run [`record`]'s program, because that was at
/// work on this CPU already: an interrupt's packet, or from Linux 7 another task, came in between.
#[inline(always)]
pub(crate) fn take_over<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8) {
    // SAFETY: this CPU's own slot; volatile as where it is written.
    let was_skipped = BUSY.get_ptr_mut(0).is_some_and(|busy| unsafe { busy.read_volatile() == 1 });
    if !was_skipped || is_unwatched(sk, old_state, new_state) {
        return;
    }
    count(&TAKEN_OVER, 0);
    record_watched(ctx, sk, old_state, new_state, tcptrace_common::TAKEN_OVER);
}

#[inline(always)]
fn record_watched<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8, flags: u8) {
    // SAFETY: `sk` is the tracepoint's own argument. The helper answers null for whatever is not a full TCP
    // socket: the tracepoint fires for SCTP, DCCP and MPTCP too.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return;
    }
    // SAFETY: `sk` is a live `struct sock`, `tcp` is the same as a `struct tcp_sock`, of which the offsets are.
    submit(ctx, sk, old_state, new_state, flags, || unsafe {
        (kernel::tuple(tcp), kernel::netns(tcp), Some(kernel::load(tcp, layout!(err))))
    });
}

/// The same from what the event itself tells: no namespace, no error, and an identity made of the address.
#[inline(always)]
pub(crate) fn record_event(ctx: &TracePointContext) -> Result<(), i32> {
    // SAFETY: probe reads check the addresses themselves; the offsets are those of the event's fields.
    unsafe {
        let old_state = ctx.read_at::<u32>(event!(old_state))? as u8;
        let new_state = ctx.read_at::<u32>(event!(new_state))? as u8;
        let sk: *const c_void = ctx.read_at(event!(socket))?;
        if is_unwatched(sk, old_state, new_state) || ctx.read_at::<u16>(event!(protocol))? != IPPROTO_TCP {
            return Ok(());
        }
        let family: u16 = ctx.read_at(event!(family))?;
        let (local_addr, remote_addr) = if family == AF_INET6 {
            (ctx.read_at(event!(local_v6))?, ctx.read_at(event!(remote_v6))?)
        } else {
            (v4_mapped(ctx.read_at(event!(local_v4))?), v4_mapped(ctx.read_at(event!(remote_v4))?))
        };
        let tuple = Tuple {
            local_addr,
            remote_addr,
            local_port: ctx.read_at(event!(local_port))?,
            remote_port: ctx.read_at(event!(remote_port))?,
            family,
            pad: 0,
        };
        submit(ctx, sk, old_state, new_state, 0, || (tuple, 0, None));
    }
    Ok(())
}

/// Whether nobody wants this transition. A closed socket's identity is forgotten all the same.
#[inline(always)]
fn is_unwatched(sk: *const c_void, old_state: u8, new_state: u8) -> bool {
    let unwatched = config!(watched_states) & (state::bit(old_state) | state::bit(new_state)) == 0;
    if unwatched && new_state == state::CLOSE {
        identity::forget(sk);
    }
    unwatched
}

/// Takes one transition, of which `fields` gives tuple, namespace and `sk_err`, and writes its record.
///
/// Until Linux 6.12 a listener's child enters SYN_RECV before it is made its own: it has no peer yet, and the
/// listener's cookie. That record is held back until the child's next transition, which comes on the same CPU
/// within the same packet (`tcp_check_req`, `net/ipv4/tcp_minisocks.c`).
#[inline(always)]
fn submit<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    old_state: u8,
    new_state: u8,
    flags: u8,
    fields: impl Fn() -> (Tuple, u32, Option<i32>),
) {
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    if old_state == state::LISTEN && new_state == state::SYN_RECV {
        let (tuple, ..) = fields();
        if tuple.remote_port == 0 {
            hold_back(sk, ktime_ns);
            return;
        }
    }
    if old_state == state::SYN_RECV
        && let Some(entered_ns) = held_back(sk)
    {
        write(ctx, sk, (state::LISTEN, state::SYN_RECV), entered_ns, flags, &fields);
    }
    write(ctx, sk, (old_state, new_state), ktime_ns, flags, &fields);
}

/// A child that has entered SYN_RECV without being its own yet, one per CPU.
#[repr(C)]
struct Child {
    address: u64,
    entered_ns: u64,
}

/// See [`submit`].
#[map]
static CHILD: PerCpuArray<Child> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn hold_back(sk: *const c_void, entered_ns: u64) {
    if let Some(child) = CHILD.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot.
        unsafe { *child = Child { address: identity::number(sk), entered_ns } };
    }
}

/// When the socket at `sk` entered SYN_RECV, if that has been held back.
#[inline(always)]
fn held_back(sk: *const c_void) -> Option<u64> {
    let child = CHILD.get_ptr_mut(0)?;
    // SAFETY: this CPU's own slot.
    unsafe {
        if (*child).address == 0 || (*child).address != identity::number(sk) {
            return None;
        }
        (*child).address = 0;
        Some((*child).entered_ns)
    }
}

/// Writes one record, or counts that there was no room for it.
#[inline(always)]
fn write<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    (old_state, new_state): (u8, u8),
    ktime_ns: u64,
    flags: u8,
    fields: &impl Fn() -> (Tuple, u32, Option<i32>),
) {
    // The identity comes first: the ring's space is held from `reserve` to `submit`, and no one behind us can
    // be read meanwhile.
    // SAFETY: `sk` is the live socket that changes its state.
    let cookie = unsafe { identity::of(ctx, sk) };
    if new_state == state::CLOSE {
        identity::forget(sk);
    }
    let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
        count(&LOST, u32::from(flags & tcptrace_common::TAKEN_OVER != 0));
        return;
    };
    let (tuple, netns, sk_err) = fields();
    let record = entry.write(Transition {
        ktime_ns,
        cookie,
        netns,
        sk_err: sk_err.unwrap_or(0),
        tuple,
        old_state,
        new_state,
        flags,
        pad: 0,
        pid: 0,
        tid: 0,
        uid: 0,
        comm: [0; COMM_LEN],
        thread_comm: [0; COMM_LEN],
    });
    if current_task_acts(old_state, new_state, sk_err) {
        actor(record);
    }
    // No flags: user space is woken only when it had read everything before this record.
    entry.submit(0);
}

/// Adds one to a counter of this CPU that no other program writes. (Where the kernel lets a program interrupt
/// itself, until Linux 6.1, one of two losses at once may go uncounted; the other is not.)
#[inline(always)]
fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: as said.
        unsafe { *counter += 1 };
    }
}

/// Whether the task on this CPU is the one that caused the change. All others run in softirq, on whatever
/// task the CPU was busy with.
///
/// A socket goes straight to CLOSE without an error where its process closes it with data unread, or aborts it
/// (`__tcp_close`, `tcp_disconnect`, `net/ipv4/tcp.c`). With one it was a reset, or a timeout.
#[inline(always)]
fn current_task_acts(old_state: u8, new_state: u8, sk_err: Option<i32>) -> bool {
    match (old_state, new_state) {
        (state::CLOSE, state::SYN_SENT | state::LISTEN)
        | (state::ESTABLISHED, state::FIN_WAIT1)
        | (state::CLOSE_WAIT, state::LAST_ACK)
        | (state::LISTEN, state::CLOSE) => true,
        (state::SYN_SENT | state::ESTABLISHED | state::CLOSE_WAIT, state::CLOSE) => sk_err == Some(0),
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
