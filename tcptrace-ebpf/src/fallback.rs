//! Has each transition handled by one of the programs on the tracepoint: they claim it.
//!
//! The kernel skips a program that is already running on this CPU (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`): a packet, or from Linux 7 on another task, has interrupted it and
//! changes the state of another socket. The fallback program, second on the tracepoint, handles
//! what the primary one was skipped for, and the second fallback what both were skipped for. Each
//! program leaves a claim for those behind it. A claim names the transition, because others may
//! begin and end between two programs of one transition.
//!
//! A claim can be gone before the next program looks for it: the claim of another socket took its
//! place, or the task moved to another CPU. Then two programs record the same transition.
//! [`tcptrace_common::TransitionFlags::FALLBACK_RECORDED`] tells user space to look for duplicates.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    change::{Program, RawChange},
    emit::add_to,
    pointers::Sock,
};

/// The number of places for claims.
const PLACES: usize = 64;

/// The claims of the primary program and of the fallback. 0 is no claim.
#[repr(C)]
struct Claims {
    primary: [u64; PLACES],
    fallback: [u64; PLACES],
}

#[map]
static CLAIMS: PerCpuArray<Claims> = PerCpuArray::with_max_entries(1, 0);

/// Per CPU and fallback program: transitions that it has recorded.
#[map]
static FALLBACK_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Program::COUNT - 1, 0);

/// Claims a transition for the primary program.
#[inline(always)]
pub(crate) fn claim_primary(sock: Sock, change: RawChange) {
    if let Some(own) = OwnPlace::find(sock, change) {
        *own.primary = own.claim;
    }
}

/// Returns whether a fallback program has to handle a transition, and claims it if so.
#[inline(always)]
pub(crate) fn claim_fallback(sock: Sock, change: RawChange) -> bool {
    let Some(own) = OwnPlace::find(sock, change) else { return false };
    if change.program == Program::Fallback {
        *own.fallback = own.claim;
    } else if take_claim(own.fallback, own.claim) {
        return false;
    }
    if take_claim(own.primary, own.claim) {
        return false;
    }
    add_to(&FALLBACK_COUNTS, change.program.index() - 1, 1);
    true
}

/// The claim of one transition, and its places.
struct OwnPlace {
    claim: u64,
    primary: &'static mut u64,
    fallback: &'static mut u64,
}

impl OwnPlace {
    #[inline(always)]
    fn find(sock: Sock, RawChange { old_state, new_state, .. }: RawChange) -> Option<Self> {
        let claims = CLAIMS.get_ptr_mut(0)?;
        // The verifier lets no program calculate with a pointer, except for the distance between
        // two.
        let distance = sock.as_ptr().addr().wrapping_sub(claims.addr()) as u64; // both have 64 bits
        let claim = distance.rotate_left(16) ^ u64::from(old_state) << 8 ^ u64::from(new_state);
        // A `struct tcp_sock` has more than 2048 bytes, so neighbours get different places.
        let place = (distance >> 11) as usize % PLACES; // both have 64 bits
        // SAFETY: the claims are those of this CPU. Whatever interrupts this program claims
        // transitions of other sockets, because the kernel has locked this one.
        let (primary, fallback) = unsafe { (&mut (*claims).primary[place], &mut (*claims).fallback[place]) };
        Some(Self { claim, primary, fallback })
    }
}

/// Removes a claim from its place. Returns whether it was there.
#[inline(always)]
fn take_claim(place: &mut u64, claim: u64) -> bool {
    let was_there = *place == claim;
    if was_there {
        *place = 0;
    }
    was_there
}
