//! Wraps the pointers that the verifier knows by their kernel type.
//!
//! The verifier tracks what a pointer from the kernel leads to, and lets a program load only what
//! is inside that structure. A wrapper states this in Rust: it is made only from a pointer of that
//! type, and only its methods load fields, at the offsets that user space found for that structure.
//! If an address cannot be read at run time, the kernel turns the load into zeros.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{
        bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_skc_to_tcp_sock, bpf_skc_to_tcp_timewait_sock,
        bpf_sock_from_file,
    },
};
use tcptrace_common::{ABSENT, COMM_LEN};

use crate::config::config;

/// Loads a `T` at `base + offset`.
///
/// # Safety
/// `base` is a pointer that the verifier tracks by its kernel type, and `offset` is that of a
/// member of this type that can be read as a `T`.
#[inline(always)]
unsafe fn load<T: Copy>(base: *const c_void, offset: u32) -> T {
    // Volatile, so that the compiler keeps this one load: the verifier accepts no other form.
    // SAFETY: the caller vouches for the address. The offset fits: addresses have 64 bits.
    unsafe { core::ptr::read_volatile(base.byte_add(offset as usize).cast::<T>()) }
}

/// Returns a pointer, unless it is null.
#[inline(always)]
pub(crate) fn non_null(pointer: *const c_void) -> Option<*const c_void> {
    if pointer.is_null() { None } else { Some(pointer) }
}

/// Reads the offset of a field from the configuration.
macro_rules! layout {
    ($field:ident) => {
        config!(layout.$field)
    };
}

/// Defines a method for each field: its name, the type to load, and its offset in the layout.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $offset:ident),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name(self) -> $type {
                // SAFETY: the wrapper holds a pointer to its structure, and this is the offset of
                // a member of that structure, of this type (`tcptrace_common::KernelLayout`).
                unsafe { load(self.0, layout!($offset)) }
            }
        )+
    };
}

/// Defines a method for each field that not every kernel has: without the field it returns `None`.
macro_rules! optional_fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $offset:ident),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name(self) -> Option<$type> {
                if layout!($offset) == ABSENT {
                    return None;
                }
                // SAFETY: as in `fields`; this kernel has the member.
                Some(unsafe { load(self.0, layout!($offset)) })
            }
        )+
    };
}

/// Defines a method for each field that is a pointer: it returns a wrapper, and `None` for null.
macro_rules! pointer_fields {
    ($($(#[$doc:meta])* $name:ident: $wrapper:ident = $offset:ident),+ $(,)?) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name(self) -> Option<$wrapper> {
                // SAFETY: as in `fields`; the member is a pointer to the structure of that wrapper.
                non_null(unsafe { load(self.0, layout!($offset)) }).map($wrapper)
            }
        )+
    };
}

/// Defines the method that returns the part that all sockets have, for structures that begin with
/// it.
macro_rules! as_common {
    ($($wrapper:ident),+) => {
        $(
            impl $wrapper {
                /// Returns the part that all sockets have.
                #[inline(always)]
                pub(crate) const fn as_common(self) -> SockCommon {
                    SockCommon(self.0)
                }
            }
        )+
    };
}

as_common!(Sock, TcpSock, TimewaitSock);

/// A `struct sock` or `struct sock_common`: a live socket of any protocol, full or not.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const c_void);

impl Sock {
    /// Wraps a pointer.
    ///
    /// # Safety
    /// `sk` is not null, and the kernel gave it to this program as a pointer to one of these
    /// structures: as an argument of a function or tracepoint, in the context of an iterator, or as
    /// `socket.sk`.
    #[inline(always)]
    pub(crate) const unsafe fn new(sk: *const c_void) -> Self {
        Self(sk)
    }

    /// Returns the pointer, for helpers that take it.
    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *mut c_void {
        self.0.cast_mut()
    }

