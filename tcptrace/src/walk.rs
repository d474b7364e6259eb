//! What one look at all the kernel's sockets found: plain data, filled in by [`crate::kernel`].

use rustc_hash::FxHashSet;
use tcptrace_common::SocketRow;

/// What one walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// `CLOCK_MONOTONIC`, nanoseconds: when it began. Every row was read after this.
    pub started_ns: u64,
    /// The namespaces that were walked to the end, by inode number.
    pub namespaces: FxHashSet<u32>,
    /// Every socket found in a wanted state, once, in the order of the time it was read.
    pub sockets: Vec<SocketRow>,
    /// Every descriptor that holds one of them.
    pub holders: Vec<Holder>,
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
}
