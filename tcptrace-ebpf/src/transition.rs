//! One state change → one record in the ring (`ring.rs`), where it is one of TCP that is watched.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_ktime_get_ns, generated::bpf_skc_to_tcp_sock},
    macros::map,
    maps::PerCpuArray,
    programs::{BtfTracePointContext, TracePointContext},
};
use tcptrace_common::{AF_INET6, OpenCall, Transition, Tuple, interest_bit, state, v4_mapped};

use crate::{
    guard, identity,
    kernel::{self, config, layout, load},
    origin,
    ring::{Source, Step, write},
    tally,
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
/// TCP that is watched. Who opens a socket is in the record of that, where there is one; where there is none it is noted
/// with the socket, which costs a microsecond.
///
/// Most transitions concern nobody where little is watched. Those take one branch, which the processor foretells, and as
/// what there is to do for the others are functions of their own, save no registers and have no stack.
#[inline(always)]
pub(crate) fn see_to(ctx: *mut c_void, sk: *const c_void, old_state: u8, new_state: u8, nth: u8) {
    let (word, bit) = interest_bit(old_state, new_state);
    if kernel::constant(&kernel::CONFIG.interest[word]) >> bit & 1 == 0 {
        return;
    }
    let step = Step { old_state, new_state, nth };
    let is_mine = || nth == 0 || guard::falls_to(sk, step);
    if is_watched(old_state, new_state) {
        if is_mine() {
            record(ctx, sk, step);
        }
    } else if let Some(how) = OpenCall::of_transition(old_state, new_state) {
        if is_mine() {
            remember(sk, how, step);
        }
    } else if new_state == state::CLOSE {
        identity::forget(sk);
    }
}

#[inline(never)]
fn remember(sk: *const c_void, how: OpenCall, step: Step) {
    guard::mark(sk, step);
    origin::remember(sk, how);
}

#[inline(never)]
fn record(ctx: *mut c_void, sk: *const c_void, step: Step) {
    guard::mark(sk, step);
    let ctx = &BtfTracePointContext::new(ctx);
    // SAFETY: `sk` is the tracepoint's own argument. The helper answers null for whatever is not a full TCP
    // socket: the tracepoint fires for SCTP, DCCP and MPTCP too.
    let tcp: *const c_void = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast();
    if tcp.is_null() {
        return;
    }
    // SAFETY: not null; the offset is that of what it begins with.
    let has_peer = || unsafe { kernel::remote_port(tcp) } != 0;
    if let Some(now) = due(sk, step, has_peer) {
        if let Some(entered_ns) = now.child_entered_ns {
            write_of_socket(
                ctx,
                sk,
                tcp,
                Step { old_state: state::LISTEN, new_state: state::SYN_RECV, ..step },
                entered_ns,
            );
        }
        write_of_socket(ctx, sk, tcp, step, now.ktime_ns);
    }
}

/// A `struct tcp_sock`.
#[derive(Clone, Copy)]
struct Socket(*const c_void);

impl Source for Socket {
    #[inline(always)]
    fn tcp(&self) -> *const c_void {
        self.0
    }

    #[inline(always)]
    unsafe fn put(&self, record: *mut Transition) -> Option<i32> {
        // SAFETY: as promised by the caller; `record` has checked the socket. A record's tuple is aligned to a word.
        unsafe {
            kernel::put_tuple(&raw mut (*record).tuple, self.0);
            (*record).netns = kernel::netns(self.0);
            let sk_err = load(self.0, layout!(err));
            (*record).sk_err = sk_err;
            Some(sk_err)
        }
    }
}

/// A function of its own, for it is called twice.
#[inline(never)]
fn write_of_socket<C: EbpfContext>(
    ctx: &C,
    sk: *const c_void,
    tcp: *const c_void,
    step: Step,
    ktime_ns: u64,
) {
    write(ctx, sk, step, ktime_ns, &Socket(tcp));
}

/// The same from what the event itself tells: no namespace, no error, and an identity made of the address.
#[inline(always)]
pub(crate) fn record_event(ctx: &TracePointContext) -> Result<(), i32> {
    // SAFETY: probe reads check the addresses themselves; the offsets are those of the event's fields.
    let (sk, step, protocol, remote_port): (*const c_void, _, u16, u16) = unsafe {
        let old_state = ctx.read_at::<u32>(event!(old_state))? as u8;
        let new_state = ctx.read_at::<u32>(event!(new_state))? as u8;
        let step = Step { old_state, new_state, nth: 0 };
        (
            ctx.read_at(event!(socket))?,
            step,
            ctx.read_at(event!(protocol))?,
            ctx.read_at(event!(remote_port))?,
        )
    };
    if !is_watched(step.old_state, step.new_state) {
        if step.new_state == state::CLOSE {
            identity::forget(sk);
        }
        return Ok(());
    }
    // Before it is known to be TCP: who counts what happens does not know.
    tally::seen();
    if protocol != IPPROTO_TCP {
        return Ok(());
    }
    let event = Event { tuple: event_tuple(ctx, remote_port)? };
    if let Some(now) = due(sk, step, || remote_port != 0) {
        if let Some(entered_ns) = now.child_entered_ns {
            write(
                ctx,
                sk,
                Step { old_state: state::LISTEN, new_state: state::SYN_RECV, ..step },
                entered_ns,
                &event,
            );
        }
        write(ctx, sk, step, now.ktime_ns, &event);
    }
    Ok(())
}

fn event_tuple(ctx: &TracePointContext, remote_port: u16) -> Result<Tuple, i32> {
    // SAFETY: as above.
    unsafe {
        let family: u16 = ctx.read_at(event!(family))?;
        let (local_addr, remote_addr) = if family == AF_INET6 {
            (ctx.read_at(event!(local_v6))?, ctx.read_at(event!(remote_v6))?)
        } else {
            (v4_mapped(ctx.read_at(event!(local_v4))?), v4_mapped(ctx.read_at(event!(remote_v4))?))
        };
        Ok(Tuple {
            local_addr,
            remote_addr,
            local_port: ctx.read_at(event!(local_port))?,
            remote_port,
            family,
            interface: 0,
        })
    }
}

/// What has been read of an event.
#[derive(Clone, Copy)]
struct Event {
    tuple: Tuple,
}

impl Source for Event {
    #[inline(always)]
    fn tcp(&self) -> *const c_void {
        core::ptr::null()
    }

    #[inline(always)]
    unsafe fn put(&self, record: *mut Transition) -> Option<i32> {
        // SAFETY: as promised by the caller.
        unsafe { ((*record).tuple, (*record).netns, (*record).sk_err) = (self.tuple, 0, 0) };
        None
    }
}

/// Whether somebody wants it.
#[inline(always)]
pub(crate) fn is_watched(old_state: u8, new_state: u8) -> bool {
    state::leaves_or_enters(config!(watched_states), old_state, new_state)
}

/// A transition whose record is to be written now.
struct Due {
    ktime_ns: u64,
    /// When its socket entered SYN_RECV: that is to be written first.
    child_entered_ns: Option<u64>,
}

/// When a transition came, if it is to be written now.
///
/// Until Linux 6.12 a listener's child enters SYN_RECV before it is made its own: it has no peer yet, and the
/// listener's cookie. That record is held back until the child's next transition, which comes on the same CPU
/// within the same packet (`tcp_check_req`, `net/ipv4/tcp_minisocks.c`).
#[inline(always)]
fn due(sk: *const c_void, step: Step, has_peer: impl Fn() -> bool) -> Option<Due> {
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    match (step.old_state, step.new_state) {
        (state::LISTEN, state::SYN_RECV) if !has_peer() => {
            hold_back(sk, ktime_ns);
            None
        }
        (state::SYN_RECV, _) => Some(Due { ktime_ns, child_entered_ns: held_back(sk) }),
        _ => Some(Due { ktime_ns, child_entered_ns: None }),
    }
}

/// A child that has entered SYN_RECV without being its own yet, one per CPU.
#[repr(C)]
struct Child {
    address: u64,
    entered_ns: u64,
}

/// See [`due`].
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
pub(crate) fn held_back(sk: *const c_void) -> Option<u64> {
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
