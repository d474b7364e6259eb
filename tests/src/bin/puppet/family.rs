//! Children, and what else a process can become.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, WaitOptions, setsid, waitpid},
};
use serde_json::{Value, json};

use crate::{Outcome, text};

/// A child that does nothing but hold what we hold, until the test drops its puppet.
pub(crate) fn fork() -> Outcome<Value> {
    let child = split(hold)?;
    Ok(json!({"child": child}))
}

/// A grandchild of the same kind, in a session of its own, whose parent has ended.
pub(crate) fn daemon() -> Outcome<Value> {
    let (mut here, mut there) = io::pipe().map_err(text)?;
    let parent = split(|| {
        let daemon = setsid().map_err(text).and_then(|_| split(hold));
        let told = daemon.and_then(|pid| there.write_all(&pid.to_ne_bytes()).map_err(text));
        std::process::exit(i32::from(told.is_err()))
    })?;
    let mut pid = [0; size_of::<i32>()];
    here.read_exact(&mut pid).map_err(text)?;
    waitpid(Pid::from_raw(parent), WaitOptions::empty()).map_err(text)?;
    Ok(json!({"child": i32::from_ne_bytes(pid)}))
}

/// The next child begins a pid namespace.
pub(crate) fn unshare_pids() -> Outcome<Value> {
    // SAFETY: unshare(2) with this flag concerns children yet to come.
    match unsafe { libc::unshare(libc::CLONE_NEWPID) } {
        0 => Ok(json!({})),
        _ => Err(text(io::Error::last_os_error())),
    }
}

/// Another real user; the effective one, and with it what we may do, stays.
pub(crate) fn become_real_user(uid: u32) -> Outcome<Value> {
    // SAFETY: setreuid(2) has numbers for its arguments.
    match unsafe { libc::setreuid(uid, libc::uid_t::MAX) } {
        0 => Ok(json!({})),
        _ => Err(text(io::Error::last_os_error())),
    }
}

/// Becomes another program, which keeps the open sockets or, as is usual, has them closed.
pub(crate) fn exec<'a>(
    mut open: impl Iterator<Item = &'a OwnedFd>,
    keep: bool,
    program: &str,
) -> Outcome<Value> {
    let flags = if keep { FdFlags::empty() } else { FdFlags::CLOEXEC };
    open.try_for_each(|fd| fcntl_setfd(fd, flags)).map_err(text)?;
    Err(text(Command::new(program).exec()))
}

/// Forks; the child does this and ends. Returns its pid.
pub(crate) fn split(child: impl FnOnce()) -> Outcome<i32> {
    // SAFETY: no other thread of this process does anything but wait when a command is obeyed, so that its copy finds
    // no lock taken.
    match unsafe { libc::fork() } {
        -1 => Err(text(io::Error::last_os_error())),
        0 => {
            child();
            std::process::exit(0)
        }
        pid => Ok(pid),
    }
}

/// Waits until nobody can give commands any more.
fn hold() {
    let commands = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&commands, PollFlags::empty())];
    // Also a signal that stops it and lets it go on interrupts the wait.
    while poll(&mut fds, None).is_err() {}
}
