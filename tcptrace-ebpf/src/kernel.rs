//! Reading the kernel's structures at the offsets that user space found in the running kernel's BTF.

use core::ffi::c_void;

use tcptrace_common::{ABSENT, AF_INET6, Config, Tuple, v4_mapped_words};

/// Filled in by the loader before the programs are loaded; read-only from then on.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = Config::UNSET;

/// Reads one field of [`CONFIG`]. Volatile, because the compiler would otherwise fold the zeros that stand in
/// the object file; the verifier still sees a constant, since the map behind it is frozen.
#[inline(always)]
pub(crate) fn constant<T: Copy>(field: &'static T) -> T {
    // SAFETY: a reference is aligned and initialised.
    unsafe { core::ptr::read_volatile(field) }
}

/// A field of [`CONFIG`].
macro_rules! config {
    ($($field:ident).+) => {
        $crate::kernel::constant(&$crate::kernel::CONFIG.$($field).+)
    };
}

/// The offset of one field in the running kernel.
macro_rules! layout {
    ($field:ident) => {
        $crate::kernel::config!(layout.$field)
    };
}

pub(crate) use {config, layout};

/// Loads a `T` at `base + offset`.
///
/// # Safety
/// `base` is a pointer that the verifier tracks by its kernel type and `offset` leads to a member of that
/// type: the verifier refuses the program otherwise, and the kernel turns a fault into zeros.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const c_void, offset: u32) -> T {
    // SAFETY: as promised by the caller.
    unsafe { core::ptr::read_volatile(base.byte_add(offset as usize).cast::<T>()) }
}

/// Writes the two ends of a full TCP socket.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null; `to` can be written to, and is aligned to a word.
#[inline(always)]
pub(crate) unsafe fn put_tuple(to: *mut Tuple, tcp: *const c_void) {
    // SAFETY: as promised by the caller; every address is at a multiple of a word from the first.
    unsafe {
        let (family, local, remote) = addresses(tcp);
        (&raw mut (*to).local_addr).cast::<[u64; 2]>().write(local);
        (&raw mut (*to).remote_addr).cast::<[u64; 2]>().write(remote);
        (*to).local_port = local_port(tcp);
        (*to).remote_port = remote_port(tcp);
        (*to).family = family;
        (*to).interface = interface(tcp, family);
    }
}

/// The two ends of any socket, with this for the local port.
///
/// # Safety
/// `sk` is not null, and of a type that begins with `struct sock_common`.
#[inline(always)]
pub(crate) unsafe fn ends(sk: *const c_void, local_port: u16) -> Tuple {
    // SAFETY: as promised by the caller.
    unsafe {
        let (family, local, remote) = addresses(sk);
        let (local_addr, remote_addr) = (bytemuck::cast(local), bytemuck::cast(remote));
        let (remote_port, interface) = (remote_port(sk), interface(sk, family));
        Tuple { local_addr, remote_addr, local_port, remote_port, family, interface }
    }
}

/// The local port of a full TCP socket. It comes from `inet_sport`: `skc_num` is already 0 when a socket enters CLOSE.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null.
#[inline(always)]
pub(crate) unsafe fn local_port(tcp: *const c_void) -> u16 {
    // SAFETY: as promised by the caller.
    u16::from_be(unsafe { load(tcp, layout!(local_port)) })
}

/// The port of a socket's peer; 0 where it has none.
///
/// # Safety
/// As [`ends`].
#[inline(always)]
pub(crate) unsafe fn remote_port(sk: *const c_void) -> u16 {
    // SAFETY: as promised by the caller.
    u16::from_be(unsafe { load(sk, layout!(remote_port)) })
}

/// The family of a socket, its own address and its peer's.
///
/// # Safety
/// As [`ends`].
#[inline(always)]
unsafe fn addresses(sk: *const c_void) -> (u16, [u64; 2], [u64; 2]) {
    // SAFETY: every offset is one of `struct sock_common`.
    unsafe {
        let family: u16 = load(sk, layout!(family));
        if family == AF_INET6 && layout!(local_v6) != ABSENT {
            (family, two_words(sk, layout!(local_v6)), two_words(sk, layout!(remote_v6)))
        } else {
            let mapped = |offset| v4_mapped_words(load(sk, offset));
            (family, mapped(layout!(local_v4)), mapped(layout!(remote_v4)))
        }
    }
}

/// Index of the interface that an IPv6 socket is bound to; 0 if it is bound to none, or the index has no room.
///
/// # Safety
/// As [`ends`].
#[inline(always)]
unsafe fn interface(sk: *const c_void, family: u16) -> u16 {
    if family != AF_INET6 || layout!(interface) == ABSENT {
        return 0;
    }
    // SAFETY: as promised by the caller; the offset is one of `struct sock_common`.
    let index: u32 = unsafe { load(sk, layout!(interface)) };
    if index > u16::MAX as u32 { 0 } else { index as u16 }
}

/// Sixteen bytes in two loads, the most that the verifier takes at once.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn two_words(base: *const c_void, offset: u32) -> [u64; 2] {
    // SAFETY: as promised by the caller.
    unsafe { [load(base, offset), load(base, offset + 8)] }
}

/// Inode number of the socket's network namespace, 0 in a kernel without namespaces.
///
/// # Safety
/// `tcp` is a `struct tcp_sock`, not null.
#[inline(always)]
pub(crate) unsafe fn netns(tcp: *const c_void) -> u32 {
    if layout!(net) == ABSENT {
        return 0;
    }
    // SAFETY: `skc_net.net` points to a live `struct net` as long as the socket lives.
    unsafe {
        let net: *const c_void = load(tcp, layout!(net));
        load(net, layout!(net_inum))
    }
}
