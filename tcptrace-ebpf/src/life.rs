//! What a socket's life came to, read once at its end.

use core::ffi::c_void;

use tcptrace_common::{ABSENT, Counters, UNCOUNTED};

use crate::kernel::{layout, load};

/// `SOCK_DONE` of `enum sock_flags` (`include/net/sock.h`): `tcp_fin` sets it when the peer's FIN has its turn, and nothing
/// else does (`net/ipv4/tcp_input.c`).
const SOCK_DONE: u64 = 1 << 1;

/// What the kernel has counted.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null.
#[inline(always)]
pub(crate) unsafe fn counters(tcp: *const c_void) -> Counters {
    // SAFETY: as promised by the caller; a member that this kernel does not have is not read.
    unsafe {
        let flags = long(tcp, layout!(flags), 0);
        Counters {
            bytes_sent: long(tcp, layout!(bytes_sent), UNCOUNTED),
            bytes_resent: long(tcp, layout!(bytes_resent), UNCOUNTED),
            bytes_received: long(tcp, layout!(bytes_received), UNCOUNTED),
            retransmits: word(tcp, layout!(retransmits)),
            round_trip: word(tcp, layout!(round_trip)),
            has_fin: (flags & SOCK_DONE != 0).into(),
            pad: 0,
        }
    }
}

/// A member of eight bytes, or else `other`.
///
/// # Safety
/// As [`load`], where there is such a member.
#[inline(always)]
unsafe fn long(tcp: *const c_void, offset: u32, other: u64) -> u64 {
    // SAFETY: as promised by the caller.
    if offset == ABSENT { other } else { unsafe { load(tcp, offset) } }
}

/// A member of four bytes, or else the highest number.
///
/// # Safety
/// As [`load`], where there is such a member.
#[inline(always)]
unsafe fn word(tcp: *const c_void, offset: u32) -> u32 {
    // SAFETY: as promised by the caller.
    if offset == ABSENT { u32::MAX } else { unsafe { load(tcp, offset) } }
}
