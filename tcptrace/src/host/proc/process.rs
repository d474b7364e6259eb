//! What `/proc` tells about processes (proc(5)). Every answer may be missing: processes end while one looks,
//! and hidepid hides them.

use std::{fs, io, path::Path, sync::Arc};

use rustc_hash::FxHashMap;

use crate::engine::{
    process_info::ProcessDetails,
    walk::{Holder, Named, Walk, in_order},
};
use crate::host::{
    proc::{
        container::container,
        proc_stat::{living_thread, start_ticks, ticks},
    },
    shortage::Shortage,
};

/// Looks up a process; `named` where the kernel has said already which one is meant. If another has the pid by
/// now, nothing is known.
pub fn look_up(pid: u32, named: Option<Named>) -> ProcessDetails {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let mut process = ProcessDetails::default();
    let status = file("status").unwrap_or_default();
    if named.is_none() {
        process.comm = file("comm").map(|mut comm| {
            comm.pop_if(|last| *last == b'\n');
            comm
        });
        process.uid = numbers(&status, b"Uid:").next();
    }
    // The first one is the pid itself.
    let inner_pids: Vec<_> = numbers(&status, b"NSpid:").skip(1).collect();
    process.inner_pids = Some(inner_pids).filter(|pids| !pids.is_empty()).map(Arc::from);
    // Of a process whose first thread has exited only another thread tells it.
    let exe = fs::read_link(format!("/proc/{pid}/exe")).or_else(|error| {
        let (thread, _) = living_thread(pid).filter(|(thread, _)| *thread != pid).ok_or(error)?;
        fs::read_link(format!("/proc/{pid}/task/{thread}/exe"))
    });
    process.exe = exe.ok().map(|path| path.to_string_lossy().into());
    if let Some(path) = file("cgroup").as_deref().and_then(cgroup) {
        process.container = container(path).map(Arc::from);
        process.cgroup = Some(String::from_utf8_lossy(path).into());
    }
    let is_meant = named.is_none_or(|named| start_ticks(pid) == Some(ticks(named.start_ns)));
    if is_meant { process } else { ProcessDetails::default() }
}

/// The numbers in the line of a process's status that begins like this.
fn numbers<'a>(status: &'a [u8], name: &[u8]) -> impl Iterator<Item = u32> + use<'a> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name));
    let words = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or("").split_ascii_whitespace();
    words.map_while(|word| word.parse().ok())
}

/// The path in a process's cgroup file: that of the unified hierarchy (`0::`), or systemd's where all
/// processes are in the unified one's root.
fn cgroup(file: &[u8]) -> Option<&[u8]> {
    let lines = || file.split(|byte| *byte == b'\n');
    let unified = lines().find_map(|line| line.strip_prefix(b"0::"));
    let systemd = || {
        lines().find_map(|line| {
            let controllers = line.iter().position(|byte| *byte == b':')? + 1;
            line.get(controllers..)?.strip_prefix(b"name=systemd:")
        })
    };
    match unified {
        Some(b"/") => systemd().or(unified),
        Some(path) => Some(path),
        None => systemd(),
    }
}

/// Finds the holders of a walk's sockets by reading every `/proc/PID/fd`: slower than `iter/task_file`, and
/// the way on kernels where that cannot tell a file's socket. A process that ends meanwhile, or that may not be
/// seen, is left out.
///
/// # Errors
/// This process or the host is short of what it takes ([`Shortage`]): holders would be missing.
pub(crate) fn add_holders(walk: &mut Walk) -> io::Result<()> {
    let by_inode: FxHashMap<u64, u64> =
        walk.sockets.iter().filter(|row| row.inode != 0).map(|row| (row.inode.into(), row.cookie)).collect();
    let mut holders = Vec::new();
    for process in unless_gone(fs::read_dir("/proc"))?.into_iter().flatten() {
        let Some(process) = unless_gone(process)? else { continue };
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let held = held_by(&process.path(), &by_inode)?;
        // The first thread may have exited: its table is empty then, and another thread's is the process's.
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

/// The sockets among `by_inode` that the descriptors in this folder of `/proc` hold, with each descriptor; `None` if
/// there is no descriptor at all.
///
/// # Errors
/// This process is short of descriptors or memory.
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

/// What was read, if it could be. Only a shortage is an error.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if Shortage::of(&error).is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

/// The number in `socket:[NUMBER]`.
fn socket_inode(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_line_asked_for() {
        let of = |status: &[u8], name: &[u8]| numbers(status, name).collect::<Vec<_>>();
        let status = b"Name:\tNSpid: 5\nUid:\t1000\t0\t0\t0\nNSpid:\t4242\t17\t1\n";
        assert_eq!(of(status, b"Uid:"), [1000, 0, 0, 0]);
        assert_eq!(of(status, b"NSpid:"), [4242, 17, 1]);
        assert_eq!(of(b"Uid:\t7 x 8\n", b"Uid:"), [7]);
        assert_eq!(of(b"Uid:\n", b"Uid:"), [0_u32; 0]);
        assert_eq!(of(b"", b"Uid:"), [0_u32; 0]);
    }

    #[test]
    fn cgroup_is_the_unified_one_unless_it_says_nothing() {
        let path = |file: &[u8]| cgroup(file).map(|path| String::from_utf8_lossy(path).into_owned());
        assert_eq!(path(b"0::/app.slice/x.service\n").as_deref(), Some("/app.slice/x.service"));
        assert_eq!(path(b"5:cpu:/x\n1:name=systemd:/user.slice\n0::/\n").as_deref(), Some("/user.slice"));
        assert_eq!(path(b"1:name=systemd:/init.scope\n").as_deref(), Some("/init.scope"));
        assert_eq!(path(b"0::/\n").as_deref(), Some("/"));
        assert_eq!(path(b""), None);
        assert_eq!(path(b"nonsense\n:\n").as_deref(), None);
    }

    #[test]
    fn only_sockets_have_a_socket_inode() {
        assert_eq!(socket_inode(b"socket:[123]"), Some(123));
        assert_eq!(socket_inode(b"pipe:[123]"), None);
        assert_eq!(socket_inode(b"socket:[]"), None);
        assert_eq!(socket_inode(b"/tmp/socket:[1]"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_unknown() {
        assert_eq!(look_up(0, None), ProcessDetails::default());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_meant() {
        let pid = std::process::id();
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let named = |ticks| Some(Named { start_ns: ticks * tick_ns + 1, uid: 0, comm: [0; 16] });
        let start = start_ticks(pid).expect("we run");
        assert!(look_up(pid, named(start)).exe.is_some());
        assert_eq!(look_up(pid, named(start + 1)), ProcessDetails::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for name in [&b"Uid:"[..], b"NSpid:"] {
                let _or_fewer = numbers(&[name, &bytes[..]].concat(), name).count();
            }
            if let Some(path) = cgroup(&bytes) {
                prop_assert!(!path.contains(&b'\n'));
            }
            let unified = [b"0::/", &bytes[..]].concat();
            prop_assert!(cgroup(&unified).is_some_and(|path| path.starts_with(b"/")));
            let end = socket_inode(&bytes).map(|inode| format!("{inode}]"));
            prop_assert!(end.is_none_or(|end| bytes.ends_with(end.as_bytes())));
        }
    }
}
