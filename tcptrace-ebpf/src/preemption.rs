//! Keeps this CPU to one task for a moment.
//!
//! From Linux 7 on a task can be preempted in the midst of a tracepoint's program, and all tasks that get the CPU
//! until it goes on find that program at work already: the kernel does not run it for them. Only packets' softirqs
//! come in between where preemption is off, one at a time.
//!
//! The kernel functions for that (`kernel/bpf/helpers.c`, Linux 6.10) have no helper number: they are called by
//! their id in the running kernel's BTF. What stands here are numbers that no helper has, which the loader replaces
//! by those ids, or by nothing where the kernel lacks them (`tcptrace/src/kernel/kfuncs.rs`).

use tcptrace_common::kfunc;

/// Runs something without being preempted.
#[inline(always)]
pub(crate) fn without(run: impl FnOnce()) {
    call::<{ kfunc::PREEMPT_DISABLE }>();
    run();
    call::<{ kfunc::PREEMPT_ENABLE }>();
}

#[inline(always)]
fn call<const NUMBER: u32>() {
    // SAFETY: in a BPF program a function's address is a helper's number; neither function takes or returns anything.
    unsafe {
        let function: unsafe extern "C" fn() = core::mem::transmute(NUMBER as usize);
        function();
    }
}
