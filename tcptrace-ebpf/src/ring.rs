//! One record into the ring.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use bytemuck::Zeroable as _;
use tcptrace_common::{
    ACTOR_KNOWN, Closing, Counters, ORIGIN_KNOWN, Origin, REPLACED, TAKEN_OVER, Task, Transition, Tuple,
    UNKNOWN_ORIGIN, state,
};

use crate::{identity, kernel::config, life, origin, task};

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
    let header = Header { ktime_ns, cookie, old_state, new_state, nth };
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
            let origin = header.fill(&mut *(&raw mut (*record).transition).cast(), sk, &fields);
            let counters = if fields.tcp.is_null() { Counters::zeroed() } else { life::counters(fields.tcp) };
            (&raw mut (*record).counters).write(counters);
            (&raw mut (*record).origin).write(*origin.unwrap_or(&origin::UNKNOWN));
        }
        entry.submit(0);
        return;
    }
    let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
        count(&LOST, nth);
        return;
    };
    header.fill(&mut entry, sk, &fields());
    // No flags: user space is woken only when it had read everything before this record.
    entry.submit(0);
}

/// What is known of a transition before there is room for its record.
struct Header {
    ktime_ns: u64,
    cookie: u64,
    old_state: u8,
    new_state: u8,
    nth: u32,
}

impl Header {
    /// Writes the record. Returns what is remembered of the socket, where that was looked for.
    #[inline(always)]
    fn fill(
        &self,
        entry: &mut MaybeUninit<Transition>,
        sk: *const c_void,
        fields: &Fields,
    ) -> Option<&'static Origin> {
        let &Self { ktime_ns, cookie, old_state, new_state, nth } = self;
        let &Fields { tuple, netns, sk_err, tcp } = fields;
        let record = entry.write(Transition {
            ktime_ns,
            cookie,
            netns,
            sk_err,
            tuple,
            old_state,
            new_state,
            flags: if nth == 0 { 0 } else { TAKEN_OVER },
            pad: 0,
            task: Task::zeroed(),
        });
        let task_acts = current_task_acts(old_state, new_state, !tcp.is_null() && sk_err == 0);
        if task_acts {
            record.flags |= ACTOR_KNOWN | task::current(&mut record.task);
        }
        if task_acts && new_state != state::CLOSE {
            return None;
        }
        let origin = origin::of(sk)?;
        if !task_acts && origin.how != UNKNOWN_ORIGIN {
            record.flags |= ORIGIN_KNOWN | origin.flags;
            record.task = origin.task;
        }
        if new_state == state::CLOSE
            && matches!(old_state, state::FIN_WAIT2 | state::CLOSING)
            && matches!(origin.stand_in, state::TIME_WAIT | state::FIN_WAIT2)
        {
            record.flags |= REPLACED;
            record.new_state = origin.stand_in;
        }
        Some(origin)
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
