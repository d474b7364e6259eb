//! What one look at all the kernel's sockets found: plain data, filled in by [`crate::kernel`].

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{COMM_LEN, FoundSocket, Origin, STAND_IN, SocketRow, UNKNOWN_ORIGIN, state};

/// What one walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// `CLOCK_MONOTONIC`, nanoseconds: when it began. Every row was read after this.
    pub started_ns: u64,
    /// The namespaces that were walked to the end, by inode number.
    pub namespaces: FxHashSet<u32>,
    /// Every socket found in a wanted state, once, in the order of the time it was read.
    pub sockets: Vec<SocketRow>,
    /// The stand-ins for sockets that nobody holds any more, in FIN_WAIT2. They are nobody's to be stuck with, but the
    /// other end of somebody's.
    pub stand_ins: Vec<SocketRow>,
    /// Where each socket came from, by identity, as far as the kernel remembers.
    pub origins: FxHashMap<u64, Origin>,
    /// Every descriptor that holds one of them.
    pub holders: Vec<Holder>,
}

impl Walk {
    /// Adds a socket, or the stand-in for one.
    pub fn add(&mut self, found: FoundSocket) {
        let FoundSocket { row, origin } = found;
        if row.flags & STAND_IN != 0 {
            self.stand_ins.push(row);
            return;
        }
        if origin.how != UNKNOWN_ORIGIN {
            self.origins.insert(row.cookie, origin);
        }
        self.sockets.push(row);
    }
}

/// The states of sockets that tell more about those in `watched` (both masks): listeners, whose accept queue they may
/// be in, and the states that the other end of such a connection is in.
pub fn beside(watched: u32) -> u32 {
    const OTHER_ENDS: [(u8, &[u8]); 8] = [
        (state::ESTABLISHED, &[state::ESTABLISHED, state::SYN_SENT]),
        (state::SYN_SENT, &[state::SYN_SENT, state::SYN_RECV]),
        (state::SYN_RECV, &[state::SYN_SENT, state::ESTABLISHED]),
        (state::FIN_WAIT1, &[state::ESTABLISHED, state::FIN_WAIT1, state::CLOSE_WAIT, state::CLOSING]),
        (state::FIN_WAIT2, &[state::CLOSE_WAIT, state::LAST_ACK]),
        (state::CLOSING, &[state::CLOSING, state::FIN_WAIT1]),
        (state::CLOSE_WAIT, &[state::FIN_WAIT1, state::FIN_WAIT2]),
        (state::LAST_ACK, &[state::FIN_WAIT2]),
    ];
    let other_ends = OTHER_ENDS.iter().filter(|(state, _)| watched & state::bit(*state) != 0);
    other_ends
        .flat_map(|(_, ends)| *ends)
        .fold(state::bit(state::LISTEN), |mask, end| mask | state::bit(*end))
}

/// A descriptor that holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The socket's identity, as in [`SocketRow::cookie`].
    pub cookie: u64,
    /// The process (thread group), as this host's initial pid namespace numbers it.
    pub pid: u32,
    /// Its descriptor.
    pub fd: u32,
    /// What the kernel said of the process in the same breath, where it did.
    pub process: Option<Named>,
}

/// A process as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// Its real user id.
    pub uid: u32,
    /// Its name, NUL-padded.
    pub comm: [u8; COMM_LEN],
}
