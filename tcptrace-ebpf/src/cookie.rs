//! The cookie of a socket: a number that the kernel never gives twice between two boots.
//!
//! Tracing programs can ask the kernel for it from Linux 5.12 on. On older kernels, and without
//! BTF, a number of our own takes its place. A program makes it when it first sees the socket. It
//! is kept by address until the socket closes: the next socket at that address is another one.

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_ns, macros::map, maps::HashMap};
use aya_log_ebpf::error;

use crate::{config::config, pointers::Sock};

/// Maps the address of a live socket to its cookie. The loader reduces the map to one entry if the
/// kernel gives cookies.
#[map]
static COOKIES: HashMap<u64, u64> = HashMap::with_max_entries(262_144, 0);

/// The bits of our own cookies: 53, so that every JSON reader keeps them exact.
const COOKIE_MASK: u64 = (1 << 53) - 1;

/// Returns the cookie of a socket.
#[inline(always)]
pub(crate) fn of_sock<C: EbpfContext>(ctx: &C, sock: Sock) -> u64 {
    if config!(has_cookie).get() { sock.kernel_cookie() } else { of_address(ctx, sock.address()) }
}

/// Forgets the cookie of a socket that closes.
#[inline(always)]
pub(crate) fn forget_sock(sock: Sock) {
    if !config!(has_cookie).get() {
        forget_address(sock.address());
    }
}

/// Returns our own cookie of the socket at an address. Makes one if there is none.
#[inline(always)]
pub(crate) fn of_address<C: EbpfContext>(ctx: &C, address: u64) -> u64 {
    // SAFETY: the value is copied at once. Another CPU can only write the cookie of the same
    // socket.
    if let Some(cookie) = unsafe { COOKIES.get(address) } {
        return *cookie;
    }
    // SAFETY: the helper takes no arguments.
    let cookie = mix_bits(address ^ unsafe { bpf_ktime_get_ns() }.rotate_left(32));
    if COOKIES.insert(address, cookie, 0).is_err() {
        error!(ctx, "no room for the cookie of a socket: it is identified by its address alone");
        return mix_bits(address);
    }
    cookie
}

/// Forgets our own cookie of the socket at an address.
#[inline(always)]
pub(crate) fn forget_address(address: u64) {
    let _was_there = COOKIES.remove(address);
}

/// Mixes the bits (the finaliser of `SplitMix64`), so that users see no kernel address, and that
/// the cookies of two sockets are unlikely to agree in the bits that are kept.
#[inline(always)]
fn mix_bits(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) & COOKIE_MASK
}
