//! What was found out about the processes that act on sockets, so that each is looked up once and not at every
//! transition.

use rustc_hash::FxHashMap;

use super::{
    descriptors::{start_ticks, tick_ns},
    procfs::Process,
};
use crate::clock;

/// For so long a process is taken for the same one that had its pid, nanoseconds.
const TRUSTED_NS: u64 = 1_000_000_000;

/// Processes that have acted, by pid. Bounded by those that live, give or take as many again.
#[derive(Debug, Default)]
pub(crate) struct ProcessCache {
    known: FxHashMap<u32, Known>,
    /// How many there may be before it pays to look which of them have ended.
    room: usize,
}

#[derive(Debug)]
struct Known {
    process: Process,
    /// As [`start_ticks`].
    start_ticks: Option<u64>,
    checked_ns: u64,
}

impl ProcessCache {
    /// What is known of the process that had this pid and name at that time; nothing where another one has the pid by now,
    /// or where it has become another program since. One that ended before it was ever looked at is not known either.
    pub(crate) fn find(&mut self, pid: u32, comm: Option<&[u8]>, now_ns: u64) -> Option<&Process> {
        let is_named = |process: &Process| comm.is_none_or(|comm| process.comm.as_deref() == Some(comm));
        if !is_named(self.get(pid, now_ns)) {
            self.known.remove(&pid);
        }
        self.known.get(&pid).map(|known| &known.process)
    }

    /// What is known of the process that had this pid at `then_ns`, `CLOCK_MONOTONIC` nanoseconds: nothing where the one that
    /// has it now is younger.
    pub(crate) fn find_from(&mut self, pid: u32, then_ns: u64, now_ns: u64) -> Option<&Process> {
        self.get(pid, now_ns);
        let known = self.known.get(&pid)?;
        let started_ns = known.start_ticks?.saturating_mul(tick_ns());
        (started_ns <= clock::since_boot_ns(then_ns)).then_some(&known.process)
    }

    fn get(&mut self, pid: u32, now_ns: u64) -> &Process {
        if self.known.len() >= self.room {
            self.known
                .retain(|pid, known| known.start_ticks.is_some() && start_ticks(*pid) == known.start_ticks);
            self.room = (2 * self.known.len()).max(64);
        }
        let look_up = || Known {
            start_ticks: start_ticks(pid),
            process: Process::look_up(pid, None),
            checked_ns: now_ns,
        };
        let known = self.known.entry(pid).or_insert_with(look_up);
        if now_ns.saturating_sub(known.checked_ns) > TRUSTED_NS {
            match start_ticks(pid) {
                // It has ended: what was known of it is still what it was.
                None => {}
                started if started == known.start_ticks => known.checked_ns = now_ns,
                _ => *known = look_up(),
            }
        }
        &known.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_name() {
        let me = std::process::id();
        let comm = Process::look_up(me, None).comm.expect("we run");
        let mut cache = ProcessCache::default();
        let found = cache.find(me, Some(&comm), 1).and_then(|process| process.exe.clone()).expect("it lives");
        let exe = std::env::current_exe().expect("we run");
        assert_eq!(*found, *exe.to_string_lossy());
        assert_eq!(cache.find(me, None, 1).and_then(|process| process.comm.clone()), Some(comm));
        assert_eq!(cache.find(me, Some(b"another"), 1), None, "not the one that acted");
    }

    #[test]
    fn a_younger_process_with_the_pid_is_not_the_one() {
        let me = std::process::id();
        let mut cache = ProcessCache::default();
        let now_ns = clock::monotonic_ns();
        assert!(cache.find_from(me, now_ns, now_ns).is_some_and(|process| process.exe.is_some()));
        assert_eq!(cache.find_from(me, 1, now_ns), None, "we did not begin with the host");
    }

    #[test]
    fn those_that_have_ended_are_forgotten_when_there_are_many() {
        let mut cache = ProcessCache::default();
        let nobody = u32::MAX - 1000;
        for pid in nobody..nobody + 200 {
            assert_eq!(cache.find(pid, None, 1), Some(&Process::default()));
        }
        assert!(cache.known.len() <= 64);
        let me = std::process::id();
        assert!(cache.find(me, None, 1).is_some_and(|process| process.exe.is_some()));
    }
}
