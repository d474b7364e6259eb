//! Answers the engine's questions about processes from `/proc`. Processes that act on sockets are
//! cached, so that each is looked up once and not at every transition.

use std::{cell::RefCell, collections::BTreeSet};

use rustc_hash::FxHashMap;

use crate::{
    clock,
    engine::{
        process_info::{ProcessDetails, ProcessInfo},
        processes::{ProcessId, ProcessStats},
        walk::Named,
    },
    host::proc::{
        arguments::Patience,
        proc_stat::{self, Execution, execution, start_ticks, tick_ns},
        process,
    },
};

/// How long a pid is trusted to belong to the same process, nanoseconds.
const TRUSTED_NS: u64 = 1_000_000_000;

/// How often a process that acts under a new name is looked up again, nanoseconds.
///
/// It has executed another program or renamed itself. The limit keeps a process that renames
/// itself all the time from keeping the tracer busy.
const RENAME_INTERVAL_NS: u64 = 10_000_000;

/// The processes of this host.
///
/// Those that have acted are cached by pid. The cache holds at most about twice as many as live.
#[derive(Debug, Default)]
pub(crate) struct LiveProcesses {
    cache: FxHashMap<u32, Cached>,
    /// The size of the cache at which processes that have ended are removed.
    limit: usize,
    /// How long processes' arguments are waited for.
    patience: Patience,
    /// The holders of sockets that did not say what they run, although they were given the time.
    unnamed: RefCell<BTreeSet<u32>>,
}

#[derive(Debug)]
struct Cached {
    details: ProcessDetails,
    /// Which program of the process this is about; `None` if it had ended.
    execution: Option<Execution>,
    /// When the process started, `CLOCK_MONOTONIC` nanoseconds, rounded down to a tick.
    started_ns: u64,
    looked_up_ns: u64,
    checked_ns: u64,
}

impl Cached {
    fn look_up(pid: u32, now_ns: u64, patience: Patience) -> Self {
        let execution = execution(pid);
        let details = process::look_up(pid, None, patience);
        let start_ticks = execution.map_or(0, |execution| execution.start_ticks);
        let since_boot_ns = start_ticks.saturating_mul(tick_ns());
        let started_ns = since_boot_ns.saturating_sub(clock::suspended_ns());
        Self { details, execution, started_ns, looked_up_ns: now_ns, checked_ns: now_ns }
    }

    fn is_named(&self, comm: Option<&[u8]>) -> bool {
        comm.is_none_or(|comm| self.details.comm.as_deref() == Some(comm))
    }
}

impl LiveProcesses {
    /// Knows no process yet, and waits for arguments as long as `patience` says.
    pub(crate) fn with_patience(patience: Patience) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Returns the holders of sockets that did not say what they run, by pid.
    pub(crate) fn unnamed_holders(&self) -> BTreeSet<u32> {
        self.unnamed.borrow().clone()
    }

    fn look_up_cached(&mut self, pid: u32, now_ns: u64) -> &mut Cached {
        if self.cache.len() >= self.limit {
            self.cache
                .retain(|pid, cached| cached.execution.is_some() && execution(*pid) == cached.execution);
            self.limit = (2 * self.cache.len()).max(64);
        }
        let patience = self.patience;
        let cached = self.cache.entry(pid).or_insert_with(|| Cached::look_up(pid, now_ns, patience));
        if now_ns.saturating_sub(cached.checked_ns) > TRUSTED_NS {
            match execution(pid) {
                // The process has ended: what is known of it stays true.
                None => {}
                same if same == cached.execution && !cached.details.lacks_program() => {
                    cached.checked_ns = now_ns;
                }
                _ => *cached = Cached::look_up(pid, now_ns, patience),
            }
        }
        cached
    }
}

impl ProcessInfo for LiveProcesses {
    fn holder_details(&self, pid: u32, named: Option<Named>) -> ProcessDetails {
        let details = process::look_up(pid, named, self.patience);
        if self.patience == Patience::Long && details.lacks_program() {
            self.unnamed.borrow_mut().insert(pid);
        }
        details
    }

    /// Returns `None` if another process has the pid by now, if the process has become another
    /// program since, or if it ended before it was ever looked up.
    fn actor_details(&mut self, pid: u32, comm: Option<&[u8]>, at_ns: u64) -> Option<&ProcessDetails> {
        let patience = self.patience;
        let cached = self.look_up_cached(pid, at_ns);
        let is_due = at_ns.saturating_sub(cached.looked_up_ns) >= RENAME_INTERVAL_NS;
        if !cached.is_named(comm) && is_due {
            *cached = Cached::look_up(pid, at_ns, patience);
        }
        let cached = &*cached;
        (cached.is_named(comm) && cached.started_ns <= at_ns).then_some(&cached.details)
    }

