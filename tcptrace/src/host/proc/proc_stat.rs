//! Statistics of a process: its start, CPU time, descriptors and their limit (proc(5)).
//!
//! Every answer may be missing: processes end meanwhile, and hidepid hides them.

use std::fs;

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use tcptrace_common::COMM_LEN;

use crate::engine::{
    processes::{ProcessId, ProcessStats},
    walk::Named,
};

/// Returns when a process started, as [`ProcessId::start_ticks`]; `None` if there is no such
/// process.
pub fn start_ticks(pid: u32) -> Option<u64> {
    Some(Stat::read(pid)?.start_ticks)
}

/// Identifies the process that has this pid by its start: as the kernel gave it, or else as
/// `/proc` gives it now.
///
/// A process that has ended by now gets the start 0, which matches none: its last roll-up is due.
pub fn process_id(pid: u32, named: Option<Named>) -> ProcessId {
    let start_ticks = named.map(|named| ticks_from_ns(named.start_ns)).or_else(|| start_ticks(pid));
    ProcessId { pid, start_ticks: start_ticks.unwrap_or(0) }
}

/// Converts nanoseconds since boot to ticks.
pub(crate) fn ticks_from_ns(ns: u64) -> u64 {
    ns / tick_ns()
}

/// Returns the length of a clock tick of `/proc`, nanoseconds.
pub(crate) fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// Reads the statistics of a process; `None` if it has ended, whether or not another process has
/// its pid by now.
pub fn process_stats(id: ProcessId) -> Option<ProcessStats> {
    let Some(stat) = Stat::read(id.pid) else {
        return is_hidden(id.pid).then(ProcessStats::default);
    };
    if stat.start_ticks != id.start_ticks {
        return None;
    }
    // If the first thread has exited before the others, it has no descriptors.
    let living = if stat.is_ending() { living_thread(id.pid) } else { Some((id.pid, stat.state)) };
    Some(ProcessStats {
        comm: stat.comm,
        cpu_ns: stat.cpu_ticks.saturating_mul(tick_ns()),
        stopped: living.is_some_and(|(_, state)| matches!(state, b'T' | b't')),
        fds_open: living.and_then(|(thread, _)| open_fds(id.pid, thread)),
        fds_limit: fs::read(format!("/proc/{}/limits", id.pid)).ok().as_deref().and_then(soft_limit),
    })
}

/// Whether a process is a kernel thread.
pub(crate) fn is_kernel_thread(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_kernel_thread())
}

/// Whether there is such a process although `/proc` does not show it (proc(5), hidepid): kill(2)
/// knows every process.
fn is_hidden(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// Finds a thread of a process that has not exited. Returns its id and state; `None` if the
/// process is ending.
pub(crate) fn living_thread(pid: u32) -> Option<(u32, u8)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.find_map(|thread: u32| {
        let stat = Stat::parse_stat(&fs::read(format!("/proc/{pid}/task/{thread}/stat")).ok()?)?;
        (!stat.is_ending()).then_some((thread, stat.state))
    })
}

/// Counts the open descriptors of a process, as one of its threads shows them; `None` if that
/// thread exits meanwhile.
fn open_fds(pid: u32, thread: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/task/{thread}/fd");
    // From Linux 6.2 on the folder's size is their number (`proc_fd_getattr`, `fs/proc/fd.c`);
    // before, it is 0.
    let count = match fs::metadata(&folder).ok()?.len() {
        0 => u64::try_from(fs::read_dir(&folder).ok()?.count()).ok()?,
        count => count,
    };
    // A thread that is exiting has given up its descriptors.
    let is_ending = || {
        let stat = fs::read(format!("/proc/{pid}/task/{thread}/stat")).ok();
        stat.as_deref().and_then(Stat::parse_stat).is_none_or(|stat| stat.is_ending())
    };
    (count > 0 || !is_ending()).then_some(count)
}

/// Returns the soft limit in the line `Max open files` of a process's limits.
fn soft_limit(limits: &[u8]) -> Option<u64> {
    let line = limits.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Max open files"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Tells one program that a process runs from the one that it ran before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    /// When the process started, clock ticks after boot.
    pub(crate) start_ticks: u64,
    /// Where its arguments begin in memory: elsewhere after each execve(2), as far as addresses are
    /// randomized. 0 if that may not be seen.
    arg_start: u64,
}

/// Returns what tells the program that a process runs from others; `None` if there is no such process.
pub(crate) fn execution(pid: u32) -> Option<Execution> {
    let Stat { start_ticks, arg_start, .. } = Stat::read(pid)?;
    Some(Execution { start_ticks, arg_start })
}

/// The fields of `/proc/PID/stat` that we use.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// The name, padded with NUL.
    comm: [u8; COMM_LEN],
    /// `R`, `S`, `T` (stopped), …
    state: u8,
    /// Flags of the thread, `PF_…` (`include/linux/sched.h`).
    flags: u64,
    /// CPU time of all threads, user and system.
    cpu_ticks: u64,
    start_ticks: u64,
    /// Where its arguments begin; 0 if that may not be seen.
    arg_start: u64,
}

