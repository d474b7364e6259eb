//! The records that the BPF programs write.
//!
//! The ring carries one [`TransitionRecord`] for each state change, or one [`ClosingRecord`] for a
//! socket's last. The iterators write one [`SocketRow`] for each socket and one [`Descriptor`] for
//! each file descriptor that holds one.

use bytemuck::{Pod, Zeroable};

use crate::{
    COMM_LEN,
    flags::{Bool32, OpenerFlags, RowFlags, TransitionFlags},
    state,
};

/// What user space asks of the walk under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct WalkFilter {
    /// The mask of the states that the walk of a namespace's sockets reports.
    pub socket_states: u32,
    /// The mask of the states of sockets whose descriptors the walk of descriptors reports.
    pub holder_states: u32,
    /// The inode number of the network namespace whose sockets are walked in any case, or 0. A
    /// descriptor that holds one of them comes without the socket's row.
    pub walked_netns: u32,
    /// Whether [`SocketRow::inode`] is needed.
    pub needs_inode: Bool32,
}

/// The two ends of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// The local address, network order; IPv4 as [`crate::v4_mapped`].
    pub local_addr: [u8; 16],
    /// The peer's address, network order; IPv4 as [`crate::v4_mapped`].
    pub remote_addr: [u8; 16],
    /// The local port, host order; 0 if the kernel has not chosen one yet.
    pub local_port: u16,
    /// The peer's port, host order; 0 if there is no peer.
    pub remote_port: u16,
    /// The socket's own family, [`crate::AF_INET`] or [`crate::AF_INET6`]: a dual-stack socket has
    /// the latter.
    pub family: u16,
    /// The index of the interface that an IPv6 socket is bound to, as a socket with a link-local
    /// address always is; 0 if it is bound to none or the index is above 65535.
    pub interface: u16,
}

/// A task: one thread of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Task {
    /// The thread group id in the initial pid namespace.
    pub pid: u32,
    /// The thread id in the initial pid namespace.
    pub tid: u32,
    /// The real user id in the initial user namespace.
    pub uid: u32,
    /// The name of the process (of its thread group leader), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
    /// The name of the thread, NUL-padded, any bytes.
    pub thread_comm: [u8; COMM_LEN],
}

/// One state change of one TCP socket, from `sock:inet_sock_set_state` (`net/ipv4/af_inet.c`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TransitionRecord {
    /// When the state was about to change, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// The socket's cookie: the kernel's, or our own on kernels that give none.
    pub cookie: u64,
    /// The inode number of the network namespace; 0 if the kernel has none or it cannot be read.
    pub netns: u32,
    /// The pending error, `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// The two ends as the socket had them at that moment.
    pub tuple: Tuple,
    /// The state before, see [`crate::state`].
    pub old_state: u8,
    /// The state after, see [`crate::state`].
    pub new_state: u8,
    /// What else is known.
    pub flags: TransitionFlags,
    /// Padding, always 0.
    pub pad: u8,
    /// The task that caused the transition, or else the socket's opener; all 0 if neither is
    /// known.
    pub task: Task,
}

/// The system call by which a task opened a socket.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct OpenCall(u8);

impl OpenCall {
    /// The call is not known.
    pub const UNKNOWN: Self = Self(0);
    /// The task called connect(2).
    pub const CONNECT: Self = Self(1);
    /// The task called accept(2).
    pub const ACCEPT: Self = Self(2);
    /// The task called listen(2).
    pub const LISTEN: Self = Self(3);

    /// Returns the call that causes this transition, if it is one that opens a socket.
    #[inline(always)]
    pub const fn of_transition(old_state: u8, new_state: u8) -> Option<Self> {
        match (old_state, new_state) {
            (state::CLOSE, state::SYN_SENT) => Some(Self::CONNECT),
            (state::CLOSE, state::LISTEN) => Some(Self::LISTEN),
            _ => None,
        }
    }
}

/// The task that opened a socket, kept by the kernel in the socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct OpenerRecord {
    /// When the task opened the socket, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// The task that opened the socket.
    pub task: Task,
    /// The system call.
    pub call: OpenCall,
    /// The state of the timewait socket that is about to replace the socket, TIME_WAIT or
    /// FIN_WAIT2; 0 if none is.
    pub timewait_state: u8,
    /// What else is known.
    pub flags: OpenerFlags,
    /// Padding, always 0.
    pub pad: u8,
}

/// The value in [`Counters`] of a counter that the running kernel does not have.
pub const UNCOUNTED: u64 = u64::MAX;

