//! What a socket's life came to, and what ended it, read once at its end.

use core::ffi::c_void;

use tcptrace_common::{ABSENT, Counters, TransitionFlags, UNCOUNTED, state};

use crate::kernel::{layout, load};

/// `SOCK_DONE` of `enum sock_flags` (`include/net/sock.h`): `tcp_fin` sets it when the peer's FIN has its turn, and nothing
/// else does (`net/ipv4/tcp_input.c`).
const SOCK_DONE: u64 = 1 << 1;
/// Likewise: no process has the socket any more (`sock_orphan`).
const SOCK_DEAD: u64 = 1;
/// Likewise: SO_LINGER is set.
const SOCK_LINGER: u64 = 1 << 4;

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
            fin_bytes: (flags & SOCK_DONE != 0).into(),
            pad: 0,
        }
    }
}

/// What ended a socket that enters CLOSE without an error and was closing already: COMPLETED, ACTOR_KNOWN where the
/// current task did, with ABORTED where it threw the connection away, or 0 where that is not known.
///
/// Such a socket comes to its end in four ways. The peer acknowledges our FIN, or in FIN_WAIT2 sends its own: then either is
/// noted already. Or a process closes what it had shut down before, and holds the socket's lock meanwhile; it lets go of
/// the socket before an orderly end, after an abort (`__tcp_close`, `net/ipv4/tcp.c`). Otherwise a timer has given up a
/// socket that nobody holds, or data came in for it: nobody holds the lock then.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null.
#[inline(always)]
pub(crate) unsafe fn ended_by(tcp: *const c_void, old_state: u8) -> TransitionFlags {
    if layout!(flags) == ABSENT || layout!(owned) == ABSENT {
        return TransitionFlags::empty();
    }
    // SAFETY: as promised by the caller.
    unsafe {
        let flags: u64 = load(tcp, layout!(flags));
        let is_complete = match old_state {
            state::FIN_WAIT2 => flags & SOCK_DONE != 0,
            state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK => {
                load::<u32>(tcp, layout!(snd_una)) == load(tcp, layout!(write_seq))
            }
            _ => return TransitionFlags::empty(),
        };
        if is_complete {
            return TransitionFlags::COMPLETED;
        }
        if load::<u32>(tcp, layout!(owned)) == 0 {
            return TransitionFlags::empty();
        }
        // With SO_LINGER 0 no reset is sent where the peer has closed too and all was sent (`tcp_disconnect`).
        let is_silent = flags & SOCK_LINGER != 0
            && matches!(old_state, state::CLOSING | state::LAST_ACK)
            && load::<u32>(tcp, layout!(snd_nxt)) == load(tcp, layout!(write_seq));
        if flags & SOCK_DEAD != 0 || is_silent {
            TransitionFlags::ACTOR_KNOWN
        } else {
            TransitionFlags::ACTOR_KNOWN.union(TransitionFlags::ABORTED)
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