/// The flag of a thread that is exiting and not yet a zombie (`include/linux/sched.h`).
const PF_EXITING: u64 = 0x4;

/// The flag of a kernel thread (`include/linux/sched.h`).
const PF_KTHREAD: u64 = 0x0020_0000;

impl Stat {
    const fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether the thread is exiting or has exited: it may have closed its descriptors.
    const fn is_ending(&self) -> bool {
        matches!(self.state, b'Z' | b'X') || self.flags & PF_EXITING != 0
    }

    fn read(pid: u32) -> Option<Self> {
        Self::parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Parses the file. The second field, the process's name in brackets, may contain any bytes.
    fn parse_stat(stat: &[u8]) -> Option<Self> {
        let name_begins = stat.iter().position(|byte| *byte == b'(')? + 1;
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> =
            std::str::from_utf8(&stat[name_ends + 1..]).ok()?.split_ascii_whitespace().collect();
        // proc(5) counts fields from 1, and the state is the third one.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let name = stat.get(name_begins..name_ends)?;
        let mut comm = [0; COMM_LEN];
        comm.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        Some(Self {
            comm,
            state: *fields.first()?.as_bytes().first()?,
            flags: number(9)?,
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            start_ticks: number(22)?,
            arg_start: number(48).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_hides_no_field() {
        let line = b"4242 (a) R 1 (b\n) T 1 4242 4242 0 -1 4194304 99 0 0 0 120 30 7 8 20 0 5 0 987654 0 0\n";
        let comm = *b"a) R 1 (b\n\0\0\0\0\0\0";
        let stat =
            Stat { comm, state: b'T', flags: 4_194_304, cpu_ticks: 150, start_ticks: 987_654, arg_start: 0 };
        assert_eq!(Stat::parse_stat(line), Some(stat));
        let line = b"7 (a) R (b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        assert_eq!(Stat::parse_stat(line).map(|stat| stat.start_ticks), Some(4711));
        assert_eq!(Stat::parse_stat(b"7 (a S 1"), None);
        assert_eq!(Stat::parse_stat(b"7 (a) S 1"), None);
        assert_eq!(Stat::parse_stat(b"4242 (cut) S 1 2"), None);
        assert_eq!(Stat::parse_stat(b""), None);
    }

    #[test]
    fn a_kernel_thread_is_known_by_its_flags_whatever_its_name() {
        let is_kernel_thread = |flags: u32| {
            let line = format!("2 (a) S 0 b) S 0 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n");
            Stat::parse_stat(line.as_bytes()).expect("a line as the kernel has it").is_kernel_thread()
        };
        assert!(is_kernel_thread(2_129_984) && !is_kernel_thread(4_194_560));
        assert!(!super::is_kernel_thread(std::process::id()));
        // hidepid may hide kthreadd.
        assert!(start_ticks(2).is_none() || super::is_kernel_thread(2));
    }

    #[test]
    fn the_soft_limit_comes_first() {
        let limits = b"Limit  Soft Limit  Hard Limit  Units\nMax processes  5  6  processes\n\
            Max open files            1024                 4096                 files     \n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit(b"Max open files  unlimited  unlimited  files\n"), None);
        assert_eq!(soft_limit(b"Max processes  5  6  processes\n"), None);
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let pid = std::process::id();
        let id = ProcessId { pid, start_ticks: start_ticks(pid).expect("it lives") };
        let stats = process_stats(id).expect("it lives");
        assert_eq!((stats.stopped, stats.fds_limit.is_some()), (false, true));
        assert!(stats.fds_open.is_some_and(|open| open > 2), "{stats:?}");
        assert_eq!(
            process_stats(ProcessId { start_ticks: id.start_ticks + 1, ..id }),
            None,
            "another one's pid"
        );
        assert_eq!(start_ticks(0), None);
        let (thread, _) = living_thread(pid).expect("it runs");
        assert!(open_fds(pid, thread).is_some_and(|open| open > 2));
        assert!(is_hidden(pid) && !is_hidden(0) && !is_hidden(i32::MAX.cast_unsigned()));
    }

    proptest! {
        #[test]
        fn any_name_hides_no_field(
            name in proptest::collection::vec(any::<u8>(), 0..16), start in any::<u64>(), flags: u32,
        ) {
            let fields = format!(") S 1 1 1 0 -1 {flags} 1 0 0 0 7 8 0 0 20 0 1 0 {start} 0 0\n");
            let line = [b"7 (", &name[..], fields.as_bytes()].concat();
            let stat = Stat::parse_stat(&line).expect("a line as the kernel has it");
            prop_assert_eq!((stat.state, stat.cpu_ticks, stat.start_ticks), (b'S', 15, start));
            prop_assert_eq!((stat.flags, stat.is_kernel_thread()), (flags.into(), flags & 0x0020_0000 != 0));
            prop_assert!(stat.comm.starts_with(&name));
        }

        #[test]
        fn any_bytes_are_a_process_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _or_none = (Stat::parse_stat(&bytes), soft_limit(&bytes));
            let _or_none = soft_limit(&[b"Max open files ", &bytes[..]].concat());
            let _or_none = Stat::parse_stat(&[b"7 (a) ", &bytes[..]].concat());
        }
    }
}
