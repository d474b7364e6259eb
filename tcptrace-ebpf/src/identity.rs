//! A socket's identity: its cookie, which the kernel never gives twice between two boots.
//!
//! Tracing programs may ask for it from Linux 5.12 on. On older kernels an identity is made at first sight
//! of the socket and kept by address until the socket is closed, so that an address used again is another
//! socket.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel, generated::bpf_get_socket_cookie},
    macros::map,
    maps::HashMap,
};
use aya_log_ebpf::error;

use crate::kernel::config;

/// Address of a live socket → its identity. The loader shrinks it to one entry where cookies are to be had.
#[map]
static COOKIES: HashMap<u64, u64> = HashMap::with_max_entries(262_144, 0);

/// Identities fit the 53 bits that every JSON reader keeps exact.
const IDENTITY_BITS: u64 = (1 << 53) - 1;

/// The identity of the socket at `sk`.
///
/// # Safety
/// `sk` is a `struct sock`, not null.
#[inline(always)]
pub(crate) unsafe fn of<C: EbpfContext>(ctx: &C, sk: *const c_void) -> u64 {
    if config!(has_cookie).get() {
        // SAFETY: as promised by the caller.
        return unsafe { bpf_get_socket_cookie(sk.cast_mut()) };
    }
    let address = number(sk);
    // SAFETY: the value is copied at once; another CPU can only have written the same socket's.
    if let Some(identity) = unsafe { COOKIES.get(address) } {
        return *identity;
    }
    // SAFETY: no arguments.
    let identity = mix(address ^ unsafe { bpf_ktime_get_ns() }.rotate_left(32));
    if COOKIES.insert(address, identity, 0).is_err() {
        error!(ctx, "more live sockets than identities: one goes by its address alone");
        return mix(address);
    }
    identity
}

/// Forgets the identity of a socket that is now closed.
#[inline(always)]
pub(crate) fn forget(sk: *const c_void) {
    if !config!(has_cookie).get() {
        let _gone = COOKIES.remove(number(sk));
    }
}

/// A pointer as a number. The verifier follows pointers even through a cast, and lets nobody calculate with them;
/// what a helper has copied is a number.
#[inline(always)]
pub(crate) fn number(sk: *const c_void) -> u64 {
    // SAFETY: it reads this program's own stack.
    unsafe { bpf_probe_read_kernel(&raw const sk) }.map_or(0, |sk| sk as u64)
}

/// Spreads the bits (the finaliser of SplitMix64), so that a kernel address is not shown to users and two
/// sockets do not meet in the bits kept.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) & IDENTITY_BITS
}
