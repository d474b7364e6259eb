//! Whether the program at the plain event has seen every transition: without BTF no other takes over for it.
//!
//! The kernel skips it while any program at an event, or a bpf(2) that reads or changes a map, is at work on this CPU, and
//! counts that only from Linux 6.7 on (`trace_call_bpf`, `kernel/trace/bpf_trace.c`). A raw tracepoint's program is not
//! skipped for that (`__bpf_trace_run`, likewise) and needs no BTF, but is told no more than a socket's address and its
//! states. This one comes after the other on the same tracepoint and counts the same transitions; what the other has not
//! counted is lost. Where it finds that, it wakes user space: that may be the last transition for long.

use core::ffi::c_void;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcptrace_common::{
    event_count::{HAPPENED, SEEN},
    state,
};

use crate::{
    identity,
    ring::{count, wake_reader},
    transition::{held_back, is_watched},
};

/// What had been seen on this CPU when this program ran there before.
const SEEN_BEFORE: u32 = 2;

/// Counted per CPU: [`SEEN`], [`HAPPENED`], and [`SEEN_BEFORE`].
#[map]
static EVENT_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// The program at the event runs for a transition that is watched. It never interrupts itself.
#[inline(always)]
pub(crate) fn seen() {
    count(&EVENT_COUNTS, SEEN);
}

/// Such a transition has happened, and nothing else will come to run for it.
#[inline(always)]
pub(crate) fn happened(sk: *const c_void, old_state: u8, new_state: u8) {
    if new_state == state::CLOSE {
        // If the other program was skipped it could not; the address may be another socket's next.
        identity::forget(sk);
    }
    if !is_watched(old_state, new_state) {
        return;
    }
    let Some(happened) = EVENT_COUNTS.get_ptr_mut(HAPPENED) else { return };
    // What has been held back until this transition is lost with it.
    let with_it = old_state == state::SYN_RECV && held_back(sk).is_some();
    // SAFETY: this CPU's own counter. Where this program can interrupt itself, until Linux 6.1, one may go uncounted if it
    // comes within these two or three instructions: BPF has no better addition in Rust.
    unsafe { *happened += 1 + u64::from(with_it) };
    let (Some(seen), Some(before)) = (EVENT_COUNTS.get(SEEN), EVENT_COUNTS.get_ptr_mut(SEEN_BEFORE)) else {
        return;
    };
    // As many runs of this one find nothing new here as the other one was skipped for, or more where another transition's
    // came in between, or its task went to another CPU. It is only about when to look; the counts tell how many.
    // SAFETY: this CPU's own.
    let before = unsafe { &mut *before };
    if *seen == *before {
        wake_reader();
    }
    *before = *seen;
}
