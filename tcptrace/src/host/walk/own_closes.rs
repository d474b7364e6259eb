//! Drops the actor of a close that a walk of descriptors caused.
//!
//! A walk takes a temporary reference to each file. If the owner closes its last descriptor
//! meanwhile, our `fput` is the final one, and the kernel attributes the close to the walking
//! thread (`fput`, `fs/file_table.c`).
//!
//! The name of the thread proves nothing: anybody can give it to a thread, and would hide who
//! closed a socket. So the process counts: ours, or another tcptrace with privileges that only the
//! host's administrator grants. Another program that walks descriptors with BPF stays the actor,
//! because nothing tells its walks from its closes.

use std::{fs, os::unix::fs::MetadataExt as _};

use bytemuck::Zeroable as _;
use tcptrace_common::{Task, TransitionFlags, TransitionRecord};

use crate::host::walk::threads::NAME;

/// The flags that describe the actor.
const OF_ACTOR: TransitionFlags = TransitionFlags::ACTOR_KNOWN
    .union(TransitionFlags::PROCESS_NAMED)
    .union(TransitionFlags::EXITING)
    .union(TransitionFlags::ABORTED);

/// Drops the actor of a transition that a walk caused.
///
/// Anybody can make us look into `/proc` by the name of a thread. That costs them a connection
/// each time and us a few microseconds.
pub(crate) fn clear_own_actor(transition: &mut TransitionRecord) {
    let Task { pid, thread_comm, .. } = transition.task;
    let is_known = transition.flags.contains(TransitionFlags::ACTOR_KNOWN);
    let is_named = is_known && thread_comm.starts_with(NAME.as_bytes());
    if is_named && (pid == std::process::id() || is_tcptrace(pid)) {
        transition.flags.remove(OF_ACTOR);
        transition.task = Task::zeroed();
    }
}

/// Whether a process runs our executable, in our user namespace and with capabilities.
///
/// Without capabilities, a user may have started it under a debugger or with code of their own. A
/// process that has ended is none.
fn is_tcptrace(pid: u32) -> bool {
    let is_same = |what: &str| {
        let file = |whose: &str| fs::metadata(format!("/proc/{whose}/{what}"));
        let theirs = file(&pid.to_string());
        matches!((file("self"), theirs), (Ok(ours), Ok(theirs))
            if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    };
    let is_privileged = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| has_capabilities(&status))
    };
    is_same("exe") && is_same("ns/user") && is_privileged()
}

/// Whether a process has capabilities, by its `/proc/PID/status`.
fn has_capabilities(status: &str) -> bool {
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    permitted.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcptrace_common::state;

    use super::*;
    use crate::{
        events::Ending,
        host::bpf::{ring_event::RingEvent, state_change::state_change},
    };

    fn closed_by(pid: u32, thread: &str) -> TransitionRecord {
        let mut transition = TransitionRecord {
            old_state: state::CLOSE_WAIT,
            new_state: state::LAST_ACK,
            flags: TransitionFlags::ACTOR_KNOWN | TransitionFlags::PROCESS_NAMED,
            ..TransitionRecord::zeroed()
        };
        transition.task.pid = pid;
        transition.task.thread_comm[..thread.len()].copy_from_slice(thread.as_bytes());
        transition
    }

    fn ending(transition: TransitionRecord) -> Ending {
        state_change(&RingEvent::Transition(transition)).ending
    }

    #[test]
    fn a_close_by_our_own_walk_has_no_actor() {
        let mut by_us = closed_by(std::process::id(), NAME);
        clear_own_actor(&mut by_us);
        assert_eq!((by_us.flags, by_us.task), (TransitionFlags::empty(), Task::zeroed()));
        assert_eq!(ending(by_us), Ending::Unknown);
    }

    #[test]
    fn neither_the_name_nor_the_process_alone_hides_who_closed() {
        // Above the highest pid (`PID_MAX_LIMIT`): there is no such process.
        const NOBODY: u32 = 1 << 23;
        for (pid, thread) in [(NOBODY, NAME), (1, NAME), (std::process::id(), "puppet"), (1, "puppet")] {
            let closed = closed_by(pid, thread);
            let mut received = closed;
            clear_own_actor(&mut received);
            assert_eq!(received, closed, "{pid} {thread}");
            assert_eq!(ending(received), Ending::Closed);
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = |set: &str| format!("Name:\ttcptrace\nCapInh:\t00000000000000ff\nCapPrm:\t{set}\n");
        assert!(has_capabilities(&status("000000c000280006")));
        assert!(!has_capabilities(&status("0000000000000000")));
        assert!(!has_capabilities("Name:\ttcptrace\n"));
    }

    #[test]
    fn the_kernel_keeps_all_of_the_name() {
        assert!(NAME.len() < tcptrace_common::COMM_LEN);
    }

    proptest! {
        #[test]
        fn any_name_grants_no_capability(name in "[^\n]{0,15}", set: u64, broken in "\\PC{0,60}") {
            // The kernel escapes the end of a line in a name (proc(5)).
            let status = format!("Name:\t{name}\nUid:\t0\nCapInh:\tffff\nCapPrm:\t{set:016x}\n");
            prop_assert_eq!(has_capabilities(&status), set != 0);
            let _some_or_none = has_capabilities(&broken);
        }
    }
}
