//! The records that the BPF programs write.
//!
//! Through the ring come one [`Transition`] for each state change, or one [`Closing`] for a
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
    /// The states (a mask) of the sockets that the walk of a namespace's sockets reports.
    pub socket_states: u32,
    /// The states (a mask) of the sockets whose descriptors the walk of descriptors reports.
    pub holder_states: u32,
    /// Inode number of the network namespace whose sockets are walked in any case, or 0. A
    /// descriptor that holds one of them comes without the socket's row.
    pub walked_netns: u32,
    /// Whether [`SocketRow::inode`] is needed.
    pub needs_inode: Bool32,
}

/// The two ends of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// Network order; IPv4 as [`crate::v4_mapped`].
    pub local_addr: [u8; 16],
    /// Network order; IPv4 as [`crate::v4_mapped`].
    pub remote_addr: [u8; 16],
    /// Host order; 0 if the kernel has not chosen one yet.
    pub local_port: u16,
    /// Host order; 0 if there is no peer.
    pub remote_port: u16,
    /// The socket's own family, [`crate::AF_INET`] or [`crate::AF_INET6`]: a dual-stack socket has
    /// the latter.
    pub family: u16,
    /// Index of the interface that an IPv6 socket is bound to, as one with a link-local address
    /// always is; 0 if it is bound to none or the index is above 65535.
    pub interface: u16,
}

/// A task: one thread of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Task {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// The name of the process (of its thread group leader), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
    /// The name of the thread, NUL-padded, any bytes.
    pub thread_comm: [u8; COMM_LEN],
}

/// One state change of one TCP socket, from `sock:inet_sock_set_state` (`net/ipv4/af_inet.c`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Transition {
    /// `CLOCK_MONOTONIC`, nanoseconds: just before the state changed.
    pub ktime_ns: u64,
    /// The socket's cookie; on kernels that do not give it, a number of our own in its place.
    pub cookie: u64,
    /// Inode number of the network namespace; 0 if the kernel has none or it cannot be read.
    pub netns: u32,
    /// `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// The two ends as the socket had them at that moment.
    pub tuple: Tuple,
    /// See [`crate::state`].
    pub old_state: u8,
    /// See [`crate::state`].
    pub new_state: u8,
    /// What else is known.
    pub flags: TransitionFlags,
    /// Always 0.
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
    /// Not known.
    pub const UNKNOWN: Self = Self(0);
    /// connect(2)
    pub const CONNECT: Self = Self(1);
    /// accept(2)
    pub const ACCEPT: Self = Self(2);
    /// listen(2)
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

/// Who opened a socket, kept by the kernel in the socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Opener {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// The task that called.
    pub task: Task,
    /// The system call.
    pub call: OpenCall,
    /// If the kernel is about to replace the socket by a timewait socket, the state of that one:
    /// TIME_WAIT or FIN_WAIT2. Else 0.
    pub timewait_state: u8,
    /// What else is known.
    pub flags: OpenerFlags,
    /// Always 0.
    pub pad: u8,
}

/// The value in [`Counters`] of a counter that the running kernel does not have: the highest
/// number of its type.
pub const UNCOUNTED: u64 = u64::MAX;

/// What the kernel has counted for a socket by its end (`struct tcp_sock`, `include/linux/tcp.h`).
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
    /// How much of `bytes_received` the peer's FIN is: 1 if it has been received, else 0.
    pub fin_bytes: u32,
    /// Always 0.
    pub pad: u32,
}

/// The last transition of a socket, if the lives of connections are recorded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Closing {
    /// The transition.
    pub transition: Transition,
    /// What the kernel has counted up to it.
    pub counters: Counters,
    /// Who opened the socket; all 0 if that is not known.
    pub opener: Opener,
}

/// One open TCP socket as a walk of the kernel's tables found it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketRow {
    /// When this row was read, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// As [`Transition::cookie`].
    pub cookie: u64,
    /// Inode number of the socket's file as `/proc/PID/fd` shows it; 0 if it has no file, or if
    /// the number is not needed. The kernel numbers sockets with 32 bits (`get_next_ino`,
    /// `fs/inode.c`).
    pub inode: u32,
    /// As [`Transition::netns`].
    pub netns: u32,
    /// See [`crate::state`].
    pub state: u8,
    /// What else is known.
    pub flags: RowFlags,
    /// Always 0.
    pub pad: u16,
    /// `tcp_sock.snd_una`: the first sequence number that the peer has not acknowledged. The sum
    /// with [`Self::unsent`] is `write_seq`.
    pub snd_una: u32,
    /// The two ends.
    pub tuple: Tuple,
    /// `rcv_nxt − copied_seq`: unread bytes, a received FIN included as one. Of a listener, the
    /// number of sockets that wait to be accepted.
    pub unread: u32,
    /// `write_seq − snd_una`: bytes not sent or not acknowledged, a sent FIN included as one. Of a
    /// listener, the limit of its accept queue.
    pub unsent: u32,
    /// Jiffies since the last ACK arrived (`tcp_sock.rcv_tstamp`), modulo 2³².
    pub since_ack_jiffies: u32,
    /// Jiffies since the last data arrived, or since the handshake if none did
    /// (`icsk_ack.lrcvtime`), modulo 2³².
    pub since_data_jiffies: u32,
    /// `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// `tcp_sock.rcv_nxt`: the next sequence number expected from the peer.
    pub rcv_nxt: u32,
}

/// One file descriptor that holds a TCP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Descriptor {
    /// The socket, as [`SocketRow::cookie`].
    pub cookie: u64,
    /// Thread group id of the process in the initial pid namespace.
    pub pid: u32,
    /// Whether the socket's [`SocketRow`] follows: it is not in [`WalkFilter::walked_netns`].
    pub has_row: Bool32,
    /// The number of the file descriptor.
    pub fd: u32,
    /// Real user id of the process in the initial user namespace.
    pub uid: u32,
    /// When the process started, nanoseconds since boot; `/proc/PID/stat` has it in clock ticks.
    pub start_ns: u64,
    /// The name of the process (of its thread group leader), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<WalkFilter>() == 16 && align_of::<WalkFilter>() == 4);
const _: () = assert!(size_of::<Tuple>() == 40 && align_of::<Tuple>() == 2);
const _: () = assert!(size_of::<Transition>() == 112 && align_of::<Transition>() == 8);
// The BPF programs write the addresses as words.
const _: () = assert!(core::mem::offset_of!(Transition, tuple) % 8 == 0);
const _: () = assert!(size_of::<Task>() == 44 && align_of::<Task>() == 4);
const _: () = assert!(size_of::<Counters>() == 40 && align_of::<Counters>() == 8);
const _: () = assert!(size_of::<Closing>() == 208 && align_of::<Closing>() == 8);
const _: () = assert!(size_of::<Opener>() == 56 && align_of::<Opener>() == 8);
const _: () = assert!(size_of::<SocketRow>() == 96 && align_of::<SocketRow>() == 8);
const _: () = assert!(size_of::<Descriptor>() == 48 && align_of::<Descriptor>() == 8);
