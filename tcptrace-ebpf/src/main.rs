//! The BPF programs, one entry point each; what they do is in the modules.
//!
//! `transition`, or on kernels without BTF `transition_event`, runs at every TCP state change and writes one
//! record into the ring; `transition_fallback` and `transition_second_fallback` do so where the kernel could not run the first, and
//! `transition_counter` counts where it could not run the one without BTF.
//! `accepted` runs at every accept(2) and notes who called it; `timewait` where a stand-in is about to take a socket's
//! place. `tcp_sockets` and `socket_holders` run only when
//! user space walks the kernel's sockets or file descriptors. Nothing here decides what is stuck, or formats
//! anything.

#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the entry points, which the macro makes public again without their docs"
)]

mod guard;
mod identity;
mod kernel;
mod life;
mod origin;
mod ring;
mod row;
mod tally;
mod task;
mod transition;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_sock_from_file,
    macros::{btf_tracepoint, fentry, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext, TracePointContext},
};

/// `sock:inet_sock_set_state`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition(ctx: BtfTracePointContext) -> i32 {
    let (sk, old_state, new_state) = arguments(&ctx);
    transition::see_to(ctx.as_ptr(), sk, old_state, new_state, 0);
    0
}

/// A second program on the same tracepoint, which does nothing but what the first was kept from.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition_fallback(ctx: BtfTracePointContext) -> i32 {
    let (sk, old_state, new_state) = arguments(&ctx);
    transition::see_to(ctx.as_ptr(), sk, old_state, new_state, 1);
    0
}

/// A third, for what the second was kept from while it stood in.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn transition_second_fallback(ctx: BtfTracePointContext) -> i32 {
    let (sk, old_state, new_state) = arguments(&ctx);
    transition::see_to(ctx.as_ptr(), sk, old_state, new_state, 2);
    0
}

/// Those of the tracepoint: `(const struct sock *sk, const int oldstate, const int newstate)`.
#[inline(always)]
fn arguments(ctx: &BtfTracePointContext) -> (*const c_void, u8, u8) {
    let (old_state, new_state): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    (ctx.arg(0), old_state as u8, new_state as u8)
}

/// `security_sock_graft(struct sock *sk, struct socket *parent)` (`security/security.c`): accept(2) gives a socket
/// to the task that called it.
#[fentry(function = "security_sock_graft")]
pub fn accepted(ctx: FEntryContext) -> i32 {
    origin::remember(ctx.arg(0), tcptrace_common::OpenCall::ACCEPT);
    0
}

/// `tcp_time_wait(struct sock *sk, int state, int timeo)` (`net/ipv4/tcp_minisocks.c`): the kernel is about to close a
/// socket, and to put a stand-in in that state in its place.
#[fentry(function = "tcp_time_wait")]
pub fn timewait(ctx: FEntryContext) -> i32 {
    origin::replaced_by(ctx.arg(0), ctx.arg(1));
    0
}

/// The same as an event of tracefs, for kernels without BTF. Only one of the two is ever loaded.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub fn transition_event(ctx: TracePointContext) -> i32 {
    // What cannot be read cannot be recorded; the kernel has no page of an event that it cannot read.
    let _unreadable = transition::record_event(&ctx);
    0
}

/// Goes with it, and counts what it is kept from.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn transition_counter(ctx: RawTracePointContext) -> i32 {
    let (old_state, new_state): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    tally::happened(ctx.arg(0), old_state as u8, new_state as u8);
    0
}

/// `iter/tcp`: each TCP socket of the network namespace that opened the iterator
/// (`struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn tcp_sockets(ctx: *mut c_void) -> i32 {
    let ctx = IterContext(ctx);
    let sk = ctx.pointer(1);
    row::write_socket(&ctx, sk);
    0
}

/// `iter/task_file`: each file descriptor of each process (`struct bpf_iter__task_file`,
/// `kernel/bpf/task_iter.c`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn socket_holders(ctx: *mut c_void) -> i32 {
    let ctx = IterContext(ctx);
    let (task, file) = (ctx.pointer(1), ctx.pointer(3));
    if task.is_null() || file.is_null() {
        return 0; // the call that ends the walk
    }
    // SAFETY: `file` is the context's own pointer, checked for null; the verifier holds us to its type.
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: `socket` is a live `struct socket` for the length of this call.
    let sk = unsafe { kernel::load::<*const c_void>(socket.cast(), kernel::layout!(socket_sk)) };
    row::write_holder(&ctx, sk, task, ctx.word(2));
    0
}

/// The context of an iterator: 8-byte slots, the first of which leads to the `seq_file` being written.
pub(crate) struct IterContext(*mut c_void);

impl aya_ebpf::EbpfContext for IterContext {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

impl IterContext {
    #[inline(always)]
    fn pointer(&self, slot: usize) -> *const c_void {
        // SAFETY: the verifier checks that the slot is one of the context's pointers.
        unsafe { self.0.cast::<*const c_void>().add(slot).read() }
    }

    #[inline(always)]
    fn word(&self, slot: usize) -> u32 {
        // SAFETY: the verifier checks that the slot is one of the context's integers.
        unsafe { self.0.cast::<u64>().add(slot).cast::<u32>().read() }
    }

    /// Appends a row to what user space reads. A row that no longer fits the kernel's buffer is written
    /// again by the kernel's own retry of the same element, so nothing is lost here.
    #[inline(always)]
    fn write<T: bytemuck::Pod>(&self, row: &T) {
        let meta = self.pointer(0);
        // SAFETY: `seq` is the first member of `struct bpf_iter_meta` (`include/linux/bpf.h`); the row has no
        // padding, so that every byte written is initialised.
        unsafe {
            let seq = meta.cast::<*mut aya_ebpf::bindings::seq_file>().read();
            aya_ebpf::helpers::generated::bpf_seq_write(
                seq,
                core::ptr::from_ref(row).cast(),
                size_of::<T>() as u32,
            );
        }
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
