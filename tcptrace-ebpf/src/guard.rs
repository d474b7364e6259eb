//! Which transitions the programs on the tracepoint have seen to, so that each is seen to once.
//!
//! The kernel does not run a program that is at work on this CPU already (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`): a packet that interrupts it, or from Linux 7 on another task, can change a socket's
//! state meanwhile. The second program on the tracepoint does what the first was kept from, and the third what both
//! were. Each leaves a mark for the next one in the row: of the transition, not of the task or the moment, because
//! any number of others may begin and end between two programs of one transition.
//!
//! A mark can be gone before the next program looks, where another socket's took its place or the task went to another
//! CPU. Then a transition is told twice: [`tcptrace_common::TransitionFlags::FALLBACK_RECORDED`] tells user space to look.

use core::ffi::c_void;

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::ring::{Step, count};

/// Sockets whose addresses differ little have marks of their own.
const MARKS: usize = 64;

/// What the first program leaves for the two others, and the second for the third; 0: nothing.
#[repr(C)]
struct Marks {
    first: [u64; MARKS],
    second: [u64; MARKS],
}

#[map]
static CLAIMS: PerCpuArray<Marks> = PerCpuArray::with_max_entries(1, 0);

/// Transitions that the second program recorded, and the third, counted per CPU.
#[map]
static FALLBACK_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// This program sees to the transition: if it is the first one, the next ones will know.
#[inline(always)]
pub(crate) fn mark(sk: *const c_void, step: Step) {
    if step.nth == 0
        && let Some(mine) = Mine::of(sk, step)
    {
        *mine.first = mine.mark;
    }
}

/// Whether it falls to the program that stands in for the first one, or for both, to see to this transition; the next one
/// will know.
#[inline(always)]
pub(crate) fn falls_to(sk: *const c_void, step: Step) -> bool {
    let Some(mine) = Mine::of(sk, step) else { return false };
    if step.nth == 1 {
        *mine.second = mine.mark;
    } else if take(mine.second, mine.mark) {
        return false;
    }
    if take(mine.first, mine.mark) {
        return false;
    }
    count(&FALLBACK_COUNTS, u32::from(step.nth) - 1);
    true
}

/// A transition's mark, and where the first two programs leave it.
struct Mine {
    mark: u64,
    first: &'static mut u64,
    second: &'static mut u64,
}

impl Mine {
    #[inline(always)]
    fn of(sk: *const c_void, Step { old_state, new_state, .. }: Step) -> Option<Self> {
        let marks = CLAIMS.get_ptr_mut(0)?;
        // The verifier lets nobody calculate with a pointer, but for what is between two of them.
        let distance = (sk as usize).wrapping_sub(marks as usize) as u64;
        let mark = distance.rotate_left(16) ^ u64::from(old_state) << 8 ^ u64::from(new_state);
        // A `struct tcp_sock` takes more than 2048 bytes.
        let place = (distance >> 11) as usize % MARKS;
        // SAFETY: this CPU's own marks. Who interrupts us leaves marks of other sockets: this one is locked.
        let (first, second) = unsafe { (&mut (*marks).first[place], &mut (*marks).second[place]) };
        Some(Self { mark, first, second })
    }
}

/// Whether this mark is there; not any more.
#[inline(always)]
fn take(place: &mut u64, mark: u64) -> bool {
    let is_there = *place == mark;
    if is_there {
        *place = 0;
    }
    is_there
}
