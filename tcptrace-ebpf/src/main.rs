//! The BPF programs: one entry point each, of a few lines.
//!
//! No program decides which socket is stuck, and none formats text. One transition passes through
//! these files, from top to bottom:
//!
//! | file | its job |
//! | --- | --- |
//! | `main` | has the entry points |
//! | `handle` | drops what is of no interest; emits a record, or stores an opener |
//! | `fallback` | decides which program handles the transition, if the kernel skipped one |
//! | `emit` | fills in the record and puts it into the ring |
//! | `held_back` | holds back the first record of a listener's child |
//! | `cookie` | returns the socket's cookie |
//! | `tuple` | writes the socket's two ends |
//! | `actor` | writes the current task, and decides whether it caused the transition |
//! | `opener` | stores with the socket which task opened it |
//! | `counters` | reads what the kernel has counted, for the last record of a socket |
//!
//! `pointers` wraps the kernel's structures, `config` holds what user space has set, and `change`
//! is the change of state that is handled. `iter_tcp` and `iter_file` run when user space walks the
//! kernel's sockets or descriptors; `socket_row` fills in a row for both. `no_btf` replaces
//! `handle` on kernels without BTF.

#![expect(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls,
    reason = "each cast says why beside it; the macro hands over the contexts; closures are inlined"
)]
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the entry points, which the macro makes public again without their docs"
)]

mod actor;
mod change;
mod config;
mod cookie;
mod counters;
mod emit;
mod fallback;
mod handle;
mod held_back;
mod iter_context;
mod iter_file;
mod iter_tcp;
mod no_btf;
mod opener;
mod pointers;
mod socket_row;
mod tuple;

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext, TracePointContext},
};
use tcptrace_common::OpenCall;

use crate::{change::Program, handle::handle_transition, iter_context::IterContext, pointers::Sock};

/// Handles transitions: `inet_sock_set_state(const struct sock *sk, const int oldstate, const int
/// newstate)` (`include/trace/events/sock.h`).
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition(ctx: BtfTracePointContext) -> i32 {
    handle_transition(&ctx, Program::Primary);
    0
}

/// Handles what the kernel skipped `transition` for, second on the same tracepoint.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition_fallback(ctx: BtfTracePointContext) -> i32 {
    handle_transition(&ctx, Program::Fallback);
    0
}

/// Handles what the kernel skipped both others for, third on the same tracepoint.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition_second_fallback(ctx: BtfTracePointContext) -> i32 {
    handle_transition(&ctx, Program::SecondFallback);
    0
}

/// Stores who accepted a socket: `security_sock_graft(struct sock *sk, struct socket *parent)`
/// (`security/security.c`), with which accept(2) gives a socket to the task that called it.
#[fentry(function = "security_sock_graft")]
pub fn accepted(ctx: FEntryContext) -> i32 {
    // SAFETY: the first argument of the function is a live `struct sock`.
    let sock = unsafe { Sock::new(ctx.arg(0)) };
    opener::store_current_task(sock, OpenCall::ACCEPT);
    0
}

/// Stores that the kernel is about to close a socket and to replace it by a timewait socket in
/// `state`: `tcp_time_wait(struct sock *sk, int state, int timeo)` (`net/ipv4/tcp_minisocks.c`).
#[fentry(function = "tcp_time_wait")]
pub fn timewait(ctx: FEntryContext) -> i32 {
    // SAFETY: the first argument of the function is a live `struct sock`.
    let sock = unsafe { Sock::new(ctx.arg(0)) };
    let state: u32 = ctx.arg(1);
    opener::store_timewait_state(sock, state as u8); // a state is below 16
    0
}

/// Handles transitions on kernels without BTF: the tracepoint as an event of tracefs.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub fn transition_event(ctx: TracePointContext) -> i32 {
    // An event that cannot be read gets no record.
    let _unreadable = no_btf::handle_event(&ctx);
    0
}

/// Counts transitions on kernels without BTF, because the kernel may skip `transition_event`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn transition_counter(ctx: RawTracePointContext) -> i32 {
    no_btf::count_event(&ctx);
    0
}

/// Writes a row for each TCP socket of the network namespace in which the iterator was opened
/// (`struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn tcp_sockets(ctx: *mut c_void) -> i32 {
    iter_tcp::write_socket(&IterContext::new(ctx));
    0
}

/// Writes a row for each file descriptor of each process that holds a TCP socket (`struct
/// bpf_iter__task_file`, `kernel/bpf/task_iter.c`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn socket_holders(ctx: *mut c_void) -> i32 {
    iter_file::write_holder(&IterContext::new(ctx));
    0
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
