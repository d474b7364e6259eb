//! The counts of the kernel for a socket, read at its end.

use tcptrace_common::{Counters, UNCOUNTED};

use crate::pointers::{TcpSock, sock_flag};

/// Reads the counters of a socket. A counter that this kernel does not have is [`UNCOUNTED`], or
/// `u32::MAX`.
#[inline(always)]
pub(crate) fn read_counters(tcp: TcpSock) -> Counters {
    let has_fin = tcp.flags().unwrap_or(0) & sock_flag::DONE != 0;
    Counters {
        bytes_sent: tcp.bytes_sent().unwrap_or(UNCOUNTED),
        bytes_resent: tcp.bytes_resent().unwrap_or(UNCOUNTED),
        bytes_received: tcp.bytes_received().unwrap_or(UNCOUNTED),
        retransmits: tcp.retransmits().unwrap_or(u32::MAX),
        round_trip: tcp.round_trip().unwrap_or(u32::MAX),
        fin_bytes: has_fin.into(),
        pad: 0,
    }
}
