//! What the BPF programs write: one [`Transition`] per state change into the ring, or one [`Closing`] for a socket's
//! last; one [`SocketRow`] per socket and one [`Descriptor`] per file descriptor from the iterators.

use bytemuck::{Pod, Zeroable};

use crate::{COMM_LEN, state};

/// In [`Transition::flags`]: `task` is the one that acted.
pub const ACTOR_KNOWN: u8 = 1;

/// In [`Transition::flags`] and [`Origin::flags`]: [`Task::comm`] is known. Without kernel BTF it cannot be read.
pub const PROCESS_NAMED: u8 = 2;

/// In [`Transition::flags`]: written by a program that stands in for the first one. Where something came in between the
/// two, both have written the same transition.
pub const TAKEN_OVER: u8 = 4;

/// In [`Transition::flags`]: the task that acted was exiting, so that this is the kernel closing its descriptors.
pub const EXITING: u8 = 8;

/// In [`Transition::flags`]: the socket is gone. What is in the new state, TIME_WAIT or FIN_WAIT2, is the kernel's small
/// stand-in for it, which no process holds.
pub const REPLACED: u8 = 16;

/// In [`Transition::flags`]: no task acted; `task` is the one that accepted or connected the socket.
pub const ORIGIN_KNOWN: u8 = 32;

/// In [`Transition::flags`]: the task that acted threw the connection away, and the kernel sent the peer a reset: it closed
/// the socket with data unread or with SO_LINGER 0, or disconnected it.
pub const ABORTED: u8 = 64;

/// In [`Transition::flags`]: a socket that was closing has gone its way to the end: the peer acknowledged our FIN, or sent
/// its own.
pub const COMPLETED: u8 = 128;

/// What is wanted of the walk under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Wanted {
    /// Sockets in these states, as a mask, from the walk of a namespace's sockets.
    pub sockets: u32,
    /// The same from the walk of the descriptors that hold them.
    pub held: u32,
    /// The network namespace, by inode number, whose sockets are walked in any case: of a descriptor that holds one of
    /// those, the socket's row is not wanted. 0: none.
    pub walked: u32,
    /// Whether [`SocketRow::inode`] is: 1 or 0.
    pub inodes: u32,
}

/// Transitions that the program at the plain event has seen: its place among the counters of the map `TALLY`.
pub const SEEN: u32 = 0;

/// The same of those that have happened. For each transition it is counted last.
pub const HAPPENED: u32 = 1;

/// In [`SocketRow::flags`]: no process has accepted the socket yet.
pub const IN_ACCEPT_QUEUE: u8 = 1;

/// In [`SocketRow::flags`]: the socket itself is gone; a small stand-in waits in its state for the peer's FIN
/// (`struct inet_timewait_sock`). No process holds it.
pub const STAND_IN: u8 = 2;

/// In [`SocketRow::flags`]: the socket has a file, so that descriptors can hold it. Only `iter/tcp` tells.
pub const HAS_FILE: u8 = 4;

/// In [`SocketRow::flags`]: an [`Origin`] follows the row.
pub const HAS_ORIGIN: u8 = 8;

/// In [`SocketRow::flags`]: [`SocketRow::snd_una`] and [`SocketRow::rcv_nxt`] are known. sock_diag does not give them.
pub const HAS_SEQUENCES: u8 = 16;

/// A connection's two ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// Network order; IPv4 as [`crate::v4_mapped`].
    pub local_addr: [u8; 16],
    /// Network order; IPv4 as [`crate::v4_mapped`].
    pub remote_addr: [u8; 16],
    /// Host order; 0 where the kernel has not chosen one yet.
    pub local_port: u16,
    /// Host order; 0 where there is no peer.
    pub remote_port: u16,
    /// [`crate::AF_INET`] or [`crate::AF_INET6`], the socket's own (a dual-stack socket is `AF_INET6`).
    pub family: u16,
    /// Index of the interface that an IPv6 socket is bound to, as one with a link-local address always is; 0 if it is bound
    /// to none, or the index is above 65535.
    pub interface: u16,
}

