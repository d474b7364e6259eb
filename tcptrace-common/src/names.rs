//! Names in the BPF object. A test in user space compares them with the object itself.

/// The names of the BPF maps that user space opens.
pub mod maps {
    /// The ring through which transitions reach user space.
    pub const TRANSITIONS: &str = "TRANSITIONS";
    /// Counts, per CPU and program, the transitions for which the ring had no room.
    pub const RING_FULL: &str = "RING_FULL";
    /// Counts, per CPU and fallback program, the transitions that it recorded.
    pub const FALLBACK_COUNTS: &str = "FALLBACK_COUNTS";
    /// Counts, per CPU and without BTF, transitions (see [`crate::event_count`]).
    pub const EVENT_COUNTS: &str = "EVENT_COUNTS";
    /// Our own cookies, on kernels where `bpf_get_socket_cookie` cannot be called.
    pub const COOKIES: &str = "COOKIES";
    /// The [`crate::WalkFilter`] of the walk under way.
    pub const WALK_FILTER: &str = "WALK_FILTER";
}

/// The read-only global that holds the [`crate::BpfConfig`].
pub const CONFIG: &str = "CONFIG";

/// The names of the BPF programs.
pub mod programs {
    /// `tp_btf/inet_sock_set_state`: records transitions, unless the kernel skips it.
    pub const TRANSITION: &str = "transition";
    /// `tp_btf/inet_sock_set_state`: records what the kernel skipped `transition` for.
    pub const FALLBACK: &str = "transition_fallback";
    /// `tp_btf/inet_sock_set_state`: records what the kernel skipped both others for.
    pub const SECOND_FALLBACK: &str = "transition_second_fallback";
    /// `fentry/security_sock_graft`: stores which task accepted a socket.
    pub const ACCEPTED: &str = "accepted";
    /// `fentry/tcp_time_wait`: stores that a timewait socket is about to replace a socket.
    pub const TIMEWAIT: &str = "timewait";
    /// `tracepoint/sock/inet_sock_set_state`: records transitions on kernels without BTF.
    pub const EVENT: &str = "transition_event";
    /// `raw_tracepoint/inet_sock_set_state`: counts transitions on kernels without BTF.
    pub const EVENT_COUNTER: &str = "transition_counter";
    /// `iter/tcp`: writes a row for each TCP socket of a network namespace.
    pub const TCP_SOCKETS: &str = "tcp_sockets";
    /// `iter/task_file`: writes a row for each descriptor that holds a TCP socket.
    pub const SOCKET_HOLDERS: &str = "socket_holders";
}
