//! The processes of this host, as far as this process may see them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::host::proc::process;
use crate::{
    engine::{coverage::Residents, filter::missing::Resident},
    events::{Name, Owner},
};

/// The parent of all kernel threads: it is there on every host, is not ours, and may do all. What may be seen of it may be
/// seen of any process.
pub(crate) const KTHREADD: &str = "/proc/2";

/// A kernel thread (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;

/// Looks at every process, if they are wanted. `by_proc`: whether holders are found in `/proc`, where descriptors may be
/// kept from us.
pub(crate) fn residents(are_wanted: bool, by_proc: bool) -> Residents {
    let numbers = || {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    };
    let listed =
        if are_wanted { numbers().filter_map(|pid| resident(pid, by_proc)).collect() } else { vec![] };
    Residents {
        listed,
        lists_all: fs::read(format!("{KTHREADD}/stat")).is_ok(),
        asks_all: fs::metadata(format!("{KTHREADD}/ns/net")).is_ok(),
    }
}

/// A process, if it lives.
fn resident(pid: u32, by_proc: bool) -> Option<Resident> {
    let process = process::look_up(pid, None);
    let mut owner =
        Owner { comm: process.comm.as_deref().map(Name::from_bytes), uid: process.uid, ..Owner::once(pid) };
    crate::engine::ownership::responsible::complete(&mut owner, &process);
    let netns = fs::metadata(format!("/proc/{pid}/ns/net")).ok().and_then(|it| it.ino().try_into().ok());
    let is_kernel_thread = owner.exe.is_none()
        && fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_kernel_thread(&stat));
    let shows_descriptors = !by_proc || fs::read_dir(format!("/proc/{pid}/fd")).is_ok();
    // It may have ended meanwhile.
    Path::new(&format!("/proc/{pid}")).exists().then_some(Resident {
        owner,
        netns,
        shows_descriptors,
        is_kernel_thread,
    })
}

/// Whether the flags in a process's stat say so: the seventh field after its name (proc(5)).
fn is_kernel_thread(stat: &[u8]) -> bool {
    let Some(name_ends) = stat.iter().rposition(|byte| *byte == b')') else { return false };
    let mut fields = std::str::from_utf8(&stat[name_ends + 1..]).unwrap_or("").split_ascii_whitespace();
    let flags = fields.nth(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// Whether there is a cgroup of this path, where the hierarchies are mounted as everybody mounts them.
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
        let all = residents(true, true);
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
        assert!(residents(false, true).listed.is_empty());
    }

    #[test]
    fn a_kernel_thread_is_known_by_its_flags_whatever_its_name() {
        let stat = |flags: u32| format!("2 (a) S 0 b) S 0 0 0 0 -1 {flags} 0 0 0 0 0 0\n").into_bytes();
        assert!(is_kernel_thread(&stat(2_129_984)));
        assert!(!is_kernel_thread(&stat(4_194_560)));
        assert!(!is_kernel_thread(b"") && !is_kernel_thread(b"2 (kthreadd) S 0 0"));
        if let Ok(kthreadd) = fs::read(format!("{KTHREADD}/stat")) {
            assert!(is_kernel_thread(&kthreadd));
        }
    }
}
