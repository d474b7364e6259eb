//! What to trace, and how.

use crate::host::features::Feature;

/// What to trace, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The states (a mask) of which transitions are recorded: from or into one of them.
    pub watched_states: u32,
    /// Whether the last transition of a socket carries what the kernel counted for it.
    pub lives: bool,
    /// Whether transitions are traced. If not, nothing is attached to the tracepoint, and sockets
    /// can only be walked.
    pub transitions: bool,
    /// The size of the ring, bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// The number of sockets for which the BPF programs keep cookies on kernels that give none.
    pub max_cookies: u32,
    /// Features not to use although the kernel has them.
    pub without: Vec<Feature>,
}
