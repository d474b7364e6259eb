//! Handles one state change, on kernels with BTF.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, programs::BtfTracePointContext};
use tcptrace_common::{Counters, OpenCall, Opener, Transition, TransitionFlags, interest_bit, state};

use crate::{
    actor,
    change::{Program, StateChange},
    config::{CONFIG, read_constant},
    cookie, counters,
    emit::{ChangedSocket, emit},
    fallback::{claim_fallback, claim_primary},
    held_back::take_due,
    opener,
    pointers::{Sock, TcpSock},
    tuple::write_tuple,
};

/// Handles a change: emits its record if it is watched. If it only opens a socket, its opener is
/// stored with the socket, which takes a microsecond; a record of that change would name the opener.
///
/// Fast path: one load and one branch on `CONFIG.interest`. The slow paths are `inline(never)`, so
/// that the fast path saves no registers and has no stack.
#[inline(always)]
pub(crate) fn handle_transition(ctx: &BtfTracePointContext, program: Program) {
    let change = StateChange::new(ctx.arg(1), ctx.arg(2), program);
    let (word, bit) = interest_bit(change.old_state, change.new_state);
    if read_constant(&CONFIG.interest[word]) >> bit & 1 == 0 {
        return;
    }
    // SAFETY: the first argument of the tracepoint is a live `struct sock`.
    let sock = unsafe { Sock::new(ctx.arg(0)) };
    let is_ours = || program == Program::Primary || claim_fallback(sock, change);
    if change.is_watched() {
        if is_ours() {
            emit_records(ctx.as_ptr(), sock, change);
        }
    } else if let Some(call) = OpenCall::of_transition(change.old_state, change.new_state) {
        if is_ours() {
            store_opener(sock, call, change);
        }
    } else if change.new_state == state::CLOSE {
        cookie::forget_sock(sock);
    }
}

#[inline(never)]
fn store_opener(sock: Sock, call: OpenCall, change: StateChange) {
    claim_primary(sock, change);
    opener::store_current_task(sock, call);
}

#[inline(never)]
fn emit_records(ctx: *mut c_void, sock: Sock, change: StateChange) {
    claim_primary(sock, change);
    let ctx = &BtfTracePointContext::new(ctx);
    let Some(tcp) = sock.as_tcp() else { return };
    let socket = FullSocket { sock, tcp };
    let has_peer = || tcp.common().remote_port() != 0;
    let Some(due) = take_due(change, || sock.address(), has_peer) else { return };
    if let Some(entered_ns) = due.held_back_ns {
        emit_one(
            ctx,
            StateChange { old_state: state::LISTEN, new_state: state::SYN_RECV, ..change },
            entered_ns,
            socket,
        );
    }
    emit_one(ctx, change, due.ktime_ns, socket);
}

/// A function of its own because it has two callers.
#[inline(never)]
fn emit_one(ctx: &BtfTracePointContext, change: StateChange, ktime_ns: u64, socket: FullSocket) {
    emit(ctx, change, ktime_ns, socket);
}

/// A full TCP socket: the same one by both of its types.
#[derive(Clone, Copy)]
struct FullSocket {
    sock: Sock,
    tcp: TcpSock,
}

impl ChangedSocket for FullSocket {
    #[inline(always)]
    fn cookie<C: EbpfContext>(self, ctx: &C) -> u64 {
        cookie::of_sock(ctx, self.sock)
    }

    #[inline(always)]
    fn forget_cookie(self) {
        cookie::forget_sock(self.sock);
    }

    #[inline(always)]
    unsafe fn write_socket(self, record: *mut Transition) -> Option<i32> {
        let sk_err = self.tcp.err();
        // SAFETY: the caller vouches for `record`. In a record the tuple is aligned to eight bytes.
        unsafe {
            write_tuple(&raw mut (*record).tuple, self.tcp.common(), self.tcp.local_port());
            (*record).netns = self.tcp.common().netns();
            (*record).sk_err = sk_err;
        }
        Some(sk_err)
    }

    #[inline(always)]
    fn close_flags(self, old_state: u8) -> TransitionFlags {
        actor::close_flags(self.tcp, old_state)
    }

    #[inline(always)]
    fn opener(self) -> Option<&'static Opener> {
        opener::of_sock(self.sock)
    }

    #[inline(always)]
    fn counters(self) -> Counters {
        counters::read_counters(self.tcp)
    }
}
