//! Which namespaces this process is in (namespaces(7)): whether it sees the host's processes, times and cgroups.
//!
//! The kernel's BPF programs always use the host's pids, its clock and its cgroups. A container has its own. From within
//! another user or pid namespace the host cannot be traced; other time and cgroup namespaces can be left.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use rustix::{
    fs::{PROC_SUPER_MAGIC, statfs},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::diagnostics::say;
use crate::host::{attach_error::AttachError, proc::residents::KTHREADD};

/// The inode numbers of the host's own namespaces are part of the kernel's ABI (`enum init_ns_ino`,
/// `include/uapi/linux/nsfs.h`; before, `include/linux/proc_ns.h`).
const HOST_USER: u64 = 0xeffffffd;
const HOST_PID: u64 = 0xeffffffc;
const HOST_CGROUP: u64 = 0xeffffffb;
const HOST_TIME: u64 = 0xeffffffa;

/// Refuses a process that does not see the host's processes.
pub(crate) fn check() -> Result<(), AttachError> {
    if statfs("/proc").map_or(0, |proc| proc.f_type) != PROC_SUPER_MAGIC {
        return Err(AttachError::NoProc);
    }
    // It leads to this process's own folder, if this process is in the pid namespace that /proc shows, or in one below.
    if fs::symlink_metadata("/proc/self/").is_err() {
        return Err(AttachError::OtherProc);
    }
    if is_elsewhere("user", HOST_USER) {
        return Err(AttachError::UserNamespace);
    }
    if is_elsewhere("pid", HOST_PID) {
        return Err(AttachError::PidNamespace);
    }
    Ok(())
}

/// Moves this process, which has one thread, into the host's time and cgroup namespaces.
///
/// # Errors
/// Times would be wrong: this process may not leave its time namespace.
pub(crate) fn join() -> Result<(), AttachError> {
    if is_elsewhere("time", HOST_TIME) {
        enter("time", LinkNameSpaceType::Time, HOST_TIME).map_err(AttachError::TimeNamespace)?;
    }
    if is_elsewhere("cgroup", HOST_CGROUP)
        && let Err(error) = enter("cgroup", LinkNameSpaceType::ControlGroup, HOST_CGROUP)
    {
        say(format_args!(
            "cannot enter the host's cgroup namespace: {error}; cgroups are shown by their paths from this container's"
        ));
    }
    Ok(())
}

/// Whether this process is in another namespace than the host's own. Kernels built without a kind of namespace have none.
fn is_elsewhere(kind: &str, host: u64) -> bool {
    fs::metadata(path("/proc/self", kind)).is_ok_and(|namespace| namespace.ino() != host)
}

fn enter(kind: &str, link: LinkNameSpaceType, host: u64) -> io::Result<()> {
    // Kernel threads are in the host's own namespaces.
    let namespace = File::open(path(KTHREADD, kind))?;
    if namespace.metadata()?.ino() != host {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(move_into_link_name_space(namespace.as_fd(), Some(link))?)
}

fn path(process: &str, kind: &str) -> String {
    format!("{process}/ns/{kind}")
}
