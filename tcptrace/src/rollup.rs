//! Rolls the stuck sockets up by process: how many each holds, since when the oldest is stuck, how fast they grow, and
//! when the process runs out of descriptors.
//!
//! Pure: findings, the time and what the system says of a process come in as arguments. A socket that several processes
//! hold counts in each of them, and once in a process that holds it by several descriptors; one that nobody has accepted
//! counts in those that hold its listener, but takes none of their descriptors. Memory is bounded by the
//! stuck sockets and the processes that hold or held one and still live.

mod growth;

use std::{cmp::Reverse, collections::BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::COMM_LEN;

use crate::age::Since;
use growth::Growth;

/// Between two roll-ups of the same process, nanoseconds.
pub const BETWEEN_NS: u64 = 10 * SECOND;

/// A share of the CPU is not told of a shorter time than this, nanoseconds.
const CPU_OVER_NS: u64 = SECOND;

const SECOND: u64 = 1_000_000_000;

/// A process, told from one that had the same pid before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its pid, as the host sees it.
    pub pid: u32,
    /// When it started, clock ticks since boot (`/proc/PID/stat`, field 22); 0 where that cannot be read.
    pub start_ticks: u64,
}

/// What the system says of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its name, NUL-padded; nothing else where it cannot be read.
    pub comm: [u8; COMM_LEN],
    /// CPU time it has used, nanoseconds, all threads, user and system.
    pub cpu_ns: u64,
    /// Whether it is stopped, by a signal or a debugger.
    pub stopped: bool,
    /// Open descriptors; `None` where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open at the most (the soft limit); `None` where that cannot be read.
    pub fds_limit: Option<u64>,
}

/// The roll-up of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rolled {
    /// Its name, NUL-padded, as it was last known.
    pub comm: Option<[u8; COMM_LEN]>,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether it is stopped, by a signal or a debugger.
    pub stopped: bool,
    /// Sockets found stuck, not cleared, that it holds or does not accept.
    pub stuck: usize,
    /// Age of the oldest of them, nanoseconds, as far as it is proven.
    pub oldest_ns: Option<u64>,
    /// Net growth of their number per minute; `None` where it has been watched for too short a time to say.
    pub growth_per_min: Option<f64>,
    /// Open descriptors; `None` where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open at the most (the soft limit); `None` where that cannot be read.
    pub fds_limit: Option<u64>,
    /// In how many seconds its descriptors run out at that growth; `None` where it does not grow, or where they cannot
    /// be counted.
    pub fds_full_in_s: Option<f64>,
    /// The CPU time it has used since the last roll-up, as a part of one CPU: `1.0` is all of one.
    pub busy: Option<f64>,
}

/// All processes that hold stuck sockets.
#[derive(Debug)]
pub struct Rollup {
    /// When tracing began, `CLOCK_MONOTONIC` nanoseconds.
    began_ns: u64,
    threshold_ns: u64,
    sockets: FxHashMap<u64, Held>,
    processes: FxHashMap<ProcessId, Process>,
    /// How many processes there may be before it pays to look which of them have ended.
    room: usize,
}

/// A stuck socket.
#[derive(Debug)]
struct Held {
    since_ns: u64,
    by: Vec<ProcessId>,
    /// Whether each of them has a descriptor of it.
    has_fd: bool,
}

#[derive(Debug)]
struct Process {
    /// (since when, cookie) of its stuck sockets: the first is the oldest.
    stuck: BTreeSet<(u64, u64)>,
    growth: Growth,
    /// The growth of those for which it has a descriptor.
    fd_growth: Growth,
    /// Whether its roll-up is wanted.
    shown: bool,
    /// Whether it has more or fewer than were told, or other ones.
    changed: bool,
    told_ns: Option<u64>,
    comm: Option<[u8; COMM_LEN]>,
    /// (CPU time, when) as they were last told.
    cpu: Option<(u64, u64)>,
}

impl Rollup {
    /// No process yet. Tracing began at `began_ns`, and a socket is stuck after `threshold_ns`.
    pub fn new(began_ns: u64, threshold_ns: u64) -> Self {
        Self {
            began_ns,
            threshold_ns,
            sockets: FxHashMap::default(),
            processes: FxHashMap::default(),
            room: 64,
        }
    }