    /// Returns the address as a number.
    ///
    /// The verifier recognises a pointer even after a cast, and lets no program calculate with it.
    /// What a helper has copied is a number.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        let pointer: *const *const c_void = &raw const self.0;
        // SAFETY: the helper reads eight bytes of this program's own stack.
        unsafe { bpf_probe_read_kernel(pointer.cast::<u64>()) }.unwrap_or(0)
    }

    /// Returns the cookie that the kernel gives the socket. May be called only if
    /// `BpfConfig::has_cookie` is set.
    #[inline(always)]
    pub(crate) fn kernel_cookie(self) -> u64 {
        // SAFETY: the helper takes any live `struct sock`.
        unsafe { bpf_get_socket_cookie(self.as_ptr()) }
    }

    /// Returns the socket as a full TCP socket; `None` if it is none. SCTP, DCCP and MPTCP have the
    /// same tracepoint.
    #[inline(always)]
    pub(crate) fn as_tcp(self) -> Option<TcpSock> {
        // SAFETY: the helper takes any `struct sock_common` and checks its type and protocol.
        let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(self.as_ptr()) }.cast();
        non_null(tcp).map(TcpSock)
    }

    /// Returns the socket as a timewait socket; `None` if it is none.
    #[inline(always)]
    pub(crate) fn as_timewait(self) -> Option<TimewaitSock> {
        // SAFETY: the helper takes any `struct sock_common` and checks its type and protocol.
        let timewait: *const c_void = unsafe { bpf_skc_to_tcp_timewait_sock(self.as_ptr()) }.cast();
        non_null(timewait).map(TimewaitSock)
    }
}

/// The `struct sock_common` that every socket begins with, full or not.
#[derive(Clone, Copy)]
pub(crate) struct SockCommon(*const c_void);

impl SockCommon {
    fields! {
        /// The TCP state, see [`tcptrace_common::state`].
        state: u8 = state,
        family: u16 = family,
        /// The local port, host order; 0 once the socket has released it.
        held_port: u16 = held_port,
        /// The peer's port, network order.
        remote_port_be: u16 = remote_port,
        local_v4: u32 = local_v4,
        remote_v4: u32 = remote_v4,
    }

    optional_fields! {
        net: Net = net,
        /// The index of the interface that the socket is bound to; 0 if it is bound to none.
        bound_interface: u32 = interface,
    }

    /// Returns the local and the remote IPv6 address, two words each; `None` on a kernel without
    /// IPv6.
    #[inline(always)]
    pub(crate) fn v6_addresses(self) -> Option<([u64; 2], [u64; 2])> {
        let (local, remote) = (layout!(local_v6), layout!(remote_v6));
        if local == ABSENT {
            return None;
        }
        // One load of 16 bytes is more than the verifier accepts.
        // SAFETY: both are offsets of members of `struct sock_common` with 16 bytes, and a kernel
        // that has one of them has the other.
        unsafe {
            Some((
                [load(self.0, local), load(self.0, local + 8)],
                [load(self.0, remote), load(self.0, remote + 8)],
            ))
        }
    }

    /// Returns the peer's port, host order; 0 if there is no peer.
    #[inline(always)]
    pub(crate) fn remote_port(self) -> u16 {
        u16::from_be(self.remote_port_be())
    }

    /// Returns the inode number of the socket's network namespace; 0 on a kernel without
    /// namespaces.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        self.net().map_or(0, Net::inode)
    }
}

/// A `struct net`: a network namespace. It lives as long as any socket in it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Net(*const c_void);

impl Net {
    fields! {
        /// The inode number of the namespace.
        inode: u32 = net_inum,
    }
}

/// The bits of [`TcpSock::flags`] (`enum sock_flags`, `include/net/sock.h`).
pub(crate) mod sock_flag {
    /// `SOCK_DEAD`: no process holds the socket any more (`sock_orphan`).
    pub(crate) const DEAD: u64 = 1;
    /// `SOCK_DONE`: the peer's FIN has been received in order. Only `tcp_fin`
    /// (`net/ipv4/tcp_input.c`) sets it.
    pub(crate) const DONE: u64 = 1 << 1;
    /// `SOCK_LINGER`: SO_LINGER is set.
    pub(crate) const LINGER: u64 = 1 << 4;
}

/// A `struct tcp_sock`: a full TCP socket.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(*const c_void);

impl TcpSock {
    fields! {
        /// The local port, network order. `inet_sport` survives the release of the port, while
        /// `skc_num` is already 0 when the socket enters CLOSE.
        local_port_be: u16 = local_port,
        /// The pending error: an errno, or 0.
        err: i32 = err,
        /// The number of sockets in a listener's accept queue.
        backlog: u32 = backlog,
        /// The limit of a listener's accept queue.
        backlog_limit: u32 = backlog_limit,
        rcv_nxt: u32 = rcv_nxt,
        copied_seq: u32 = copied_seq,
        write_seq: u32 = write_seq,
        snd_una: u32 = snd_una,
        snd_nxt: u32 = snd_nxt,
        /// When an ACK last arrived, jiffies.
        last_ack: u32 = last_ack,
        /// When data last arrived, jiffies.
        last_data: u32 = last_data,
    }