/// A task, a thread of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Task {
    /// Thread group id, in the initial pid namespace.
    pub pid: u32,
    /// Thread id, likewise.
    pub tid: u32,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// The process's name (its thread group leader's), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
    /// The thread's name, likewise.
    pub thread_comm: [u8; COMM_LEN],
}

/// One state change of one TCP socket, from `sock:inet_sock_set_state` (`net/ipv4/af_inet.c`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Transition {
    /// `CLOCK_MONOTONIC`, nanoseconds: just before the state changed.
    pub ktime_ns: u64,
    /// The socket's identity: its cookie, or what stands for it on kernels without.
    pub cookie: u64,
    /// Inode number of the network namespace; 0 where the kernel has none or it cannot be read.
    pub netns: u32,
    /// `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// The two ends as the socket had them at that moment.
    pub tuple: Tuple,
    /// See [`crate::state`].
    pub old_state: u8,
    /// See [`crate::state`].
    pub new_state: u8,
    /// [`ACTOR_KNOWN`] or [`ORIGIN_KNOWN`], [`PROCESS_NAMED`], [`TAKEN_OVER`], [`EXITING`], [`REPLACED`],
    /// [`ABORTED`] and [`COMPLETED`], or 0.
    pub flags: u8,
    /// Always 0.
    pub pad: u8,
    /// Who acted, or else brought the socket into its process; all 0 where neither is known.
    pub task: Task,
}

/// [`Origin::how`]: nothing is known of where the socket came from.
pub const UNKNOWN_ORIGIN: u8 = 0;
/// [`Origin::how`]: the task called connect(2).
pub const CONNECTED: u8 = 1;
/// [`Origin::how`]: the task called accept(2).
pub const ACCEPTED: u8 = 2;
/// [`Origin::how`]: the task called listen(2).
pub const LISTENED: u8 = 3;

/// Whether one of these states (a mask) is left or entered. Nothing changes where a process closes a socket that is closing
/// already (`tcp_close_state`, `net/ipv4/tcp.c`).
#[inline(always)]
pub const fn is_of(states: u32, old_state: u8, new_state: u8) -> bool {
    old_state != new_state
        && (states.wrapping_shr(old_state as u32) & 1 != 0 || states.wrapping_shr(new_state as u32) & 1 != 0)
}

/// What the task that acts does to a socket of which this transition is the beginning, as in [`Origin::how`].
#[inline(always)]
pub const fn opening(old_state: u8, new_state: u8) -> Option<u8> {
    match (old_state, new_state) {
        (state::CLOSE, state::SYN_SENT) => Some(CONNECTED),
        (state::CLOSE, state::LISTEN) => Some(LISTENED),
        _ => None,
    }
}

/// Who brought a socket into a process: the kernel keeps it with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Origin {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ktime_ns: u64,
    /// Who it was.
    pub task: Task,
    /// [`CONNECTED`], [`ACCEPTED`], [`LISTENED`] or [`UNKNOWN_ORIGIN`].
    pub how: u8,
    /// Where the kernel is about to replace the socket by a stand-in, the state that this is in: TIME_WAIT or FIN_WAIT2.
    /// Else 0.
    pub stand_in: u8,
    /// [`PROCESS_NAMED`] or 0.
    pub flags: u8,
    /// Always 0.
    pub pad: u8,
}

/// A counter that the running kernel does not have, in [`Counters`]: the highest number of its size.
pub const UNCOUNTED: u64 = u64::MAX;

/// What the kernel has counted for a socket by the end of its life (`struct tcp_sock`, `include/linux/tcp.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Counters {
    /// Bytes of payload sent, each as often as it was sent; or [`UNCOUNTED`].
    pub bytes_sent: u64,
    /// Those of them that were sent again; or [`UNCOUNTED`].
    pub bytes_resent: u64,
    /// Bytes received in order, the peer's FIN counting as one; or [`UNCOUNTED`].
    pub bytes_received: u64,
    /// Segments sent again, SYN and FIN among them; or `u32::MAX`.
    pub retransmits: u32,
    /// Eight times the smoothed round-trip time, µs; 0 where there is no sample; or `u32::MAX`.
    pub round_trip: u32,
    /// 1 where the peer's FIN has been received, else 0.
    pub has_fin: u32,
    /// Always 0.
    pub pad: u32,
}

