//! What this process may do (capabilities(7)): what it needs, what it gives up once it traces, and what it does without.
//!
//! A capability is of use as long as something may yet ask for it. What is left after the start is what the next walk
//! takes; docs/requirements.md says what each is for.

use std::{fs, io, thread};

use rustix::{
    io::Errno,
    process::getuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use crate::host::{
    attach_error::AttachError,
    features::{Feature, FeatureStatus},
    proc::residents::KTHREADD,
    walk::namespaces,
};

/// Without these nothing can be loaded. CAP_SYS_ADMIN stands for both (`bpf_capable`, `perfmon_capable`,
/// `include/linux/capability.h`).
const TO_LOAD: [(CapabilitySet, &str); 2] =
    [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];

/// What walks go on to need: bpf(2) itself, which Linux 6.1 and before refuse to all others where
/// kernel.unprivileged_bpf_disabled is set; setns(2); other users' `/proc/PID/{exe,ns}`, and the descriptors in
/// `/proc/PID/fd`.
const TO_WALK: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Refuses a process that could load nothing.
pub(crate) fn check() -> Result<(), AttachError> {
    let held = capabilities(None)
        .map_err(|error| AttachError::Setup(format!("cannot read this process's capabilities: {error}")))?
        .effective;
    let missing = missing(held);
    if missing.is_empty() { Ok(()) } else { Err(AttachError::NotPrivileged { missing }) }
}

/// The names of those that are missing among these.
fn missing(held: CapabilitySet) -> Vec<&'static str> {
    let is_missing = |capability| !held.intersects(CapabilitySet::SYS_ADMIN.union(capability));
    TO_LOAD.into_iter().filter(|(capability, _)| is_missing(*capability)).map(|(_, name)| name).collect()
}

/// Gives up, for good, all that walks do not need, also what a program that this one executed could get: it executes
/// none. To be called while there is one thread: capabilities are a thread's own, and the next ones inherit these.
/// `loads_more`: whether a program may yet be loaded.
///
/// # Errors
/// A filter of system calls forbids it.
pub(crate) fn give_up(loads_more: bool) -> io::Result<()> {
    // CAP_SYS_ADMIN, where it is held, goes for both.
    let has_admin = capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN);
    let to_load = if loads_more && !has_admin { CapabilitySet::PERFMON } else { CapabilitySet::empty() };
    give_up_all_but(TO_WALK | to_load)
}

/// Gives up every privilege of the calling thread: for one that only reads or writes what is open, or what the
/// user may open.
///
/// # Errors
/// A filter of system calls forbids it.
pub fn give_up_all() -> io::Result<()> {
    give_up_all_but(CapabilitySet::empty())
}

/// Drops the privileges of the calling thread, which only writes from now on. Root's keeps what it takes to
/// reopen a file in another user's directory, if it `may_reopen` one.
///
/// # Errors
/// A seccomp filter forbids it.
pub fn keep_only_writing(may_reopen: bool) -> io::Result<()> {
    let reopens_as_root = may_reopen && getuid().is_root();
    give_up_all_but(if reopens_as_root { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() })
}

/// Gives up every privilege, if there is one, so that files are opened with the user's own rights only.
///
/// # Errors
/// A filter of system calls forbids it, and there is something to give up.
pub fn keep_only_user_rights() -> io::Result<()> {
    give_up_all().or_else(|error| match capabilities(None) {
        Ok(sets) if sets.effective.is_empty() && sets.permitted.is_empty() => Ok(()),
        _ => Err(error),
    })
}

/// Does something with no more rights than the user has himself: in a thread that has given up all capabilities.
///
/// # Errors
/// They cannot be given up, or it has failed.
pub fn as_the_user<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let act = || keep_only_user_rights().and_then(|()| act());
    thread::scope(|scope| scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Gives up all but these.
///
/// # Errors
/// As with [`give_up`].
pub(crate) fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // EINVAL: no more of them. EPERM, without CAP_SETPCAP: what bounds execve(2) matters to who executes.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let left = CapabilitySets {
        effective: effective & kept,
        permitted: permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, left)?)
}

/// What cannot be seen for want of a capability, found by trying. `by_proc`: whether holders are found in `/proc`.
///
/// # Errors
/// This process or the host is short of what trying takes.
pub(crate) fn sources(by_proc: bool) -> Result<[FeatureStatus; 2], AttachError> {
    let source = |feature, tried: Result<(), String>| match tried {
        Ok(()) => FeatureStatus::used(feature),
        Err(why) => FeatureStatus::unused(feature, why),
    };
    let entered = try_setns().map_or_else(
        |error| match AttachError::short("cannot enter a network namespace", &error) {
            Some(refusal) => Err(refusal),
            None => Ok(Err(format!(
                "needs CAP_SYS_ADMIN ({error}); in other network namespaces only sockets that a process holds are \
                 found, and only by iter/task_file"
            ))),
        },
        |()| Ok(Ok(())),
    )?;
    Ok([source(Feature::SetNs, entered), source(Feature::Proc, try_proc(by_proc))])
}

/// Enters a namespace, in a thread of its own.
fn try_setns() -> io::Result<()> {
    let thread = thread::Builder::new().spawn(namespaces::enter_own)?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

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
    // No file tells: root may read the folders of its own processes without.
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
    fn what_cannot_load_programs_is_told_by_name() {
        assert_eq!(missing(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(
            missing(CapabilitySet::all() - CapabilitySet::SYS_ADMIN - CapabilitySet::BPF),
            ["CAP_BPF"]
        );
        assert_eq!(missing(CapabilitySet::PERFMON | CapabilitySet::BPF), [""; 0]);
        assert_eq!(missing(CapabilitySet::SYS_ADMIN), [""; 0]);
    }

    #[test]
    fn a_thread_that_gave_up_all_has_nothing_and_others_have_what_they_had() {
        let before = capabilities(None).expect("this process is there");
        let none = CapabilitySet::empty();
        let after = thread::spawn(|| give_up_all().and_then(|()| Ok(capabilities(None)?)));
        let after = after.join().expect("it does not panic").expect("it may give up");
        assert_eq!(after, CapabilitySets { effective: none, permitted: none, inheritable: none });
        assert_eq!(capabilities(None).expect("this process is there"), before);
    }
}
