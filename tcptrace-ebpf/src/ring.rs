//! One record into the ring.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_FORCE_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use bytemuck::Zeroable as _;
use tcptrace_common::{Closing, Counters, OpenCall, Opener, OpenerFlags, Transition, TransitionFlags, state};

use crate::{identity, kernel::config, life, origin, task};

/// The loader sets the size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Transitions that found the ring full, counted per CPU and program.
#[map]
static RING_FULL: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// Which transition, and which of the programs on the tracepoint writes it. One word, so that it fits a register.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// See [`state`].
    pub(crate) old_state: u8,
    /// See [`state`].
    pub(crate) new_state: u8,
    /// The first program is 0.
    pub(crate) nth: u8,
}

/// Where its ends, its namespace and its error are read.
pub(crate) trait Source: Copy {
    /// The same as a `struct tcp_sock`; null where no more than the event can be read.
    fn tcp(&self) -> *const c_void;

    /// Writes `tuple`, `netns` and `sk_err`; returns the last, or `None` where it is not known.
    ///
    /// # Safety
    /// All of `record` can be written to.
    unsafe fn put(&self, record: *mut Transition) -> Option<i32>;
}

/// Writes one record, or counts that there was no room for it.
#[inline(always)]
pub(crate) fn write<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    step: Step,
    ktime_ns: u64,
    source: &impl Source,
) {
    let Step { old_state, new_state, nth } = step;
    // The identity comes first: the ring's space is held from `reserve` to `submit`, and no one behind us can
    // be read meanwhile.
    // SAFETY: `sk` is the live socket that changes its state.
    let cookie = unsafe { identity::of(ctx, sk) };
    if new_state == state::CLOSE {
        identity::forget(sk);
    }
    // A listener is no connection, and lives no connection's life.
    if config!(records_lives).get() && new_state == state::CLOSE && old_state != state::LISTEN {
        let Some(mut entry) = TRANSITIONS.reserve::<Closing>(0) else {
            count(&RING_FULL, nth.into());
            return;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: the ring's space is ours until it is submitted. `tcp` is what `transition.rs` has checked.
        unsafe {
            let origin = fill(&raw mut (*record).transition, sk, step, (ktime_ns, cookie), source);
            let tcp = source.tcp();
            let counters = if tcp.is_null() { Counters::zeroed() } else { life::counters(tcp) };
            (&raw mut (*record).counters).write(counters);
            origin::put(&raw mut (*record).opener, origin);
        }
        entry.submit(0);
        return;
    }
    let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
        count(&RING_FULL, nth.into());
        return;
    };
    // SAFETY: as above.
    unsafe { fill(entry.as_mut_ptr(), sk, step, (ktime_ns, cookie), source) };
    // No flags: user space is woken only when it had read everything before this record.
    entry.submit(0);
}

/// Writes all of a record. Returns what is remembered of the socket, where that was looked for.
///
/// # Safety
/// All of `record` can be written to; `sk` is the live socket that changes its state.
#[inline(always)]
unsafe fn fill(
    record: *mut Transition,
    sk: *const c_void,
    Step { old_state, new_state, nth }: Step,
    (ktime_ns, cookie): (u64, u64),
    source: &impl Source,
) -> Option<&'static Opener> {
    // SAFETY: as promised by the caller.
    unsafe {
        (*record).ktime_ns = ktime_ns;
        (*record).cookie = cookie;
        let sk_err = source.put(record);
        (*record).old_state = old_state;
        (*record).new_state = new_state;
        (*record).pad = 0;
        let taken_over = if nth == 0 { TransitionFlags::empty() } else { TransitionFlags::FALLBACK_RECORDED };
        let ended_by = match sk_err {
            Some(0) if new_state == state::CLOSE => life::ended_by(source.tcp(), old_state),
            _ => TransitionFlags::empty(),
        };
        let task_acts = ended_by.contains(TransitionFlags::ACTOR_KNOWN)
            || current_task_acts(old_state, new_state, sk_err == Some(0));
        if task_acts && new_state != state::CLOSE {
            (*record).flags =
                taken_over | TransitionFlags::ACTOR_KNOWN | task::current(&raw mut (*record).task);
            return None;
        }
        let origin = origin::of(sk);
        let mut flags = match origin {
            _ if task_acts => {
                taken_over | TransitionFlags::ACTOR_KNOWN | task::current(&raw mut (*record).task)
            }
            Some(origin) if origin.call != OpenCall::UNKNOWN => {
                task::copy(&raw mut (*record).task, &origin.task);
                let named = origin.flags.contains(OpenerFlags::PROCESS_NAMED);
                let named = if named { TransitionFlags::PROCESS_NAMED } else { TransitionFlags::empty() };
                taken_over | TransitionFlags::OPENER_KNOWN | named
            }
            _ => {
                task::clear(&raw mut (*record).task);
                taken_over
            }
        };
        flags |= ended_by;
        if let Some(origin) = origin
            && new_state == state::CLOSE
            && matches!(old_state, state::FIN_WAIT2 | state::CLOSING)
            && matches!(origin.timewait_state, state::TIME_WAIT | state::FIN_WAIT2)
        {
            flags |= TransitionFlags::TIMEWAIT;
            (*record).new_state = origin.timewait_state;
        }
        (*record).flags = flags;
        origin
    }
}

/// Has user space look at the ring, and at the counters of what is not in it.
#[inline(always)]
pub(crate) fn wake_reader() {
    // Who finds the ring full need not wake anybody.
    if let Some(nothing) = TRANSITIONS.reserve::<u64>(0) {
        nothing.discard(BPF_RB_FORCE_WAKEUP.into());
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
