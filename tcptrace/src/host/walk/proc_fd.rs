//! Finds the holders of sockets in `/proc/PID/fd`: slower than `iter/task_file`, and the way on
//! kernels where that iterator cannot return the socket of a file.

use std::{fs, io, path::Path};

use rustc_hash::FxHashMap;

use crate::{
    engine::walk::{Holder, Walk, in_order},
    host::{proc::proc_stat::living_thread, shortage::Shortage},
};

/// Adds the holders of a walk's sockets. Skips a process that ends meanwhile or that this process
/// may not look into.
///
/// # Errors
/// This process or the host has run out of something ([`Shortage`]), so holders would be missing.
pub(crate) fn add_holders(walk: &mut Walk) -> io::Result<()> {
    let with_inode = walk.sockets.iter().filter(|row| row.inode != 0);
    let by_inode: FxHashMap<u64, u64> = with_inode.map(|row| (row.inode.into(), row.cookie)).collect();
    let mut holders = Vec::new();
    for process in unless_gone(fs::read_dir("/proc"))?.into_iter().flatten() {
        let Some(process) = unless_gone(process)? else { continue };
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let held = held_by(&process.path(), &by_inode)?;
        // If the first thread has exited its table is empty, and another thread's is the
        // process's.
        let held = match living_thread(pid).filter(|(thread, _)| held.is_none() && *thread != pid) {
            Some((thread, _)) => held_by(&process.path().join(format!("task/{thread}")), &by_inode)?,
            None => held,
        };
        let held = held.into_iter().flatten();
        holders.extend(held.map(|(cookie, fd)| Holder { cookie, pid, fd, process: None }));
    }
    walk.holders = in_order(holders);
    Ok(())
}

/// Returns the sockets among `by_inode` that the descriptors in this folder of `/proc` hold, each
/// with its descriptor; `None` if there is no descriptor at all.
///
/// # Errors
/// This process has run out of descriptors or memory.
fn held_by(folder: &Path, by_inode: &FxHashMap<u64, u64>) -> io::Result<Option<Vec<(u64, u32)>>> {
    let (mut held, mut is_empty) = (Vec::new(), true);
    for descriptor in unless_gone(fs::read_dir(folder.join("fd")))?.into_iter().flatten() {
        let Some(descriptor) = unless_gone(descriptor)? else { continue };
        is_empty = false;
        let Some(fd) = descriptor.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(target) = unless_gone(fs::read_link(descriptor.path()))? else { continue };
        let inode = socket_inode(target.as_os_str().as_encoded_bytes());
        held.extend(inode.and_then(|inode| by_inode.get(&inode)).map(|cookie| (*cookie, fd)));
    }
    Ok((!is_empty).then_some(held))
}

/// Turns every error but a shortage into `None`.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if Shortage::find_in(&error).is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Returns the number in `socket:[NUMBER]`.
fn socket_inode(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_sockets_have_a_socket_inode() {
        assert_eq!(socket_inode(b"socket:[123]"), Some(123));
        assert_eq!(socket_inode(b"pipe:[123]"), None);
        assert_eq!(socket_inode(b"socket:[]"), None);
        assert_eq!(socket_inode(b"/tmp/socket:[1]"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_socket_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let end = socket_inode(&bytes).map(|inode| format!("{inode}]"));
            prop_assert!(end.is_none_or(|end| bytes.ends_with(end.as_bytes())));
        }
    }
}
