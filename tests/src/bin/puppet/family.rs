//! Forks children, and executes other programs.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, WaitOptions, setsid, waitpid},
};
use serde_json::{Value, json};

use crate::{Outcome, crowd, text};

/// Forks a child that only holds our descriptors, until the test drops its puppet.
pub(crate) fn fork() -> Outcome<Value> {
    let child = split(hold)?;
    Ok(json!({"child": child}))
}

/// Forks a grandchild that only holds our descriptors, in a session of its own, whose parent has
/// ended.
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

/// Makes the next child the first process of a pid namespace.
pub(crate) fn unshare_pids() -> Outcome<Value> {
    // SAFETY: unshare(2) with this flag concerns children yet to come.
    match unsafe { libc::unshare(libc::CLONE_NEWPID) } {
        0 => Ok(json!({})),
        _ => Err(text(io::Error::last_os_error())),
    }
}

/// Forks a child with this pid that leaks a connection to itself, and holds it until the test
/// drops its puppet.
pub(crate) fn leak_as(pid: i32) -> Outcome<Value> {
    let (here, there) = io::pipe().map_err(text)?;
    let mut there = there;
    split_as(pid, || {
        let told = crowd::leak(1).and_then(|(leaks, held)| {
            there.write_all(format!("{leaks}\n").as_bytes()).map_err(text)?;
            Ok(held)
        });
        if let Ok(_held) = told {
            hold();
        }
    })?;
    drop(there);
    let mut line = String::new();
    BufReader::new(here).read_line(&mut line).map_err(text)?;
    Ok(json!({"leak": serde_json::from_str::<Value>(&line).map_err(text)?[0]}))
}

/// Changes the real user; the effective one, and with it the privileges, stays.
pub(crate) fn become_real_user(uid: u32) -> Outcome<Value> {
    // SAFETY: setreuid(2) has numbers for its arguments.
    match unsafe { libc::setreuid(uid, libc::uid_t::MAX) } {
        0 => Ok(json!({})),
        _ => Err(text(io::Error::last_os_error())),
    }
}

/// Executes another program, which keeps the open sockets or, as usual, closes them.
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
    // SAFETY: no other thread of this process does anything but wait when a command is obeyed, so
    // that its copy finds no lock taken.
    after_split(unsafe { libc::fork() }.into(), child)
}

/// Forks a child with this pid, which no process may have.
fn split_as(pid: i32, child: impl FnOnce()) -> Outcome<i32> {
    // SAFETY: all zeros are valid, and mean nothing special.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = (&raw const pid).addr() as u64;
    arguments.set_tid_size = 1;
    // SAFETY: clone3(2) without a stack is a fork; for the rest as above.
    let child_pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    after_split(child_pid, child)
}

fn after_split(pid: i64, child: impl FnOnce()) -> Outcome<i32> {
    match pid {
        -1 => Err(text(io::Error::last_os_error())),
        0 => {
            child();
            std::process::exit(0)
        }
        pid => i32::try_from(pid).map_err(text),
    }
}

/// Waits until nobody can give commands any more.
fn hold() {
    let commands = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&commands, PollFlags::empty())];
    // Also a signal that stops it and lets it go on interrupts the wait.
    while poll(&mut fds, None).is_err() {}
}
