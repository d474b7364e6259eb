//! The capabilities of this process: what it needs, what it gives up once it traces, and what it
//! has to do without (capabilities(7)).
//!
//! What is left after the start is what walks take. docs/requirements.md says what each capability
//! is for.

use std::{fs, io, panic::resume_unwind, thread};

use rustix::thread::{CapabilitySet, capabilities};

use crate::host::{
    attach_error::AttachError,
    capabilities::give_up_all_but,
    features::{Feature, FeatureStatus},
    proc::residents::KTHREADD,
    walk::namespaces,
};

/// The capabilities without which nothing can be loaded. CAP_SYS_ADMIN stands for both
/// (`bpf_capable`, `perfmon_capable`, `include/linux/capability.h`).
const TO_LOAD: [(CapabilitySet, &str); 2] =
    [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];

/// The capabilities that walks use: CAP_BPF for bpf(2) itself, which Linux 6.1 and before refuse
/// to all others if `kernel.unprivileged_bpf_disabled` is set; CAP_SYS_ADMIN for setns(2);
/// CAP_SYS_PTRACE for other users' `/proc/PID/{exe,ns}`; CAP_DAC_READ_SEARCH for the descriptors
/// in `/proc/PID/fd`.
const TO_WALK: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Checks that this process has the capabilities to load BPF programs.
///
/// # Errors
/// It does not.
pub(crate) fn check_capabilities() -> Result<(), AttachError> {
    let held = capabilities(None)
        .map_err(|error| AttachError::from_io("cannot read this process's capabilities", &error.into()))?
        .effective;
    let missing = missing_capabilities(held);
    if missing.is_empty() { Ok(()) } else { Err(AttachError::NotPrivileged { missing }) }
}

/// Returns the names of the capabilities to load that are not among `held`.
fn missing_capabilities(held: CapabilitySet) -> Vec<&'static str> {
    let is_missing = |capability| !held.intersects(CapabilitySet::SYS_ADMIN.union(capability));
    let missing = TO_LOAD.into_iter().filter(|(capability, _)| is_missing(*capability));
    missing.map(|(_, name)| name).collect()
}

/// Gives up, for good, all capabilities that walks do not use. `loads_more`: whether a program may
/// yet be loaded.
///
/// Call it while there is one thread: each thread has capabilities of its own, and new threads
/// inherit them.
///
/// # Errors
/// A filter of system calls forbids it.
pub(crate) fn give_up_unneeded(loads_more: bool) -> io::Result<()> {
    let has_admin = capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN);
    // CAP_SYS_ADMIN stands for CAP_PERFMON.
    let to_load = if loads_more && !has_admin { CapabilitySet::PERFMON } else { CapabilitySet::empty() };
    give_up_all_but(TO_WALK | to_load)
}

/// Finds out, by trying, what this process cannot see because it lacks a capability. `by_proc`:
/// whether holders are found in `/proc`.
///
/// # Errors
/// This process or the host has run out of what trying takes.
pub(crate) fn probe_privileges(by_proc: bool) -> Result<[FeatureStatus; 2], AttachError> {
    let entered = match try_setns() {
        Ok(()) => Ok(()),
        Err(error) => match AttachError::from_shortage("cannot enter a network namespace", &error) {
            Some(shortage) => return Err(shortage),
            None => Err(format!(
                "needs CAP_SYS_ADMIN ({error}); in other network namespaces only sockets that a process \
                 holds are found, and only by iter/task_file"
            )),
        },
    };
    Ok([
        FeatureStatus::from_result(Feature::SetNs, entered),
        FeatureStatus::from_result(Feature::Proc, try_proc(by_proc)),
    ])
}

/// Enters a namespace, in a thread of its own.
fn try_setns() -> io::Result<()> {
    let thread = thread::Builder::new().spawn(namespaces::enter_own)?;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Reads what other users' processes show. The error says what is not seen.
fn try_proc(by_proc: bool) -> Result<(), String> {
    fs::metadata(format!("{KTHREADD}/ns/net")).map_err(|error| {
        let also = match error.kind() {
            io::ErrorKind::NotFound => " where /proc is mounted with hidepid",
            _ => "",
        };
        format!(
            "needs CAP_SYS_PTRACE{also} ({error}); executables of other users' processes, and the network namespaces \
             that only they live in, are not seen"
        )
    })?;
    // Trying would prove nothing: root can read the folders of its own processes without it.
    let may_read =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_READ_SEARCH));
    if by_proc && !may_read {
        return Err(
            "needs CAP_DAC_READ_SEARCH; other users' processes are not seen to hold sockets".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(
            missing_capabilities(CapabilitySet::all() - CapabilitySet::SYS_ADMIN - CapabilitySet::BPF),
            ["CAP_BPF"]
        );
        assert_eq!(missing_capabilities(CapabilitySet::PERFMON | CapabilitySet::BPF), [""; 0]);
        assert_eq!(missing_capabilities(CapabilitySet::SYS_ADMIN), [""; 0]);
    }
}