    pointer_fields! {
        /// The side that a process sees; `None` while the socket is in an accept queue.
        socket: SocketStruct = socket,
    }

    optional_fields! {
        /// The flags of the socket, see [`sock_flag`].
        flags: u64 = flags,
        /// Whether a task holds the lock of the socket: then it is not 0.
        owned: u32 = owned,
        bytes_sent: u64 = bytes_sent,
        bytes_resent: u64 = bytes_resent,
        bytes_received: u64 = bytes_received,
        retransmits: u32 = retransmits,
        round_trip: u32 = round_trip,
    }

    /// Returns the local port, host order.
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        u16::from_be(self.local_port_be())
    }
}

/// A `struct tcp_timewait_sock`: it replaces a TCP socket in TIME_WAIT, and in FIN_WAIT2 if no
/// process holds the socket.
#[derive(Clone, Copy)]
pub(crate) struct TimewaitSock(*const c_void);

impl TimewaitSock {
    fields! {
        /// The TCP state: TIME_WAIT or FIN_WAIT2. [`SockCommon::state`] is TIME_WAIT in both cases.
        substate: u8 = timewait_substate,
        rcv_nxt: u32 = timewait_rcv_nxt,
        snd_nxt: u32 = timewait_snd_nxt,
    }
}

/// A `struct socket`: the side of a socket that a process sees.
#[derive(Clone, Copy)]
pub(crate) struct SocketStruct(*const c_void);

impl SocketStruct {
    pointer_fields! {
        /// The protocol side of the socket.
        sk: Sock = socket_sk,
        /// The file through which processes hold the socket.
        file: File = socket_file,
    }
}

/// A `struct file`.
#[derive(Clone, Copy)]
pub(crate) struct File(*const c_void);

impl File {
    /// Wraps a pointer.
    ///
    /// # Safety
    /// `file` is not null, and the kernel gave it to this program as a `struct file`, in the
    /// context of an iterator.
    #[inline(always)]
    pub(crate) const unsafe fn new(file: *const c_void) -> Self {
        Self(file)
    }

    fields! {
        inode: Inode = file_inode,
    }

    /// Returns the socket behind the file; `None` if the file is none of a socket.
    #[inline(always)]
    pub(crate) fn as_socket(self) -> Option<SocketStruct> {
        // SAFETY: the helper takes any live `struct file`.
        let socket: *const c_void = unsafe { bpf_sock_from_file(self.0.cast_mut().cast()) }.cast();
        non_null(socket).map(SocketStruct)
    }
}

/// A `struct inode`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Inode(*const c_void);

impl Inode {
    fields! {
        number: u64 = inode_number,
    }
}

/// A `struct task_struct`: one thread of a process.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct TaskStruct(*const c_void);

impl TaskStruct {
    /// Wraps a pointer.
    ///
    /// # Safety
    /// `task` is not null, and the kernel gave it to this program as a `struct task_struct`, in the
    /// context of an iterator.
    #[inline(always)]
    pub(crate) const unsafe fn new(task: *const c_void) -> Self {
        Self(task)
    }

    /// Returns the task on this CPU. May be called only if `BpfConfig::has_task` is set.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: the helper takes no arguments and never returns null.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    fields! {
        /// The process id.
        tgid: u32 = task_tgid,
        /// The thread id.
        pid: u32 = task_pid,
        /// The first thread of the process, whose name is that of the process.
        group_leader: Self = task_leader,
        /// `PF_` flags (`include/linux/sched.h`).
        flags: u32 = task_flags,
        /// When the process or thread started, nanoseconds since boot.
        start_ns: u64 = task_start,
        cred: Cred = task_cred,
    }

    /// Returns the name, in words.
    #[inline(always)]
    pub(crate) fn comm(self) -> CommWords {
        let comm = layout!(task_comm);
        // SAFETY: `comm` is the offset of a member with `COMM_LEN` bytes.
        unsafe {
            [load(self.0, comm), load(self.0, comm + 4), load(self.0, comm + 8), load(self.0, comm + 12)]
        }
    }
}

/// The words by which the name of a task is copied: a [`tcptrace_common::Task`] has their
/// alignment.
pub(crate) type CommWords = [u32; COMM_LEN / 4];

/// A `struct cred`: the credentials of a task.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Cred(*const c_void);

impl Cred {
    fields! {
        /// The real user id, in the initial user namespace.
        uid: u32 = cred_uid,
    }
}
