//! What was found out about the processes that act on sockets, so that each is looked up once and not at every
//! transition.

use rustc_hash::FxHashMap;

use crate::clock;
use crate::engine::{
    process_info::{ProcessDetails, ProcessInfo},
    processes::{Condition, ProcessId},
    walk::Named,
};
use crate::host::proc::{
    proc_stat::{self, start_ticks, tick_ns},
    process,
};

/// For so long a process is taken for the same one that had its pid, nanoseconds.
const TRUSTED_NS: u64 = 1_000_000_000;

/// A process that acts under another name than it was looked up by has executed another program, or renamed itself: it is
/// looked up again, but no more often than this, so that who renames itself all the time cannot keep the tracer busy.
const AGAIN_NS: u64 = 10_000_000;

/// Processes that have acted, by pid. Bounded by those that live, give or take as many again.
#[derive(Debug, Default)]
pub(crate) struct ProcessCache {
    known: FxHashMap<u32, Known>,
    /// How many there may be before it pays to look which of them have ended.
    room: usize,
}

#[derive(Debug)]
struct Known {
    process: ProcessDetails,
    /// As [`start_ticks`].
    start_ticks: Option<u64>,
    /// When that was, `CLOCK_MONOTONIC` nanoseconds, or up to a tick before.
    started_ns: u64,
    looked_up_ns: u64,
    checked_ns: u64,
}

impl Known {
    fn look_up(pid: u32, now_ns: u64) -> Self {
        let start_ticks = start_ticks(pid);
        let process = process::look_up(pid, None);
        let started_ns = start_ticks.unwrap_or(0).saturating_mul(tick_ns()).saturating_sub(clock::slept_ns());
        Self { process, start_ticks, started_ns, looked_up_ns: now_ns, checked_ns: now_ns }
    }

    fn is_named(&self, comm: Option<&[u8]>) -> bool {
        comm.is_none_or(|comm| self.process.comm.as_deref() == Some(comm))
    }
}

impl ProcessCache {
    /// What is known of the process that had this pid and name at that time; nothing where another one has the pid by now,
    /// or where it has become another program since. One that ended before it was ever looked at is not known either.
    pub(crate) fn find(&mut self, pid: u32, comm: Option<&[u8]>, at_ns: u64) -> Option<&ProcessDetails> {
        let known = self.get(pid, at_ns);
        if !known.is_named(comm) && at_ns.saturating_sub(known.looked_up_ns) >= AGAIN_NS {
            *known = Known::look_up(pid, at_ns);
        }
        let known = &*known;
        (known.is_named(comm) && known.started_ns <= at_ns).then_some(&known.process)
    }

    /// What is known of the process that had this pid at `then_ns`, `CLOCK_MONOTONIC` nanoseconds: nothing where the one that
    /// has it now is younger.
    pub(crate) fn find_from(&mut self, pid: u32, then_ns: u64, now_ns: u64) -> Option<&ProcessDetails> {
        let known = &*self.get(pid, now_ns);
        (known.start_ticks.is_some() && known.started_ns <= then_ns).then_some(&known.process)
    }

    fn get(&mut self, pid: u32, now_ns: u64) -> &mut Known {
        if self.known.len() >= self.room {
            self.known
                .retain(|pid, known| known.start_ticks.is_some() && start_ticks(*pid) == known.start_ticks);
            self.room = (2 * self.known.len()).max(64);
        }
        let known = self.known.entry(pid).or_insert_with(|| Known::look_up(pid, now_ns));
        if now_ns.saturating_sub(known.checked_ns) > TRUSTED_NS {
            match start_ticks(pid) {
                // It has ended: what was known of it is still what it was.
                None => {}
                started if started == known.start_ticks => known.checked_ns = now_ns,
                _ => *known = Known::look_up(pid, now_ns),
            }
        }
        known
    }
}

impl ProcessInfo for ProcessCache {
    fn holder_details(&self, pid: u32, named: Option<Named>) -> ProcessDetails {
        process::look_up(pid, named)
    }

    fn actor_details(&mut self, pid: u32, comm: Option<&[u8]>, at_ns: u64) -> Option<&ProcessDetails> {
        self.find(pid, comm, at_ns)
    }

    fn opener_details(&mut self, pid: u32, since_ns: u64, now_ns: u64) -> Option<&ProcessDetails> {
        self.find_from(pid, since_ns, now_ns)
    }

    fn process_id(&self, pid: u32, named: Option<Named>) -> ProcessId {
        proc_stat::process_id(pid, named)
    }

    fn process_stats(&self, id: ProcessId) -> Option<Condition> {
        proc_stat::condition(id)
    }

    fn is_alive(&self, id: ProcessId) -> bool {
        start_ticks(id.pid) == Some(id.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_name() {
        let me = std::process::id();
        let comm = process::look_up(me, None).comm.expect("we run");
        let mut cache = ProcessCache::default();
        let now_ns = clock::monotonic_ns();
        let found = cache.find(me, Some(&comm), now_ns).and_then(|process| process.exe.clone());
        let found = found.expect("it lives");
        let exe = std::env::current_exe().expect("we run");
        assert_eq!(*found, *exe.to_string_lossy());
        assert_eq!(cache.find(me, None, now_ns).and_then(|process| process.comm.clone()), Some(comm.clone()));
        assert_eq!(cache.find(me, Some(b"another"), now_ns), None, "not the one that acted");
        assert!(cache.find(me, Some(&comm), now_ns).is_some(), "what was known of it is not forgotten");
        assert_eq!(cache.find(me, Some(&comm), 1), None, "we did not begin with the host");
    }

    #[test]
    fn another_name_is_looked_up_again_but_not_at_once() {
        let me = std::process::id();
        let comm = process::look_up(me, None).comm.expect("we run");
        let mut cache = ProcessCache::default();
        let now_ns = clock::monotonic_ns();
        cache.get(me, now_ns).process.comm = Some(b"before".to_vec());
        assert_eq!(cache.find(me, Some(&comm), now_ns + AGAIN_NS - 1), None);
        assert!(cache.find(me, Some(&comm), now_ns + AGAIN_NS).is_some_and(|process| process.exe.is_some()));
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
            assert_eq!(cache.find(pid, None, 1), Some(&ProcessDetails::default()));
        }
        assert!(cache.known.len() <= 64);
        let me = std::process::id();
        assert!(cache.find(me, None, clock::monotonic_ns()).is_some_and(|process| process.exe.is_some()));
    }
}
