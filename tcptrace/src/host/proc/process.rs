//! Looks up a process in `/proc` (proc(5)).
//!
//! Every answer may be missing: processes end meanwhile, and hidepid hides them.

use std::{fs, sync::Arc};

use crate::{
    engine::{process_info::ProcessDetails, walk::Named},
    host::proc::{
        arguments::{Arguments, Patience, read_arguments},
        cgroup,
        container::container_id,
        proc_stat::{living_thread, start_ticks, ticks_from_ns},
        program::{is_named_by_arguments, program_name},
        unit::{pod_uid, unit_name},
    },
};

/// Looks up a process. `named` is what the kernel said of it, if it did: if another process has
/// the pid by now, nothing is known. Its arguments are waited for as long as
/// `patience` says.
pub fn look_up(pid: u32, named: Option<Named>, patience: Patience) -> ProcessDetails {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let mut process = ProcessDetails::default();
    let status = file("status").unwrap_or_default();
    if named.is_none() {
        process.comm = file("comm").map(|mut comm| {
            comm.pop_if(|last| *last == b'\n');
            comm
        });
        process.uid = numbers_in_line(&status, b"Uid:").next();
    }
    // The first one is the pid itself.
    let inner_pids: Vec<_> = numbers_in_line(&status, b"NSpid:").skip(1).collect();
    process.inner_pids = Some(inner_pids).filter(|pids| !pids.is_empty()).map(Arc::from);
    // If the first thread has exited, only another thread shows the executable.
    let exe = fs::read_link(format!("/proc/{pid}/exe")).or_else(|error| {
        let (thread, _) = living_thread(pid).filter(|(thread, _)| *thread != pid).ok_or(error)?;
        fs::read_link(format!("/proc/{pid}/task/{thread}/exe"))
    });
    process.exe = exe.ok().map(|path| path.to_string_lossy().into());
    process.program = process
        .exe
        .as_deref()
        .and_then(|exe| {
            if is_named_by_arguments(exe) {
                let Arguments { bytes, is_cut } = read_arguments(pid, patience)?;
                program_name(exe, &bytes, is_cut)
            } else {
                program_name(exe, &[], false)
            }
        })
        .map(Arc::from);
    if let Some(path) = file("cgroup").as_deref().and_then(cgroup::cgroup_path) {
        process.unit = unit_name(path).map(Arc::from);
        process.container = container_id(path).map(Arc::from);
        process.pod = pod_uid(path).map(Arc::from);
        process.cgroup = Some(String::from_utf8_lossy(path).into());
    }
    // Checked last: the pid may have changed hands while we read.
    let is_meant = named.is_none_or(|named| start_ticks(pid) == Some(ticks_from_ns(named.start_ns)));
    if is_meant { process } else { ProcessDetails::default() }
}

/// Returns the numbers in the line of a process's status that begins with `name`.
fn numbers_in_line<'a>(status: &'a [u8], name: &[u8]) -> impl Iterator<Item = u32> + use<'a> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name));
    let text = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or("");
    text.split_ascii_whitespace().map_while(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_line_asked_for() {
        let of = |status: &[u8], name: &[u8]| numbers_in_line(status, name).collect::<Vec<_>>();
        let status = b"Name:\tNSpid: 5\nUid:\t1000\t0\t0\t0\nNSpid:\t4242\t17\t1\n";
        assert_eq!(of(status, b"Uid:"), [1000, 0, 0, 0]);
        assert_eq!(of(status, b"NSpid:"), [4242, 17, 1]);
        assert_eq!(of(b"Uid:\t7 x 8\n", b"Uid:"), [7]);
        assert_eq!(of(b"Uid:\n", b"Uid:"), [0_u32; 0]);
        assert_eq!(of(b"", b"Uid:"), [0_u32; 0]);
    }

    #[test]
    fn a_process_that_is_not_there_is_unknown() {
        assert_eq!(look_up(0, None, Patience::Long), ProcessDetails::default());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_meant() {
        let pid = std::process::id();
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let named = |ticks| Some(Named { start_ns: ticks * tick_ns + 1, uid: 0, comm: [0; 16] });
        let start = start_ticks(pid).expect("we run");
        assert!(look_up(pid, named(start), Patience::Long).exe.is_some());
        assert_eq!(look_up(pid, named(start + 1), Patience::Long), ProcessDetails::default());
    }

    proptest! {
        #[test]
        fn any_bytes_give_numbers_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for name in [&b"Uid:"[..], b"NSpid:"] {
                let _or_fewer = numbers_in_line(&[name, &bytes[..]].concat(), name).count();
            }
        }
    }
}
