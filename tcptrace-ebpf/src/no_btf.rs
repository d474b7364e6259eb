//! Kernels without BTF: the event of tracefs in place of the tracepoint's arguments.
//!
//! The kernel skips the program at the event while any program at an event, or a bpf(2) that reads
//! or changes a map, is at work on this CPU. It counts these skips only from Linux 6.7 on
//! (`trace_call_bpf`, `kernel/trace/bpf_trace.c`), and without BTF no fallback program can handle
//! them. A program at the raw tracepoint is not skipped for these reasons (`__bpf_trace_run` in the
//! same file) and needs no BTF, but the kernel passes it only the address of the socket and the
//! states. So it comes second on the same tracepoint and counts the same transitions: the
//! difference is lost. When it finds a loss it wakes user space, because the next transition may be
//! long in coming.

use aya_ebpf::{
    EbpfContext,
    macros::map,
    maps::PerCpuArray,
    programs::{RawTracePointContext, TracePointContext},
};
use bytemuck::Zeroable as _;
use tcptrace_common::{
    AF_INET6, Counters, OpenerRecord, TransitionFlags, TransitionRecord, Tuple,
    event_count::{HAPPENED, SEEN},
    state, v4_mapped,
};

use crate::{
    change::{Program, RawChange},
    config::config,
    cookie,
    emit::{ChangedSocket, add_to, emit_change, wake_reader},
    held_back::take_held_back,
};

/// The number of TCP among the protocols (`include/uapi/linux/in.h`).
const IPPROTO_TCP: u16 = 6;

/// The index in [`EVENT_COUNTS`] of what [`SEEN`] was at the last run of the counting program.
const SEEN_BEFORE: u32 = 2;

/// Per CPU: the counts [`SEEN`], [`HAPPENED`] and [`SEEN_BEFORE`].
#[map]
static EVENT_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// Reads the offset of a field of the event from the configuration.
macro_rules! event {
    ($field:ident) => {
        config!(event.$field) as usize // addresses have 64 bits
    };
}

/// Handles a change from what the event has: no namespace, no error, and a cookie of our own.
///
/// # Errors
/// The event cannot be read, which the kernel never lets happen.
#[inline(always)]
pub(crate) fn handle_event(ctx: &TracePointContext) -> Result<(), i32> {
    // SAFETY: a probe read checks the address itself, and these are the offsets of fields of these
    // types in the event (`tcptrace_common::EventLayout`).
    let (address, change, protocol, remote_port): (u64, _, u16, u16) = unsafe {
        let (old_state, new_state) = (ctx.read_at(event!(old_state))?, ctx.read_at(event!(new_state))?);
        let change = RawChange::new(old_state, new_state, Program::Primary);
        (
            ctx.read_at(event!(socket))?,
            change,
            ctx.read_at(event!(protocol))?,
            ctx.read_at(event!(remote_port))?,
        )
    };
    if !change.is_watched() {
        if change.new_state == state::CLOSE {
            cookie::forget_address(address);
        }
        return Ok(());
    }
    // Count every protocol, because the counting program does not know the protocol.
    add_to(&EVENT_COUNTS, SEEN, 1);
    if protocol != IPPROTO_TCP {
        return Ok(());
    }
    let socket = EventSocket { address, tuple: read_tuple(ctx, remote_port)? };
    emit_change(ctx, change, socket);
    Ok(())
}

fn read_tuple(ctx: &TracePointContext, remote_port: u16) -> Result<Tuple, i32> {
    // SAFETY: as in `handle_event`.
    unsafe {
        let family: u16 = ctx.read_at(event!(family))?;
        let (local_addr, remote_addr) = if family == AF_INET6 {
            (ctx.read_at(event!(local_v6))?, ctx.read_at(event!(remote_v6))?)
        } else {
            (v4_mapped(ctx.read_at(event!(local_v4))?), v4_mapped(ctx.read_at(event!(remote_v4))?))
        };
        let local_port = ctx.read_at(event!(local_port))?;
        Ok(Tuple { local_addr, remote_addr, local_port, remote_port, family, interface: 0 })
    }
}

/// A socket as far as an event describes it.
#[derive(Clone, Copy)]
struct EventSocket {
    address: u64,
    tuple: Tuple,
}

impl ChangedSocket for EventSocket {
    #[inline(always)]
    fn address(self) -> u64 {
        self.address
    }

    #[inline(always)]
    fn has_peer(self) -> bool {
        self.tuple.remote_port != 0
    }

    #[inline(always)]
    fn cookie<C: EbpfContext>(self, ctx: &C) -> u64 {
        cookie::of_address(ctx, self.address)
    }

    #[inline(always)]
    fn forget_cookie(self) {
        cookie::forget_address(self.address);
    }

    #[inline(always)]
    unsafe fn write_socket(self, record: *mut TransitionRecord) -> Option<i32> {
        // SAFETY: the caller vouches for `record`.
        unsafe { ((*record).tuple, (*record).netns, (*record).sk_err) = (self.tuple, 0, 0) };
        None
    }

    #[inline(always)]
    fn close_flags(self, _old_state: u8) -> TransitionFlags {
        TransitionFlags::empty()
    }

    #[inline(always)]
    fn stored_opener(self) -> Option<&'static OpenerRecord> {
        None
    }

    #[inline(always)]
    fn read_counters(self) -> Counters {
        Counters::zeroed()
    }
}

/// Counts a change that has happened. No other program runs for it after this one.
#[inline(always)]
pub(crate) fn count_event(ctx: &RawTracePointContext) {
    let address: u64 = ctx.arg(0);
    let change = RawChange::new(ctx.arg(1), ctx.arg(2), Program::Primary);
    if change.new_state == state::CLOSE {
        // The other program has not done it if it was skipped, and the next socket at the address
        // is another one.
        cookie::forget_address(address);
    }
    if !change.is_watched() {
        return;
    }
    // A record that was held back until this change is lost with it.
    let with_held_back = change.old_state == state::SYN_RECV && take_held_back(address).is_some();
    add_to(&EVENT_COUNTS, HAPPENED, 1 + u64::from(with_held_back));
    let (Some(seen), Some(before)) = (EVENT_COUNTS.get(SEEN), EVENT_COUNTS.get_ptr_mut(SEEN_BEFORE)) else {
        return;
    };
    // If this program finds no new count here, the other was skipped, or another transition came in
    // between, or the task moved to another CPU. So this only decides when user space looks; the
    // counts say how many were lost.
    // SAFETY: the counter is that of this CPU.
    let before = unsafe { &mut *before };
    if *seen == *before {
        wake_reader();
    }
    *before = *seen;
}
