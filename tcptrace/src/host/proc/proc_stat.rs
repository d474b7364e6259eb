//! What a process is doing, and how many descriptors it has open of how many it may (proc(5)). Every answer may be
//! missing: processes end while one looks, and hidepid hides them.

use std::fs;

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use tcptrace_common::COMM_LEN;

use crate::engine::{
    processes::{Condition, ProcessId},
    walk::Named,
};

/// When a process started, as [`ProcessId::start_ticks`]; `None` where there is no such process.
pub fn start_ticks(pid: u32) -> Option<u64> {
    Some(Stat::read(pid)?.start_ticks)
}

/// The process with this pid, told from others by its start: by what the kernel said of it, or else by what `/proc` says
/// now. (One that has ended by now has its last roll-up coming: no start is needed for that.)
pub fn process_id(pid: u32, named: Option<Named>) -> ProcessId {
    let start_ticks = named.map(|named| ticks(named.start_ns)).or_else(|| start_ticks(pid));
    ProcessId { pid, start_ticks: start_ticks.unwrap_or(0) }
}

/// The same of a time in nanoseconds since boot, as the kernel has it.
pub(crate) fn ticks(ns: u64) -> u64 {
    ns / tick_ns()
}

/// Length of a clock tick as `/proc` counts them, nanoseconds.
pub(crate) fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// What the system says of a process; `None` where it has ended, its pid given to another one or not.
pub fn condition(id: ProcessId) -> Option<Condition> {
    let Some(stat) = Stat::read(id.pid) else {
        return is_hidden(id.pid).then(Condition::default);
    };
    if stat.start_ticks != id.start_ticks {
        return None;
    }
    // The first thread may have exited before the others: it has no descriptors then.
    let living = if stat.is_ending() { living_thread(id.pid) } else { Some((id.pid, stat.state)) };
    Some(Condition {
        comm: stat.comm,
        cpu_ns: stat.cpu_ticks.saturating_mul(tick_ns()),
        stopped: living.is_some_and(|(_, state)| matches!(state, b'T' | b't')),
        fds_open: living.and_then(|(thread, _)| open(id.pid, thread)),
        fds_limit: fs::read(format!("/proc/{}/limits", id.pid)).ok().as_deref().and_then(soft_limit),
    })
}

/// Whether there is such a process although `/proc` shows none (proc(5), hidepid): signals know all of them.
fn is_hidden(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// A thread of a process that has not exited, and its state; `None` if the process is ending.
pub(crate) fn living_thread(pid: u32) -> Option<(u32, u8)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.find_map(|thread: u32| {
        let stat = Stat::parse(&fs::read(format!("/proc/{pid}/task/{thread}/stat")).ok()?)?;
        (!stat.is_ending()).then_some((thread, stat.state))
    })
}

/// How many descriptors a process has open, as one of its threads has them; `None` if that exits
/// meanwhile.
fn open(pid: u32, thread: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/task/{thread}/fd");
    // The folder's size is their number, from Linux 6.2 on (`proc_fd_getattr`, `fs/proc/fd.c`); before, it is 0.
    let count = match fs::metadata(&folder).ok()?.len() {
        0 => fs::read_dir(&folder).ok()?.count() as u64,
        count => count,
    };
    // One that exits has none any more.
    let is_ending = || {
        let stat = fs::read(format!("/proc/{pid}/task/{thread}/stat")).ok();
        stat.as_deref().and_then(Stat::parse).is_none_or(|stat| stat.is_ending())
    };
    (count > 0 || !is_ending()).then_some(count)
}

/// The soft limit in the line `Max open files` of a process's limits.
fn soft_limit(limits: &[u8]) -> Option<u64> {
    let line = limits.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Max open files"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Some fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// NUL-padded.
    comm: [u8; COMM_LEN],
    /// `R`, `S`, `T` (stopped), …
    state: u8,
    /// `PF_…` (`include/linux/sched.h`).
    flags: u64,
    /// Of all threads, user and system.
    cpu_ticks: u64,
    start_ticks: u64,
}

/// Set while a thread exits, before it is a zombie (`include/linux/sched.h`).
const PF_EXITING: u64 = 0x4;

impl Stat {
    /// Whether it exits, or has: it may have closed its descriptors.
    const fn is_ending(&self) -> bool {
        matches!(self.state, b'Z' | b'X') || self.flags & PF_EXITING != 0
    }

    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The process's name, in brackets, is the second field, and may have anything in it.
    fn parse(stat: &[u8]) -> Option<Self> {
        let name_begins = stat.iter().position(|byte| *byte == b'(')? + 1;
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> =
            std::str::from_utf8(&stat[name_ends + 1..]).ok()?.split_ascii_whitespace().collect();
        // The numbers of proc(5) begin with 1, and the state is the third field.
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
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_hides_no_field() {
        let line = b"4242 (a) R 1 (b\n) T 1 4242 4242 0 -1 4194304 99 0 0 0 120 30 7 8 20 0 5 0 987654 0 0\n";
        let comm = *b"a) R 1 (b\n\0\0\0\0\0\0";
        let stat = Stat { comm, state: b'T', flags: 4_194_304, cpu_ticks: 150, start_ticks: 987_654 };
        assert_eq!(Stat::parse(line), Some(stat));
        let line = b"7 (a) R (b) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        assert_eq!(Stat::parse(line).map(|stat| stat.start_ticks), Some(4711));
        assert_eq!(Stat::parse(b"7 (a S 1"), None);
        assert_eq!(Stat::parse(b"7 (a) S 1"), None);
        assert_eq!(Stat::parse(b"4242 (cut) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
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
        let condition_now = condition(id).expect("it lives");
        assert_eq!((condition_now.stopped, condition_now.fds_limit.is_some()), (false, true));
        assert!(condition_now.fds_open.is_some_and(|open| open > 2), "{condition_now:?}");
        assert_eq!(condition(ProcessId { start_ticks: id.start_ticks + 1, ..id }), None, "another one's pid");
        assert_eq!(start_ticks(0), None);
        let (thread, _) = living_thread(pid).expect("it runs");
        assert!(open(pid, thread).is_some_and(|open| open > 2));
        assert!(is_hidden(pid) && !is_hidden(0) && !is_hidden(i32::MAX.cast_unsigned()));
    }

    proptest! {
        #[test]
        fn no_name_hides_a_field(name in proptest::collection::vec(any::<u8>(), 0..16), start in any::<u64>()) {
            let fields = format!(") S 1 1 1 0 -1 4194560 1 0 0 0 7 8 0 0 20 0 1 0 {start} 0 0\n");
            let line = [b"7 (", &name[..], fields.as_bytes()].concat();
            let stat = Stat::parse(&line).expect("a line as the kernel has it");
            prop_assert_eq!((stat.state, stat.cpu_ticks, stat.start_ticks), (b'S', 15, start));
            prop_assert!(stat.comm.starts_with(&name));
        }

        #[test]
        fn any_bytes_are_a_process_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _or_none = (Stat::parse(&bytes), soft_limit(&bytes));
            let _or_none = soft_limit(&[b"Max open files ", &bytes[..]].concat());
            let _or_none = Stat::parse(&[b"7 (a) ", &bytes[..]].concat());
        }
    }
}
