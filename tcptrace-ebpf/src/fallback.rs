//! Claims: which transitions the programs on the tracepoint have handled, so that each is handled
//! once.
//!
//! The kernel skips a program that is already running on this CPU (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`). It is interrupted by a packet, or from Linux 7 on by another task,
//! which changes a socket's state. The fallback program, second on the tracepoint, handles what the
//! primary one was skipped for, and the second fallback what both were skipped for. Each program
//! leaves a claim for the ones behind it. A claim names the transition, because any number of others
//! may begin and end between two programs of one transition.
//!
//! A claim can be gone before the next program looks for it: the claim of another socket took its
//! place, or the task moved to another CPU. Then two programs record the same transition.
//! [`tcptrace_common::TransitionFlags::FALLBACK_RECORDED`] tells user space to look for that.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    change::{Program, StateChange},
    emit::add_one,
    pointers::Sock,
};

/// The number of places for claims. Sockets whose addresses differ little have places of their own.
const PLACES: usize = 64;

/// The claims of the primary program, and those of the fallback; 0 is none.
#[repr(C)]
struct Claims {
    primary: [u64; PLACES],
    fallback: [u64; PLACES],
}

#[map]
static CLAIMS: PerCpuArray<Claims> = PerCpuArray::with_max_entries(1, 0);

/// Per CPU and fallback program: transitions that it recorded.
#[map]
static FALLBACK_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Claims a transition for the primary program.
#[inline(always)]
pub(crate) fn claim_primary(sock: Sock, change: StateChange) {
    if let Some(own) = OwnPlace::of(sock, change) {
        *own.primary = own.claim;
    }
}

/// Returns whether a fallback program has to handle a transition, and claims it if so.
#[inline(always)]
pub(crate) fn claim_fallback(sock: Sock, change: StateChange) -> bool {
    let Some(own) = OwnPlace::of(sock, change) else { return false };
    if change.program == Program::Fallback {
        *own.fallback = own.claim;
    } else if take_claim(own.fallback, own.claim) {
        return false;
    }
    if take_claim(own.primary, own.claim) {
        return false;
    }
    add_one(&FALLBACK_COUNTS, change.program.index() - 1);
    true
}

/// The claim of a transition, and its places.
struct OwnPlace {
    claim: u64,
    primary: &'static mut u64,
    fallback: &'static mut u64,
}

impl OwnPlace {
    #[inline(always)]
    fn of(sock: Sock, StateChange { old_state, new_state, .. }: StateChange) -> Option<Self> {
        let claims = CLAIMS.get_ptr_mut(0)?;
        // The verifier lets no program calculate with a pointer, except for the distance between two.
        let distance = sock.as_ptr().addr().wrapping_sub(claims.addr()) as u64; // both have 64 bits
        let claim = distance.rotate_left(16) ^ u64::from(old_state) << 8 ^ u64::from(new_state);
        // A `struct tcp_sock` has more than 2048 bytes, so neighbours have places of their own.
        let place = (distance >> 11) as usize % PLACES; // both have 64 bits
        // SAFETY: the claims are those of this CPU. Whatever interrupts this program claims
        // transitions of other sockets, because the kernel has locked this one.
        let (primary, fallback) = unsafe { (&mut (*claims).primary[place], &mut (*claims).fallback[place]) };
        Some(Self { claim, primary, fallback })
    }
}

/// Removes a claim. Returns whether it was there.
#[inline(always)]
fn take_claim(place: &mut u64, claim: u64) -> bool {
    let was_there = *place == claim;
    if was_there {
        *place = 0;
    }
    was_there
}
