//! Holds back the first record of a listener's child, until the child has a peer and a cookie.
//!
//! Until Linux 6.12 a child enters SYN_RECV before the kernel has made it a socket of its own: it has
//! no peer yet, and the cookie of the listener. That record is held back until the next transition of
//! the child, which comes on the same CPU within the same packet (`tcp_check_req`,
//! `net/ipv4/tcp_minisocks.c`).

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::PerCpuArray};
use tcptrace_common::state;

use crate::change::StateChange;

/// A child whose first record is held back.
#[repr(C)]
struct Child {
    address: u64,
    entered_ns: u64,
}

/// Per CPU: the last such child. Its address is 0 if there is none.
#[map]
static HELD_BACK: PerCpuArray<Child> = PerCpuArray::with_max_entries(1, 0);

/// The records that are due.
pub(crate) struct Due {
    /// When the change came, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) ktime_ns: u64,
    /// If the socket's record of LISTEN → SYN_RECV was held back, when that change came. That record
    /// goes first.
    pub(crate) held_back_ns: Option<u64>,
}

/// Returns the records that are due with a change of a socket; `None` if its record is now held
/// back. What is asked of the socket is asked only if needed.
#[inline(always)]
pub(crate) fn take_due(
    change: StateChange,
    address: impl Fn() -> u64,
    has_peer: impl Fn() -> bool,
) -> Option<Due> {
    // SAFETY: the helper takes no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    match (change.old_state, change.new_state) {
        (state::LISTEN, state::SYN_RECV) if !has_peer() => {
            hold_back(address(), ktime_ns);
            None
        }
        (state::SYN_RECV, _) => Some(Due { ktime_ns, held_back_ns: take_held_back(address()) }),
        _ => Some(Due { ktime_ns, held_back_ns: None }),
    }
}

#[inline(always)]
fn hold_back(address: u64, entered_ns: u64) {
    if let Some(child) = HELD_BACK.get_ptr_mut(0) {
        // SAFETY: the entry is that of this CPU.
        unsafe { *child = Child { address, entered_ns } };
    }
}

/// Returns when the socket at `address` entered SYN_RECV, if that record is held back. From now on it
/// is not.
#[inline(always)]
pub(crate) fn take_held_back(address: u64) -> Option<u64> {
    let child = HELD_BACK.get_ptr_mut(0)?;
    // SAFETY: the entry is that of this CPU.
    unsafe {
        if (*child).address == 0 || (*child).address != address {
            return None;
        }
        (*child).address = 0;
        Some((*child).entered_ns)
    }
}
