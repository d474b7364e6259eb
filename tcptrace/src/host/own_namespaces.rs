//! The namespaces that this process is in: whether it sees the host's processes, times and cgroups
//! (namespaces(7)).
//!
//! The kernel's BPF programs always use the host's pids, clock and cgroups. A container has its
//! own. The host cannot be traced from another user or pid namespace. A process can leave a time
//! or a cgroup namespace.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use rustix::{
    fs::{PROC_SUPER_MAGIC, statfs},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    diagnostics::print_problem,
    host::{attach_error::AttachError, proc::residents::KTHREADD},
};

/// The inode numbers of the host's own namespaces, which are part of the kernel's ABI
/// (`enum init_ns_ino`, `include/uapi/linux/nsfs.h`; before, `include/linux/proc_ns.h`).
const HOST_USER: u64 = 0xefff_fffd;
const HOST_PID: u64 = 0xefff_fffc;
const HOST_CGROUP: u64 = 0xefff_fffb;
const HOST_TIME: u64 = 0xefff_fffa;

/// Checks that this process sees the host's processes.
///
/// # Errors
/// It does not.
pub(crate) fn check_namespaces() -> Result<(), AttachError> {
    if statfs("/proc").map_or(0, |proc| proc.f_type) != PROC_SUPER_MAGIC {
        return Err(AttachError::NoProc);
    }
    // `self` leads to this process's folder if this process is in the pid namespace that /proc
    // shows, or in one below.
    if fs::symlink_metadata("/proc/self/").is_err() {
        return Err(AttachError::OtherProc);
    }
    if is_outside("user", HOST_USER) {
        return Err(AttachError::UserNamespace);
    }
    if is_outside("pid", HOST_PID) {
        return Err(AttachError::PidNamespace);
    }
    Ok(())
}

/// Moves this process, which has one thread, into the host's time and cgroup namespaces.
///
/// # Errors
/// It may not leave its time namespace, so all times would be wrong.
pub(crate) fn join_host() -> Result<(), AttachError> {
    if is_outside("time", HOST_TIME) {
        enter_namespace("time", LinkNameSpaceType::Time, HOST_TIME).map_err(AttachError::TimeNamespace)?;
    }
    if is_outside("cgroup", HOST_CGROUP)
        && let Err(error) = enter_namespace("cgroup", LinkNameSpaceType::ControlGroup, HOST_CGROUP)
    {
        print_problem(format_args!(
            "cannot enter the host's cgroup namespace: {error}; paths of cgroups begin at this container's cgroup"
        ));
    }
    Ok(())
}

/// Whether this process is in a namespace other than the host's own. A kernel built without a kind
/// of namespace has none of that kind.
fn is_outside(kind: &str, host: u64) -> bool {
    fs::metadata(namespace_path("/proc/self", kind)).is_ok_and(|namespace| namespace.ino() != host)
}

fn enter_namespace(kind: &str, link: LinkNameSpaceType, host: u64) -> io::Result<()> {
    // Kernel threads are in the host's own namespaces.
    let namespace = File::open(namespace_path(KTHREADD, kind))?;
    if namespace.metadata()?.ino() != host {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(move_into_link_name_space(namespace.as_fd(), Some(link))?)
}

fn namespace_path(process: &str, kind: &str) -> String {
    format!("{process}/ns/{kind}")
}