/// A socket's last transition, where lives are wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Closing {
    /// The transition.
    pub transition: Transition,
    /// What was counted up to it.
    pub counters: Counters,
    /// Who connected or accepted the socket; all 0 where the kernel does not tell.
    pub origin: Origin,
}

/// One open TCP socket as it was found by walking the kernel's tables. Where the kernel tells who connected or accepted it,
/// or made it listen, that [`Origin`] follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketRow {
    /// `CLOCK_MONOTONIC`, nanoseconds: when this row was read.
    pub ktime_ns: u64,
    /// As in [`Transition::cookie`].
    pub cookie: u64,
    /// Inode of the socket's file as `/proc/PID/fd` shows it; 0 where it has none, or where that was not asked for. The
    /// kernel numbers those of sockets with 32 bits (`get_next_ino`, `fs/inode.c`).
    pub inode: u32,
    /// As in [`Transition::netns`].
    pub netns: u32,
    /// See [`crate::state`].
    pub state: u8,
    /// [`IN_ACCEPT_QUEUE`], [`STAND_IN`], [`HAS_FILE`], [`HAS_ORIGIN`] and [`HAS_SEQUENCES`], or 0.
    pub flags: u8,
    /// Always 0.
    pub pad: u16,
    /// `tcp_sock.snd_una`: the first sequence number that the other end has not acknowledged. With
    /// [`Self::unsent`] it gives `write_seq`.
    pub snd_una: u32,
    /// The two ends.
    pub tuple: Tuple,
    /// `rcv_nxt − copied_seq`: bytes not read yet, a received FIN counting as one. Of a listener: sockets
    /// waiting to be accepted.
    pub unread: u32,
    /// `write_seq − snd_una`: bytes not sent or not acknowledged, a sent FIN counting as one. Of a listener:
    /// the limit of that queue.
    pub unsent: u32,
    /// Jiffies since the last ACK arrived (`tcp_sock.rcv_tstamp`), modulo 2³².
    pub since_ack_jiffies: u32,
    /// Jiffies since the last data arrived, or since the handshake where none did
    /// (`icsk_ack.lrcvtime`), modulo 2³².
    pub since_data_jiffies: u32,
    /// `sk->sk_err`: an errno, or 0.
    pub sk_err: i32,
    /// `tcp_sock.rcv_nxt`: the sequence number that is expected next from the other end.
    pub rcv_nxt: u32,
}

/// One file descriptor that holds a TCP socket. The socket's [`SocketRow`] follows where `has_row` says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Descriptor {
    /// The socket, as in [`SocketRow::cookie`].
    pub cookie: u64,
    /// Thread group id of the process, in the initial pid namespace.
    pub pid: u32,
    /// 1 where the socket is not in [`Wanted::walked`]; else 0.
    pub has_row: u32,
    /// The file descriptor.
    pub fd: u32,
    /// Real user id of the process, in the initial user namespace.
    pub uid: u32,
    /// When the process started, nanoseconds since boot: what `/proc/PID/stat` gives in clock ticks.
    pub start_ns: u64,
    /// The process's name (its thread group leader's), NUL-padded, any bytes.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Tuple>() == 40 && align_of::<Tuple>() == 2);
const _: () = assert!(size_of::<Transition>() == 112 && align_of::<Transition>() == 8);
// The BPF programs write the addresses as words.
const _: () = assert!(core::mem::offset_of!(Transition, tuple) % 8 == 0);
const _: () = assert!(size_of::<Task>() == 44 && align_of::<Task>() == 4);
const _: () = assert!(size_of::<Counters>() == 40 && align_of::<Counters>() == 8);
const _: () = assert!(size_of::<Closing>() == 208 && align_of::<Closing>() == 8);
const _: () = assert!(size_of::<Origin>() == 56 && align_of::<Origin>() == 8);
const _: () = assert!(size_of::<SocketRow>() == 96 && align_of::<SocketRow>() == 8);
const _: () = assert!(size_of::<Descriptor>() == 48 && align_of::<Descriptor>() == 8);
