//! Writes the two ends of a socket: the only place that fills in a [`Tuple`] from the kernel's
//! structures.

use tcptrace_common::{AF_INET6, Tuple, v4_mapped_words};

use crate::pointers::SockCommon;

/// Writes the two ends of a socket. `local_port` is an argument because each kind of socket keeps
/// its port in another place.
///
/// # Safety
/// All of `to` can be written to, and `to` is aligned to eight bytes.
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "the caller vouches for eight bytes")]
pub(crate) unsafe fn write_tuple(to: *mut Tuple, sock: SockCommon, local_port: u16) {
    let family = sock.family();
    let (local, remote) = if family == AF_INET6
        && let Some(addresses) = sock.v6_addresses()
    {
        addresses
    } else {
        (v4_mapped_words(sock.local_v4()), v4_mapped_words(sock.remote_v4()))
    };
    // SAFETY: the caller vouches for `to`. Both addresses come first in a tuple and have 16 bytes,
    // so they are aligned to eight bytes too.
    unsafe {
        (&raw mut (*to).local_addr).cast::<[u64; 2]>().write(local);
        (&raw mut (*to).remote_addr).cast::<[u64; 2]>().write(remote);
        (*to).local_port = local_port;
        (*to).remote_port = sock.remote_port();
        (*to).family = family;
        (*to).interface = interface_index(sock, family);
    }
}

/// Returns the index of the interface that an IPv6 socket is bound to; 0 if it is bound to none, or
/// if the index has no room.
#[inline(always)]
fn interface_index(sock: SockCommon, family: u16) -> u16 {
    if family != AF_INET6 {
        return 0;
    }
    sock.bound_interface().and_then(|index| u16::try_from(index).ok()).unwrap_or(0)
}
