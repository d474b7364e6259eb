//! One state change → one record in the ring (`ring.rs`), where it is one of TCP that is watched.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_ktime_get_ns, generated::bpf_skc_to_tcp_sock},
    macros::map,
    maps::PerCpuArray,
    programs::TracePointContext,
};
use tcptrace_common::{AF_INET6, Tuple, state, v4_mapped};

use crate::{
    guard, identity,
    kernel::{self, config, layout},
    origin,
    ring::{Fields, write},
};

/// `include/uapi/linux/in.h`
const IPPROTO_TCP: u16 = 6;

/// The offset of one field of the event.
macro_rules! event {
    ($field:ident) => {
        config!(event.$field) as usize
    };
}

/// Sees to one transition as the `nth` program on the tracepoint (the first is 0): writes its record, where it is one of
/// TCP that is watched, and remembers who opens a socket.
#[inline(always)]
pub(crate) fn see_to<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8, nth: u32) {
    if concerns_us(sk, old_state, new_state) && guard::falls_to(nth, sk, old_state, new_state) {
        take(ctx, sk, old_state, new_state, nth);
    }
}

/// Whether there is something to do. A closed socket's identity is forgotten all the same.
#[inline(always)]
fn concerns_us(sk: *const c_void, old_state: u8, new_state: u8) -> bool {
    !is_unwatched(sk, old_state, new_state) || origin::opening(old_state, new_state).is_some()
}

/// Does it, as the `nth` of the programs.
#[inline(always)]
fn take<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8, nth: u32) {
    let is_watched = is_watched(old_state, new_state);
    // Who opens a socket is in the record of that, where there is one: noting it with the socket costs a microsecond.
    if let Some(how) = origin::opening(old_state, new_state)
        && !is_watched
    {
        origin::remember(sk, how);
    }
    if is_watched {
        record_watched(ctx, sk, old_state, new_state, nth);
    }
}

#[inline(always)]
fn record_watched<C: EbpfContext>(ctx: &C, sk: *const c_void, old_state: u8, new_state: u8, nth: u32) {
    // SAFETY: `sk` is the tracepoint's own argument. The helper answers null for whatever is not a full TCP
    // socket: the tracepoint fires for SCTP, DCCP and MPTCP too.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return;
    }
    // SAFETY: `sk` is a live `struct sock`, `tcp` is the same as a `struct tcp_sock`, of which the offsets are.
    submit(ctx, sk, old_state, new_state, nth, || unsafe {
        let (tuple, netns) = (kernel::tuple(tcp), kernel::netns(tcp));
        Fields { tuple, netns, sk_err: kernel::load(tcp, layout!(err)), tcp }
    });
}

/// The same from what the event itself tells: no namespace, no error, and an identity made of the address.
#[inline(always)]
pub(crate) fn record_event(ctx: &TracePointContext) -> Result<(), i32> {
    // SAFETY: probe reads check the addresses themselves; the offsets are those of the event's fields.
    unsafe {
        let old_state = ctx.read_at::<u32>(event!(old_state))? as u8;
        let new_state = ctx.read_at::<u32>(event!(new_state))? as u8;
        let sk: *const c_void = ctx.read_at(event!(socket))?;
        if is_unwatched(sk, old_state, new_state) || ctx.read_at::<u16>(event!(protocol))? != IPPROTO_TCP {
            return Ok(());
        }
        let family: u16 = ctx.read_at(event!(family))?;
        let (local_addr, remote_addr) = if family == AF_INET6 {
            (ctx.read_at(event!(local_v6))?, ctx.read_at(event!(remote_v6))?)
        } else {
            (v4_mapped(ctx.read_at(event!(local_v4))?), v4_mapped(ctx.read_at(event!(remote_v4))?))
        };
        let tuple = Tuple {
            local_addr,
            remote_addr,
            local_port: ctx.read_at(event!(local_port))?,
            remote_port: ctx.read_at(event!(remote_port))?,
            family,
            pad: 0,
        };
        submit(ctx, sk, old_state, new_state, 0, || Fields {
            tuple,
            netns: 0,
            sk_err: 0,
            tcp: core::ptr::null(),
        });
    }
    Ok(())
}

/// Whether nobody wants this transition. A closed socket's identity is forgotten all the same.
#[inline(always)]
fn is_unwatched(sk: *const c_void, old_state: u8, new_state: u8) -> bool {
    let is_watched = is_watched(old_state, new_state);
    if !is_watched && new_state == state::CLOSE {
        identity::forget(sk);
    }
    !is_watched
}

/// Whether somebody wants it. Nothing changes where a process closes a socket that is closing already
/// (`tcp_close_state`, `net/ipv4/tcp.c`).
#[inline(always)]
fn is_watched(old_state: u8, new_state: u8) -> bool {
    old_state != new_state && config!(watched_states) & (state::bit(old_state) | state::bit(new_state)) != 0
}

/// Takes one transition, of which `fields` gives what is read of the socket, and writes its record.
///
/// Until Linux 6.12 a listener's child enters SYN_RECV before it is made its own: it has no peer yet, and the
/// listener's cookie. That record is held back until the child's next transition, which comes on the same CPU
/// within the same packet (`tcp_check_req`, `net/ipv4/tcp_minisocks.c`).
#[inline(always)]
fn submit<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    old_state: u8,
    new_state: u8,
    nth: u32,
    fields: impl Fn() -> Fields,
) {
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    if old_state == state::LISTEN && new_state == state::SYN_RECV && fields().tuple.remote_port == 0 {
        hold_back(sk, ktime_ns);
        return;
    }
    if old_state == state::SYN_RECV
        && let Some(entered_ns) = held_back(sk)
    {
        write(ctx, sk, (state::LISTEN, state::SYN_RECV), entered_ns, nth, &fields);
    }
    write(ctx, sk, (old_state, new_state), ktime_ns, nth, &fields);
}

/// A child that has entered SYN_RECV without being its own yet, one per CPU.
#[repr(C)]
struct Child {
    address: u64,
    entered_ns: u64,
}

/// See [`submit`].
#[map]
static CHILD: PerCpuArray<Child> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn hold_back(sk: *const c_void, entered_ns: u64) {
    if let Some(child) = CHILD.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot.
        unsafe { *child = Child { address: identity::number(sk), entered_ns } };
    }
}

/// When the socket at `sk` entered SYN_RECV, if that has been held back.
#[inline(always)]
fn held_back(sk: *const c_void) -> Option<u64> {
    let child = CHILD.get_ptr_mut(0)?;
    // SAFETY: this CPU's own slot.
    unsafe {
        if (*child).address == 0 || (*child).address != identity::number(sk) {
            return None;
        }
        (*child).address = 0;
        Some((*child).entered_ns)
    }
}