    /// Tracing begins anew at `began_ns`.
    pub fn begin(&mut self, began_ns: u64) {
        *self = Self::new(began_ns, self.threshold_ns);
    }

    /// A socket has been found stuck, for the first time or again: since when it is in its state, when it was seen
    /// there, and which processes are answerable for it, in any order and each as often as it likes. `has_fd`: whether
    /// they hold it, or only the listener in whose queue it is.
    pub fn stuck(&mut self, cookie: u64, since: Since, seen_ns: u64, holders: &[ProcessId], has_fd: bool) {
        let since_ns = since.latest_ns();
        let mut by = holders.to_vec();
        by.sort_unstable();
        by.dedup();
        let known = self.sockets.insert(cookie, Held { since_ns, by, has_fd });
        let is_new = known.is_none();
        let before = known.unwrap_or(Held { since_ns, by: Vec::new(), has_fd });
        let was_since_ns = before.since_ns;
        let now = &self.sockets[&cookie].by;
        // What was there before the start is the base that growth comes on top of; so is what a process was handed.
        let stuck_ns =
            since.exact_ns().filter(|_| is_new).map(|entered| entered.saturating_add(self.threshold_ns));
        for id in now {
            let (began_ns, first_ns) = (self.began_ns.saturating_add(self.threshold_ns), stuck_ns);
            let process = self.processes.entry(*id).or_insert_with(|| Process::new(began_ns));
            if process.stuck.is_empty() {
                // However long it had none before: how fast it grows is how fast this leak grows.
                let begin = || first_ns.map_or_else(|| Growth::since(began_ns), Growth::since_first);
                (process.growth, process.fd_growth) = (begin(), begin());
            }
            if !is_new {
                process.stuck.remove(&(was_since_ns, cookie));
            }
            process.stuck.insert((since_ns, cookie));
            process.changed = true;
            if let Some(stuck_ns) = stuck_ns {
                process.grow(stuck_ns, 1, has_fd);
            }
        }
        for id in before.by.iter().filter(|id| !now.contains(id)) {
            if let Some(process) = self.processes.get_mut(id) {
                process.loses((was_since_ns, cookie), seen_ns, before.has_fd);
            }
        }
    }

    /// The roll-up of this process is wanted: a record about one of its sockets has been reported.
    pub fn show(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.shown = true;
        }
    }

    /// A socket that was reported stuck no longer is.
    pub fn cleared(&mut self, cookie: u64, at_ns: u64) {
        let Some(Held { since_ns, by, has_fd }) = self.sockets.remove(&cookie) else { return };
        for id in by {
            if let Some(process) = self.processes.get_mut(&id) {
                process.loses((since_ns, cookie), at_ns, has_fd);
            }
        }
    }

    /// When the next roll-up is due, `CLOCK_MONOTONIC` nanoseconds; 0 where one has never been told.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.processes.values().filter_map(Process::due_ns).min()
    }

    /// The processes whose roll-up is wanted and due, by pid.
    pub fn due(&self, now_ns: u64) -> Vec<ProcessId> {
        self.which(|process| process.due_ns().is_some_and(|due| due <= now_ns))
    }

    /// All processes whose roll-up is wanted, by pid.
    pub fn all(&self) -> Vec<ProcessId> {
        self.which(|process| process.shown)
    }

    fn which(&self, wanted: impl Fn(&Process) -> bool) -> Vec<ProcessId> {
        let wanted = self.processes.iter().filter(|(_, process)| wanted(process));
        let mut ids: Vec<_> = wanted.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Rolls up one process. `condition` is what the system says of it now; a process of which it says nothing has
    /// ended: this is its last roll-up, it holds nothing any more, and it is forgotten.
    pub fn roll(&mut self, id: ProcessId, condition: Option<&Condition>, now_ns: u64) -> Option<Rolled> {
        let Some(condition) = condition else {
            let Process { comm, .. } = self.processes.remove(&id)?;
            return Some(Rolled { comm, ended: true, ..Rolled::default() });
        };
        let process = self.processes.get_mut(&id)?;
        process.comm = process.name(condition);
        process.changed = false;
        process.told_ns = Some(now_ns);
        let busy = process.busy(condition.cpu_ns, now_ns);
        Some(Rolled { busy, ..process.rolled(condition, now_ns) })
    }

    /// What [`Self::roll`] would say of a process now, but for its share of the CPU; nothing changes by it. `condition` is
    /// what the system says of it now.
    pub fn look(&self, id: ProcessId, condition: &Condition, now_ns: u64) -> Option<Rolled> {
        Some(self.processes.get(&id)?.rolled(condition, now_ns))
    }

    /// The processes with stuck sockets whose roll-up is wanted, those with the most first; one for a pid.
    pub fn by_stuck(&self) -> Vec<ProcessId> {
        let mut ids = self.which(|process| process.shown && !process.stuck.is_empty());
        ids.sort_by_key(|id| Reverse(self.processes[id].stuck.len()));
        let mut pids = FxHashSet::default();
        ids.retain(|id| pids.insert(id.pid));
        ids
    }

    /// Forgets processes without stuck sockets that have ended, now and then: when there are twice as many processes as
    /// when it last did.
    pub fn forget_ended(&mut self, lives: impl Fn(ProcessId) -> bool) {
        if self.processes.len() >= self.room {
            self.processes
                .retain(|id, process| !process.stuck.is_empty() || process.due_ns().is_some() || lives(*id));
            self.room = (2 * self.processes.len()).max(64);
        }
    }
}