    /// Returns `None` if the process that has the pid now is younger.
    fn opener_details(&mut self, pid: u32, since_ns: u64, now_ns: u64) -> Option<&ProcessDetails> {
        let cached = &*self.look_up_cached(pid, now_ns);
        (cached.execution.is_some() && cached.started_ns <= since_ns).then_some(&cached.details)
    }

    fn process_id(&self, pid: u32, named: Option<Named>) -> ProcessId {
        proc_stat::process_id(pid, named)
    }

    fn process_stats(&self, id: ProcessId) -> Option<ProcessStats> {
        proc_stat::process_stats(id)
    }

    fn is_alive(&self, id: ProcessId) -> bool {
        start_ticks(id.pid) == Some(id.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_name() {
        let me = std::process::id();
        let comm = process::look_up(me, None, Patience::Long).comm.expect("we run");
        let mut processes = LiveProcesses::default();
        let now_ns = clock::monotonic_ns();
        let found = processes.actor_details(me, Some(&comm), now_ns).and_then(|found| found.exe.clone());
        let found = found.expect("it lives");
        let exe = std::env::current_exe().expect("we run");
        assert_eq!(*found, *exe.to_string_lossy());
        let found = processes.actor_details(me, None, now_ns).and_then(|found| found.comm.clone());
        assert_eq!(found, Some(comm.clone()));
        assert_eq!(processes.actor_details(me, Some(b"another"), now_ns), None, "not the one that acted");
        assert!(processes.actor_details(me, Some(&comm), now_ns).is_some(), "it is not forgotten");
        assert_eq!(processes.actor_details(me, Some(&comm), 1), None, "we did not start with the host");
    }

    #[test]
    fn a_new_name_is_looked_up_but_not_at_once() {
        let me = std::process::id();
        let comm = process::look_up(me, None, Patience::Long).comm.expect("we run");
        let mut processes = LiveProcesses::default();
        let now_ns = clock::monotonic_ns();
        processes.look_up_cached(me, now_ns).details.comm = Some(b"before".to_vec());
        let soon_ns = now_ns + RENAME_INTERVAL_NS - 1;
        assert_eq!(processes.actor_details(me, Some(&comm), soon_ns), None);
        let found = processes.actor_details(me, Some(&comm), soon_ns + 1);
        assert!(found.is_some_and(|found| found.exe.is_some()));
    }

    #[test]
    fn a_process_that_executes_another_script_is_called_by_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path.display().to_string()
        };
        let second = script("second.sh", "read -r line");
        let first = script("first.sh", &format!("read -r line; exec sh {second}"));
        let mut child = Command::new("sh").arg(&first).stdin(Stdio::piped()).spawn().expect("a shell");
        let pid = child.id();
        let mut processes = LiveProcesses::with_patience(Patience::Long);
        let mut program_at = |ns| {
            let details = processes.actor_details(pid, None, ns).expect("it lives");
            details.program.as_deref().unwrap_or_default().to_owned()
        };
        let now_ns = clock::monotonic_ns();
        while program_at(clock::monotonic_ns() + 2 * TRUSTED_NS) != "sh first.sh" {
            assert!(
                clock::monotonic_ns() < now_ns + 60_000_000_000,
                "the child has yet to execute its script"
            );
        }
        child.stdin.as_mut().expect("piped").write_all(b"\n").expect("it reads");
        while program_at(clock::monotonic_ns() + 5 * TRUSTED_NS) != "sh second.sh" {
            assert!(clock::monotonic_ns() < now_ns + 60_000_000_000, "it is still called by the first one");
        }
        child.kill().expect("a child may be killed");
        child.wait().expect("a child can be waited for");
    }

    #[test]
    fn a_younger_process_with_the_pid_is_not_the_one() {
        let me = std::process::id();
        let mut processes = LiveProcesses::default();
        let now_ns = clock::monotonic_ns();
        let found = processes.opener_details(me, now_ns, now_ns);
        assert!(found.is_some_and(|found| found.exe.is_some()));
        assert_eq!(processes.opener_details(me, 1, now_ns), None, "we did not start with the host");
    }

    #[test]
    fn processes_that_have_ended_are_removed_when_there_are_many() {
        let mut processes = LiveProcesses::default();
        let nobody = u32::MAX - 1000;
        for pid in nobody..nobody + 200 {
            assert_eq!(processes.actor_details(pid, None, 1), Some(&ProcessDetails::default()));
        }
        assert!(processes.cache.len() <= 64);
        let found = processes.actor_details(std::process::id(), None, clock::monotonic_ns());
        assert!(found.is_some_and(|found| found.exe.is_some()));
    }
}