/// The counts of the kernel for a socket at its end (`struct tcp_sock`, `include/linux/tcp.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Counters {
    /// Bytes of payload sent, retransmitted ones included; or [`UNCOUNTED`].
    pub bytes_sent: u64,
    /// Bytes of payload retransmitted; or [`UNCOUNTED`].
    pub bytes_resent: u64,
    /// Bytes received in order, the peer's FIN included as one; or [`UNCOUNTED`].
    pub bytes_received: u64,
    /// Segments retransmitted, SYN and FIN included; or `u32::MAX`.
    pub retransmits: u32,
    /// Eight times the smoothed round-trip time, µs; 0 if there is no sample; or `u32::MAX`.
    pub round_trip: u32,
    /// How much the peer's FIN counts in `bytes_received`: 1 if it has been received, else 0.
    pub fin_bytes: u32,
    /// Padding, always 0.
    pub pad: u32,
}

/// The last transition of a socket, if the lives of connections are recorded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ClosingRecord {
    /// The transition itself.
    pub transition: TransitionRecord,
    /// What the kernel has counted up to that transition.
    pub counters: Counters,
    /// The socket's opener; all 0 if it is not known.
    pub opener: OpenerRecord,
}

/// One open TCP socket as a walk of the kernel's tables found it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketRow {
    /// When the program read the socket, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// The socket's cookie, as [`TransitionRecord::cookie`].
    pub cookie: u64,
    /// The inode number of the socket's file as `/proc/PID/fd` shows it; 0 if the socket has no
    /// file or the number is not needed. The kernel numbers sockets with 32 bits (`get_next_ino`,
    /// `fs/inode.c`).
    pub inode: u32,
    /// The network namespace, as [`TransitionRecord::netns`].
    pub netns: u32,
    /// The state, see [`crate::state`].
    pub state: u8,
    /// What else is known.
    pub flags: RowFlags,
    /// Padding, always 0.
    pub pad: u16,
    /// The first sequence number that the peer has not acknowledged, `tcp_sock.snd_una`. Together
    /// with [`Self::unsent`] it makes `write_seq`.
    pub snd_una: u32,
    /// The two ends.
    pub tuple: Tuple,
    /// The number of unread bytes, `rcv_nxt − copied_seq`, a received FIN included as one. Of a
    /// listener, the number of sockets in its accept queue.
    pub unread: u32,
    /// The number of bytes not sent or not acknowledged, `write_seq − snd_una`, a sent FIN included
    /// as one. Of a listener, the limit of its accept queue.
    pub unsent: u32,
    /// Jiffies since an ACK last arrived (`tcp_sock.rcv_tstamp`), modulo 2³².
    pub since_ack_jiffies: u32,
    /// Jiffies since data last arrived, or since the handshake if none has (`icsk_ack.lrcvtime`),
    /// modulo 2³².
    pub since_data_jiffies: u32,
    /// The pending error, `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// The next sequence number expected from the peer, `tcp_sock.rcv_nxt`.
    pub rcv_nxt: u32,
}

/// One file descriptor that holds a TCP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Descriptor {
    /// The socket's cookie, as [`SocketRow::cookie`].
    pub cookie: u64,
    /// The thread group id of the process in the initial pid namespace.
    pub pid: u32,
    /// Whether the socket's [`SocketRow`] follows, because the socket is not in
    /// [`WalkFilter::walked_netns`].
    pub has_row: Bool32,
    /// The number of the file descriptor.
    pub fd: u32,
    /// The real user id of the process in the initial user namespace.
    pub uid: u32,
    /// When the process started, nanoseconds since boot; `/proc/PID/stat` has it in clock ticks.
    pub start_ns: u64,
    /// The name of the process (of its thread group leader), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<WalkFilter>() == 16 && align_of::<WalkFilter>() == 4);
const _: () = assert!(size_of::<Tuple>() == 40 && align_of::<Tuple>() == 2);
const _: () = assert!(size_of::<TransitionRecord>() == 112 && align_of::<TransitionRecord>() == 8);
// The BPF programs write the addresses as words.
const _: () = assert!(core::mem::offset_of!(TransitionRecord, tuple) % 8 == 0);
const _: () = assert!(size_of::<Task>() == 44 && align_of::<Task>() == 4);
const _: () = assert!(size_of::<Counters>() == 40 && align_of::<Counters>() == 8);
const _: () = assert!(size_of::<ClosingRecord>() == 208 && align_of::<ClosingRecord>() == 8);
const _: () = assert!(size_of::<OpenerRecord>() == 56 && align_of::<OpenerRecord>() == 8);
const _: () = assert!(size_of::<SocketRow>() == 96 && align_of::<SocketRow>() == 8);
const _: () = assert!(size_of::<Descriptor>() == 48 && align_of::<Descriptor>() == 8);
