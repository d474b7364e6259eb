//! Runs the tracer in namespaces of its own, as a container does (namespaces(7)).

use std::{ffi::CStr, io, os::unix::process::CommandExt as _};

use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
};

use crate::TracerCommand;

/// Runs the tracer in new namespaces, as the first process of a pid namespace if that is one.
/// `kinds` are `CLONE_NEW…` flags. `before` runs between unshare(2) and fork(2), and `inside` runs
/// in the child.
///
/// Both may only make system calls. The process that [`Tracer`](crate::Tracer) started only waits
/// for the tracer.
pub fn contain(
    command: &mut TracerCommand,
    kinds: libc::c_int,
    before: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    inside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) {
    let contained = move || {
        // SAFETY: it concerns this process, which is about to become another program, and nothing
        // else.
        check(unsafe { libc::unshare(kinds) })?;
        before()?;
        // SAFETY: the child makes system calls and no more before it becomes another program.
        match check(unsafe { libc::fork() })? {
            0 => {
                // SAFETY: numbers only.
                check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
                inside()
            }
            child => wait_for(child),
        }
    };
    // SAFETY: system calls and no more.
    unsafe { command.command.pre_exec(contained) };
}

/// Waits for a child, and exits with its status or signal.
fn wait_for(child: libc::pid_t) -> ! {
    let mut status = 0;
    // SAFETY: `status` lives; nothing else of this process is used any more, least of all its
    // descriptors, one of which tells whoever started it that it has become the tracer.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
        while libc::waitpid(child, &raw mut status, 0) < 0 {}
        libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 })
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Mounts the `/proc` of the calling process's pid namespace, for its mount namespace alone.
///
/// # Errors
/// If the kernel refuses it.
pub fn mount_proc() -> io::Result<()> {
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None)?)
}

/// Writes to an existing file.
///
/// # Errors
/// If the kernel refuses it.
pub fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, bytes)?;
    Ok(())
}
