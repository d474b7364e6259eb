//! Holds back the first record of a listener's child, until the child has a peer and a cookie.
//!
//! Until Linux 6.12 a child enters SYN_RECV before the kernel has made it a socket of its own: it
//! has no peer yet, and the cookie of the listener. That record is held back until the child's next
//! transition, which comes on the same CPU within the same packet (`tcp_check_req`,
//! `net/ipv4/tcp_minisocks.c`).

use aya_ebpf::{macros::map, maps::PerCpuArray};

/// A child whose first record is held back.
#[repr(C)]
struct Child {
    address: u64,
    entered_ns: u64,
}

/// Per CPU: the last such child. Its address is 0 if there is none.
#[map]
static HELD_BACK: PerCpuArray<Child> = PerCpuArray::with_max_entries(1, 0);

/// Holds back the record of the child at `address`, which enters SYN_RECV at `entered_ns`.
#[inline(always)]
pub(crate) fn hold_back(address: u64, entered_ns: u64) {
    if let Some(child) = HELD_BACK.get_ptr_mut(0) {
        // SAFETY: the entry is that of this CPU.
        unsafe { *child = Child { address, entered_ns } };
    }
}

/// Returns when the socket at `address` entered SYN_RECV, if that record is held back. From then on
/// it is held back no more.
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
