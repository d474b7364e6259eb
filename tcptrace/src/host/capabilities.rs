//! Gives up privileges of the calling thread (capabilities(7)).

use std::{io, panic::resume_unwind, thread};

use rustix::{
    io::Errno,
    process::getuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// Gives up every privilege of the calling thread. What is left can use what is open, and open
/// what the user may open.
///
/// # Errors
/// A filter of system calls forbids it.
pub fn give_up_all() -> io::Result<()> {
    give_up_all_but(CapabilitySet::empty())
}

/// Gives up every privilege of the calling thread that a thread which only writes does not need.
///
/// If it `may_reopen` a file, root keeps what it takes to reopen one in another user's folder.
///
/// # Errors
/// A filter of system calls forbids it.
pub fn keep_only_writing(may_reopen: bool) -> io::Result<()> {
    let reopens_as_root = may_reopen && getuid().is_root();
    give_up_all_but(if reopens_as_root { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() })
}

/// Gives up every privilege of the calling thread, if it has one, so that it opens files with the
/// user's own rights only.
///
/// # Errors
/// A filter of system calls forbids it, and the thread has privileges.
pub fn keep_only_user_rights() -> io::Result<()> {
    give_up_all().or_else(|error| match capabilities(None) {
        Ok(sets) if sets.effective.is_empty() && sets.permitted.is_empty() => Ok(()),
        _ => Err(error),
    })
}

/// Runs `action` with the user's own rights only, in a thread that has given up all capabilities.
///
/// # Errors
/// The capabilities cannot be given up, or `action` failed.
pub fn with_user_rights<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let run = || keep_only_user_rights().and_then(|()| action());
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Gives up all privileges of the calling thread but `kept`, and for good: no program that it
/// executes can get them back.
///
/// # Errors
/// A filter of system calls forbids it.
pub(crate) fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // EINVAL: there are no more. EPERM, without CAP_SETPCAP: the bounding set only matters
            // to execve(2), and we execute nothing.
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

#[cfg(test)]
mod tests {
    use super::*;

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
