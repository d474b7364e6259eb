//! Lists the processes of this host, as far as this process may see them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::{
    engine::{coverage::Residents, filter::missing::Resident},
    events::{Name, Owner},
    host::proc::{arguments::Patience, proc_stat::is_kernel_thread, process},
};

/// The parent of all kernel threads. It exists on every host, belongs to root and has all
/// capabilities: what this process may see of it, it may see of any process.
pub(crate) const KTHREADD: &str = "/proc/2";

/// Says what can be seen of the host's processes, and lists them if `are_wanted`. `by_proc`:
/// whether holders are found in `/proc`, which may hide descriptors from us.
pub(crate) fn list_residents(are_wanted: bool, patience: Patience, by_proc: bool) -> Residents {
    let numbers = || {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    };
    let listed = if are_wanted {
        numbers().filter_map(|pid| describe_resident(pid, patience, by_proc)).collect()
    } else {
        vec![]
    };
    Residents {
        listed,
        lists_all: fs::read(format!("{KTHREADD}/stat")).is_ok(),
        asks_all: fs::metadata(format!("{KTHREADD}/ns/net")).is_ok(),
    }
}

/// Describes a process; `None` if it has ended.
fn describe_resident(pid: u32, patience: Patience, by_proc: bool) -> Option<Resident> {
    let process = process::look_up(pid, None, patience);
    let mut owner =
        Owner { comm: process.comm.as_deref().map(Name::from_bytes), uid: process.uid, ..Owner::once(pid) };
    crate::engine::ownership::responsible::add_details(&mut owner, &process);
    let netns = fs::metadata(format!("/proc/{pid}/ns/net")).ok().and_then(|it| it.ino().try_into().ok());
    let is_kernel_thread = owner.exe.is_none() && is_kernel_thread(pid);
    let shows_descriptors = !by_proc || fs::read_dir(format!("/proc/{pid}/fd")).is_ok();
    // The process may have ended meanwhile.
    Path::new(&format!("/proc/{pid}")).exists().then_some(Resident {
        owner,
        netns,
        shows_descriptors,
        is_kernel_thread,
    })
}

/// Whether there is a cgroup of this path. The hierarchies are expected at their usual places.
pub(crate) fn has_cgroup(path: &str) -> bool {
    ["", "/unified", "/systemd"]
        .iter()
        .any(|hierarchy| Path::new(&format!("/sys/fs/cgroup{hierarchy}{path}")).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_them_and_is_no_kernel_thread() {
        let all = list_residents(true, Patience::Long, true);
        let me = std::process::id();
        let ours = all.listed.iter().find(|resident| resident.owner.pid == me).expect("it lives");
        let inode = fs::metadata("/proc/self/ns/net").expect("/proc is mounted").ino();
        assert_eq!(ours.netns.map(u64::from), Some(inode));
        assert!(
            ours.shows_descriptors
                && ours.owner.uid.is_some()
                && ours.owner.exe.is_some()
                && !ours.is_kernel_thread
        );
        assert!(list_residents(false, Patience::Long, true).listed.is_empty());
    }
}
