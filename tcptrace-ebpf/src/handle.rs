//! Handles one state change, on kernels with BTF.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, programs::BtfTracePointContext};
use tcptrace_common::{
    Counters, OpenCall, OpenerRecord, TransitionFlags, TransitionRecord, interest_bit, state,
};

use crate::{
    actor,
    change::{Program, RawChange},
    config::{CONFIG, read_constant},
    cookie, counters,
    emit::{ChangedSocket, emit_change},
    fallback::{claim_fallback, claim_primary},
    opener,
    pointers::{Sock, TcpSock},
    tuple::write_tuple,
};

/// Handles a change: emits its record if it is watched. If it only opens a socket, its opener is
/// stored with the socket, which takes a microsecond; a record of that change would name the
/// opener.
///
/// Fast path: one load and one branch on `CONFIG.interest`. The slow paths are `inline(never)`, so
/// that the fast path saves no registers and has no stack.
#[inline(always)]
pub(crate) fn handle_transition(ctx: &BtfTracePointContext, program: Program) {
    let change = RawChange::new(ctx.arg(1), ctx.arg(2), program);
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
fn store_opener(sock: Sock, call: OpenCall, change: RawChange) {
    claim_primary(sock, change);
    opener::store_current_task(sock, call);
}

#[inline(never)]
fn emit_records(ctx: *mut c_void, sock: Sock, change: RawChange) {
    claim_primary(sock, change);
    let Some(tcp) = sock.as_tcp() else { return };
    emit_change(&BtfTracePointContext::new(ctx), change, FullSocket { sock, tcp });
}

/// A full TCP socket by both of its types.
#[derive(Clone, Copy)]
struct FullSocket {
    sock: Sock,
    tcp: TcpSock,
}

impl ChangedSocket for FullSocket {
    #[inline(always)]
    fn address(self) -> u64 {
        self.sock.address()
    }

    #[inline(always)]
    fn has_peer(self) -> bool {
        self.tcp.as_common().remote_port() != 0
    }

    #[inline(always)]
    fn cookie<C: EbpfContext>(self, ctx: &C) -> u64 {
        cookie::of_sock(ctx, self.sock)
    }

    #[inline(always)]
    fn forget_cookie(self) {
        cookie::forget_sock(self.sock);
    }

    #[inline(always)]
    unsafe fn write_socket(self, record: *mut TransitionRecord) -> Option<i32> {
        let sk_err = self.tcp.err();
        // SAFETY: the caller vouches for `record`. In a record the tuple is aligned to eight bytes.
        unsafe {
            write_tuple(&raw mut (*record).tuple, self.tcp.as_common(), self.tcp.local_port());
            (*record).netns = self.tcp.as_common().netns();
            (*record).sk_err = sk_err;
        }
        Some(sk_err)
    }

    #[inline(always)]
    fn close_flags(self, old_state: u8) -> TransitionFlags {
        actor::close_flags(self.tcp, old_state)
    }

    #[inline(always)]
    fn stored_opener(self) -> Option<&'static OpenerRecord> {
        opener::of_sock(self.sock)
    }

    #[inline(always)]
    fn read_counters(self) -> Counters {
        counters::read_counters(self.tcp)
    }
}