impl Process {
    fn new(began_ns: u64) -> Self {
        Self {
            stuck: BTreeSet::new(),
            growth: Growth::since(began_ns),
            fd_growth: Growth::since(began_ns),
            shown: false,
            changed: false,
            told_ns: None,
            comm: None,
            cpu: None,
        }
    }

    fn loses(&mut self, socket: (u64, u64), at_ns: u64, has_fd: bool) {
        if self.stuck.remove(&socket) {
            self.grow(at_ns, -1, has_fd);
            self.changed = true;
        }
    }

    fn grow(&mut self, at_ns: u64, change: i64, has_fd: bool) {
        self.growth.add(at_ns, change);
        if has_fd {
            self.fd_growth.add(at_ns, change);
        }
    }

    /// Its name, as it is now or was last known.
    fn name(&self, condition: &Condition) -> Option<[u8; COMM_LEN]> {
        Some(condition.comm).filter(|comm| *comm != [0; COMM_LEN]).or(self.comm)
    }

    /// Its roll-up, but for what depends on the one before.
    fn rolled(&self, condition: &Condition, now_ns: u64) -> Rolled {
        let Condition { stopped, fds_open, fds_limit, .. } = *condition;
        let free = fds_limit.zip(fds_open).map(|(limit, open)| limit.saturating_sub(open));
        let fds_per_min = self.fd_growth.per_minute(now_ns).filter(|growth| *growth > 0.0);
        let per_second = fds_per_min.map(|growth| growth / 60.0);
        Rolled {
            comm: self.name(condition),
            ended: false,
            stopped,
            fds_open,
            fds_limit,
            stuck: self.stuck.len(),
            oldest_ns: self.stuck.first().map(|(since, _)| now_ns.saturating_sub(*since)),
            growth_per_min: self.growth.per_minute(now_ns),
            fds_full_in_s: free.zip(per_second).map(|(free, per_second)| free as f64 / per_second),
            busy: None,
        }
    }

    fn due_ns(&self) -> Option<u64> {
        (self.changed && self.shown).then(|| self.told_ns.map_or(0, |told| told.saturating_add(BETWEEN_NS)))
    }

    fn busy(&mut self, cpu_ns: u64, now_ns: u64) -> Option<f64> {
        let Some((cpu_before, before_ns)) = self.cpu else {
            self.cpu = Some((cpu_ns, now_ns));
            return None;
        };
        let over_ns = now_ns.saturating_sub(before_ns);
        if over_ns < CPU_OVER_NS {
            return None;
        }
        self.cpu = Some((cpu_ns, now_ns));
        Some(cpu_ns.saturating_sub(cpu_before) as f64 / over_ns as f64)
    }
}

#[cfg(test)]
mod tests;
