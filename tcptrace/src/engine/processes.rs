//! Rolls the stuck sockets up by process: how many each holds, since when the oldest is stuck, how
//! fast they grow, and when the process runs out of descriptors.
//!
//! Pure: findings, the time and what the system says of a process come in as arguments. A socket
//! that several processes hold counts in each of them, and once in a process that holds it by
//! several descriptors; one that nobody has accepted counts in those that hold its listener. When
//! descriptors run out follows from samples of all descriptors of the process, whatever they are.
//! Memory is bounded by the stuck sockets and the processes that hold or held one and still live.

pub mod growth;
pub mod sharing;
pub mod trend;

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeSet,
};

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::COMM_LEN;

use self::{
    growth::{Changes, Samples},
    trend::Trend,
};
use crate::{clock::SECOND_NS, engine::age::Since, events::Owner};

/// Between two roll-ups of the same process, nanoseconds.
pub const BETWEEN_NS: u64 = 10 * SECOND_NS;

/// A roll-up waits until no socket has been added or cleared for so long, nanoseconds: it counts a
/// whole batch.
const SETTLED_NS: u64 = 300_000_000;

/// A roll-up waits no longer than this for that, nanoseconds.
const SETTLING_NS: u64 = SECOND_NS;

/// Between two samples of a process's descriptors, nanoseconds: (if nothing has moved for so long,
/// every so often).
const SAMPLING_NS: [(u64, u64); 3] =
    [(600 * SECOND_NS, 30 * SECOND_NS), (60 * SECOND_NS, 10 * SECOND_NS), (0, SAMPLING_STEP_NS)];

/// Samples are taken at multiples of this, nanoseconds, so that one wake-up serves all processes.
const SAMPLING_STEP_NS: u64 = 2 * SECOND_NS;

/// When descriptors run out is not said of a process that has been watched for less than this,
/// nanoseconds, unless they run out sooner than that: one that has just started opens many, and
/// closes them later.
const FORECAST_AFTER_NS: u64 = 60 * SECOND_NS;

/// A share of the CPU is not told of a shorter time than this, nanoseconds.
const CPU_OVER_NS: u64 = SECOND_NS;

/// A process, told from one that had the same pid before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its pid, as the host sees it.
    pub pid: u32,
    /// When it started, clock ticks since boot (`/proc/PID/stat`, field 22); 0 where that cannot be
    /// read.
    pub start_ticks: u64,
}

/// What the system says of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessStats {
    /// Its name, NUL-padded; nothing else where it cannot be read.
    pub comm: [u8; COMM_LEN],
    /// CPU time it has used, nanoseconds, all threads, user and system.
    pub cpu_ns: u64,
    /// Stopped by a signal or a debugger.
    pub stopped: bool,
    /// Open descriptors; `None` where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open at the most (the soft limit); `None` where that cannot be read.
    pub fds_limit: Option<u64>,
}

/// The roll-up of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessRollup {
    /// Its name, NUL-padded, as it was last known.
    pub comm: Option<[u8; COMM_LEN]>,
    /// Whether it has ended.
    pub ended: bool,
    /// Stopped by a signal or a debugger.
    pub stopped: bool,
    /// Sockets found stuck, not cleared, that it holds or does not accept.
    pub stuck: usize,
    /// Age of the oldest of them, nanoseconds, as far as it is proven.
    pub oldest_ns: Option<u64>,
    /// How many of them are charged to other processes as well.
    pub shared: usize,
    /// Net growth of their number per minute, now; `None` if it has been watched for too short a
    /// time.
    pub growth_per_min: Option<f64>,
    /// Open descriptors; `None` where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open at the most (the soft limit); `None` where that cannot be read.
    pub fds_limit: Option<u64>,
    /// Net growth of the number of its descriptors per minute, now; `None` if that has been
    /// watched for too short a time.
    pub fds_growth_per_min: Option<f64>,
    /// In how many seconds its descriptors run out; 0 if they have. `None` if they do not grow, or
    /// cannot be counted.
    pub fds_full_in_s: Option<f64>,
    /// The CPU time it has used since the last roll-up, as a part of one CPU: `1.0` is all of one.
    pub busy: Option<f64>,
}

/// All processes that hold stuck sockets.
#[derive(Debug)]
pub struct Processes {
    /// When tracing began, `CLOCK_MONOTONIC` nanoseconds.
    began_ns: u64,
    threshold_ns: u64,
    sockets: FxHashMap<u64, Held>,
    by_id: FxHashMap<ProcessId, Process>,
    /// No sample is taken before this, `CLOCK_MONOTONIC` nanoseconds.
    resting_until_ns: u64,
    /// How many processes there may be before it pays to look which of them have ended.
    room: usize,
}

/// A stuck socket.
#[derive(Debug)]
struct Held {
    since_ns: u64,
    by: Vec<ProcessId>,
}

#[derive(Debug)]
struct Process {
    /// (since when, cookie) of its stuck sockets: the first is the oldest.
    stuck: BTreeSet<(u64, u64)>,
    growth: Changes,
    /// How many descriptors it had open.
    fds: Samples,
    /// Whether its descriptors have run out, or nearly all of them since they did.
    is_full: bool,
    /// When its descriptors are to be counted next, `CLOCK_MONOTONIC` nanoseconds.
    sample_due_ns: u64,
    /// When its stuck sockets or its descriptors last became more or fewer, likewise.
    moved_ns: u64,
    /// Whether its roll-up is wanted.
    shown: bool,
    /// What has happened since the last roll-up, if anything.
    news: Option<News>,
    told: Option<Told>,
    comm: Option<[u8; COMM_LEN]>,
    /// What the last record of one of its sockets said of it.
    owner: Option<Owner>,
    /// (CPU time, when) as they were last told.
    cpu: Option<(u64, u64)>,
}

/// When something happened that the next roll-up tells: the first of it and the last,
/// `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug)]
struct News {
    first_ns: u64,
    last_ns: u64,
}

/// The last roll-up.
#[derive(Clone, Copy, Debug)]
struct Told {
    at_ns: u64,
    outlook: Outlook,
}

/// What a reader expects of a process after its roll-up.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    /// Whether its stuck sockets become more, or fewer.
    stuck: Ordering,
    /// When its descriptors run out, `CLOCK_MONOTONIC` nanoseconds; 0 if they have.
    full_ns: Option<u64>,
}

impl Outlook {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates: what is far away stays far away"
    )]
    fn of(rolled: &ProcessRollup, now_ns: u64) -> Self {
        let full_ns = |seconds: f64| match seconds {
            0.0 => 0,
            _ => now_ns.saturating_add((seconds * SECOND_NS as f64) as u64),
        };
        Self {
            stuck: rolled.growth_per_min.unwrap_or(0.0).total_cmp(&0.0),
            full_ns: rolled.fds_full_in_s.map(full_ns),
        }
    }

    /// Tells two outlooks apart: a quarter sooner or later is another one.
    fn differs_from(self, other: Self, now_ns: u64) -> bool {
        let full = match (self.full_ns, other.full_ns) {
            (None, None) | (Some(0), Some(0)) => false,
            (Some(one), Some(other)) if one.min(other) > 0 => {
                let left_ns = one.max(other).saturating_sub(now_ns);
                one.abs_diff(other) > (left_ns / 4).max(5 * SECOND_NS)
            }
            _ => true,
        };
        full || self.stuck != other.stuck
    }
}

impl Processes {
    /// No process yet. Tracing began at `began_ns`, and a socket is stuck after `threshold_ns`.
    pub fn new(began_ns: u64, threshold_ns: u64) -> Self {
        Self {
            began_ns,
            threshold_ns,
            sockets: FxHashMap::default(),
            by_id: FxHashMap::default(),
            resting_until_ns: 0,
            room: 64,
        }
    }

    /// Tracing begins anew at `began_ns`.
    pub fn restart_at(&mut self, began_ns: u64) {
        *self = Self::new(began_ns, self.threshold_ns);
    }

    /// Adds a socket that has been found stuck, for the first time or again: since when it is in
    /// its state, when it was seen there, and which processes are answerable for it, in any order
    /// and each as often as it likes. They hold it, or the listener in whose queue it is.
    pub fn add_stuck(&mut self, cookie: u64, since: Since, seen_ns: u64, holders: &[ProcessId]) {
        let since_ns = since.latest_ns();
        let mut by = holders.to_vec();
        by.sort_unstable();
        by.dedup();
        let known = self.sockets.insert(cookie, Held { since_ns, by });
        let is_new = known.is_none();
        let before = known.unwrap_or(Held { since_ns, by: Vec::new() });
        let was_since_ns = before.since_ns;
        let now = &self.sockets[&cookie].by;
        // What was there before the start is the base that growth comes on top of; so is what a
        // process was handed.
        let stuck_ns =
            since.exact_ns().filter(|_| is_new).map(|entered| entered.saturating_add(self.threshold_ns));
        for id in now {
            let (began_ns, first_ns) = (self.began_ns.saturating_add(self.threshold_ns), stuck_ns);
            let process = self.by_id.entry(*id).or_insert_with(|| Process::new(began_ns));
            if process.stuck.is_empty() {
                // However long it had none before: how fast it grows is how fast this leak grows.
                process.growth = Changes::starting_at(first_ns.unwrap_or(began_ns));
                process.forget_old_samples(seen_ns);
            }
            if !is_new {
                process.stuck.remove(&(was_since_ns, cookie));
            }
            process.stuck.insert((since_ns, cookie));
            process.note_change(seen_ns);
            if let Some(stuck_ns) = stuck_ns {
                process.growth.add(stuck_ns, 1);
            }
        }
        for id in before.by.iter().filter(|id| !now.contains(id)) {
            if let Some(process) = self.by_id.get_mut(id) {
                process.remove_stuck((was_since_ns, cookie), seen_ns);
            }
        }
    }

    /// The roll-up of this process is wanted: a record about one of its sockets has been reported.
    pub fn mark_reported(&mut self, id: ProcessId) {
        if let Some(process) = self.by_id.get_mut(&id) {
            process.shown = true;
        }
    }

    /// Keeps what the record of one of its sockets says of this process.
    pub fn keep_owner(&mut self, id: ProcessId, owner: &Owner) {
        if let Some(process) = self.by_id.get_mut(&id)
            && process.owner.as_ref().is_none_or(|known| known.exe != owner.exe)
        {
            process.owner = Some(owner.clone());
        }
    }

    /// What the last record of one of its sockets said of this process.
    pub fn owner_of(&self, id: ProcessId) -> Option<&Owner> {
        self.by_id.get(&id)?.owner.as_ref()
    }

    /// A socket that was reported stuck no longer is.
    pub fn clear_socket(&mut self, cookie: u64, at_ns: u64) {
        let Some(Held { since_ns, by }) = self.sockets.remove(&cookie) else { return };
        for id in by {
            if let Some(process) = self.by_id.get_mut(&id) {
                process.remove_stuck((since_ns, cookie), at_ns);
            }
        }
    }

    /// When the next roll-up is due, `CLOCK_MONOTONIC` nanoseconds.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.by_id.values().filter_map(Process::due_ns).min()
    }

    /// When descriptors are to be counted next, `CLOCK_MONOTONIC` nanoseconds; 0 where they have
    /// never been.
    pub fn next_sample_ns(&self) -> Option<u64> {
        let due = self.by_id.values().filter(|process| process.is_sampled());
        due.map(|process| process.sample_due_ns.max(self.resting_until_ns)).min()
    }

    /// The processes whose descriptors are to be counted by now, those that have waited longest
    /// first.
    pub fn due_samples(&self, now_ns: u64) -> Vec<ProcessId> {
        if now_ns < self.resting_until_ns {
            return Vec::new();
        }
        let mut ids = self.ids_where(|process| process.is_sampled() && process.sample_due_ns <= now_ns);
        ids.sort_by_key(|id| self.by_id[id].sample_due_ns);
        ids
    }

    /// Takes in what the system says of a process now, as [`Self::roll_up`] does, without a
    /// roll-up. The next roll-up is due if what the last one made expect is no longer so.
    pub fn apply_sample(&mut self, id: ProcessId, condition: Option<&ProcessStats>, now_ns: u64) {
        let Some(process) = self.by_id.get_mut(&id) else { return };
        let Some(condition) = condition else {
            // It has ended: the next roll-up is its last.
            process.sample_due_ns = u64::MAX;
            return process.note_change(now_ns);
        };
        process.apply_stats(condition, now_ns);
        if let Some(told) = process.told {
            let rolled = process.make_rollup(condition, &self.sockets, now_ns);
            if told.outlook.differs_from(Outlook::of(&rolled, now_ns), now_ns) {
                process.add_news(now_ns);
            }
        }
    }

    /// Takes no sample before that time.
    pub const fn rest_until(&mut self, ns: u64) {
        self.resting_until_ns = ns;
    }

    /// The processes whose roll-up is wanted and due, by pid.
    pub fn due_roll_ups(&self, now_ns: u64) -> Vec<ProcessId> {
        self.ids_where(|process| process.due_ns().is_some_and(|due| due <= now_ns))
    }

    /// All processes whose roll-up is wanted, by pid.
    pub fn all_reported(&self) -> Vec<ProcessId> {
        self.ids_where(|process| process.shown)
    }

    fn ids_where(&self, wanted: impl Fn(&Process) -> bool) -> Vec<ProcessId> {
        let wanted = self.by_id.iter().filter(|(_, process)| wanted(process));
        let mut ids: Vec<_> = wanted.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Rolls up one process. `condition` is what the system says of it now; a process of which it
    /// says nothing has ended: this is its last roll-up, it holds nothing any more, and it is
    /// forgotten.
    pub fn roll_up(
        &mut self,
        id: ProcessId,
        condition: Option<&ProcessStats>,
        now_ns: u64,
    ) -> Option<ProcessRollup> {
        let Some(condition) = condition else {
            let Process { comm, stuck, .. } = self.by_id.remove(&id)?;
            for (_, cookie) in stuck {
                if let Some(held) = self.sockets.get_mut(&cookie) {
                    held.by.retain(|by| *by != id);
                }
            }
            return Some(ProcessRollup { comm, ended: true, ..ProcessRollup::default() });
        };
        let process = self.by_id.get_mut(&id)?;
        process.apply_stats(condition, now_ns);
        let rolled = process.make_rollup(condition, &self.sockets, now_ns);
        process.news = None;
        process.told = Some(Told { at_ns: now_ns, outlook: Outlook::of(&rolled, now_ns) });
        let busy = process.take_busy_share(condition.cpu_ns, now_ns);
        Some(ProcessRollup { busy, ..rolled })
    }

    /// What [`Self::roll_up`] would say of a process now, but for its share of the CPU; nothing
    /// changes by it. `condition` is what the system says of it now.
    pub fn preview_roll_up(
        &self,
        id: ProcessId,
        condition: &ProcessStats,
        now_ns: u64,
    ) -> Option<ProcessRollup> {
        Some(self.by_id.get(&id)?.make_rollup(condition, &self.sockets, now_ns))
    }

    /// The processes with stuck sockets whose roll-up is wanted, those with the most first; one for
    /// a pid.
    pub fn by_stuck(&self) -> Vec<ProcessId> {
        let mut ids = self.ids_where(|process| process.shown && !process.stuck.is_empty());
        ids.sort_by_key(|id| Reverse(self.by_id[id].stuck.len()));
        let mut pids = FxHashSet::default();
        ids.retain(|id| pids.insert(id.pid));
        ids
    }

    /// Forgets processes without stuck sockets that have ended, now and then: when there are twice
    /// as many processes as when it last did.
    pub fn forget_ended(&mut self, lives: impl Fn(ProcessId) -> bool) {
        if self.by_id.len() >= self.room {
            self.by_id
                .retain(|id, process| !process.stuck.is_empty() || process.due_ns().is_some() || lives(*id));
            self.room = (2 * self.by_id.len()).max(64);
        }
    }
}

impl Process {
    fn new(began_ns: u64) -> Self {
        Self {
            stuck: BTreeSet::new(),
            growth: Changes::starting_at(began_ns),
            fds: Samples::default(),
            is_full: false,
            sample_due_ns: 0,
            moved_ns: 0,
            shown: false,
            news: None,
            told: None,
            comm: None,
            owner: None,
            cpu: None,
        }
    }

    fn remove_stuck(&mut self, socket: (u64, u64), at_ns: u64) {
        if self.stuck.remove(&socket) {
            self.growth.add(at_ns, -1);
            self.note_change(at_ns);
        }
    }

    /// Notes that its stuck sockets are others than before.
    fn note_change(&mut self, at_ns: u64) {
        self.add_news(at_ns);
        if at_ns > self.moved_ns {
            self.moved_ns = at_ns;
            // What was quiet is no longer.
            self.sample_due_ns = self.sample_due_ns.min(next_step_after(at_ns, SAMPLING_STEP_NS));
        }
    }

    fn add_news(&mut self, at_ns: u64) {
        let first_ns = self.news.map_or(at_ns, |news| news.first_ns);
        self.news = Some(News { first_ns, last_ns: at_ns });
    }

    /// Takes in what the system says of it now.
    fn apply_stats(&mut self, condition: &ProcessStats, now_ns: u64) {
        self.comm = self.latest_name(condition);
        if let Some(open) = condition.fds_open
            && self.fds.add(now_ns, open)
        {
            self.moved_ns = self.moved_ns.max(now_ns);
        }
        self.is_full = self.is_full(condition);
        let still_ns = now_ns.saturating_sub(self.moved_ns);
        let between_ns = SAMPLING_NS.iter().find(|(least_ns, _)| still_ns >= *least_ns);
        self.sample_due_ns =
            next_step_after(now_ns, between_ns.map_or(SAMPLING_STEP_NS, |(_, between_ns)| *between_ns));
    }

    /// Forgets samples from before a time in which none were taken.
    fn forget_old_samples(&mut self, now_ns: u64) {
        let longest_ns = SAMPLING_NS[0].1;
        if self.fds.last_ns().is_some_and(|last| now_ns.saturating_sub(last) > 2 * longest_ns) {
            self.fds = Samples::default();
        }
    }

    /// Whether its descriptors have run out. One that fails for want of descriptors closes and
    /// opens some: a few free ones are no end of that.
    fn is_full(&self, condition: &ProcessStats) -> bool {
        condition.fds_open.zip(condition.fds_limit).is_some_and(|(open, limit)| {
            let few = if self.is_full { (limit / 100).max(2) } else { 0 };
            open.saturating_add(few) >= limit
        })
    }

    /// Its name, as it is now or was last known.
    fn latest_name(&self, condition: &ProcessStats) -> Option<[u8; COMM_LEN]> {
        Some(condition.comm).filter(|comm| *comm != [0; COMM_LEN]).or(self.comm)
    }

    /// Its roll-up, but for what depends on the one before.
    fn make_rollup(
        &self,
        condition: &ProcessStats,
        sockets: &FxHashMap<u64, Held>,
        now_ns: u64,
    ) -> ProcessRollup {
        let ProcessStats { stopped, fds_open, fds_limit, .. } = *condition;
        let is_shared = |(_, cookie): &&(u64, u64)| sockets.get(cookie).is_some_and(|held| held.by.len() > 1);
        let per_minute = |trend: Option<Trend>| trend.map(|trend| trend.per_second * 60.0);
        let fds = fds_open.and_then(|_| self.fds.fit_trend(now_ns));
        ProcessRollup {
            comm: self.latest_name(condition),
            ended: false,
            stopped,
            fds_open,
            fds_limit,
            stuck: self.stuck.len(),
            shared: self.stuck.iter().filter(is_shared).count(),
            oldest_ns: self.stuck.first().map(|(since, _)| now_ns.saturating_sub(*since)),
            growth_per_min: per_minute(self.growth.fit_trend(now_ns)),
            fds_growth_per_min: per_minute(fds),
            fds_full_in_s: if self.is_full(condition) {
                Some(0.0)
            } else {
                fds.and_then(|fds| self.full_in_s(&fds, condition, now_ns))
            },
            busy: None,
        }
    }

    fn full_in_s(&self, fds: &Trend, condition: &ProcessStats, now_ns: u64) -> Option<f64> {
        let (open, limit) = condition.fds_open.zip(condition.fds_limit)?;
        let seconds = fds.seconds_until(limit.saturating_sub(open) as f64)?;
        let is_known = self.fds.watched_ns(now_ns) >= FORECAST_AFTER_NS
            || seconds * SECOND_NS as f64 <= FORECAST_AFTER_NS as f64;
        // 0 says that they have run out.
        is_known.then_some(seconds.max(1.0))
    }

    /// Whether its descriptors are counted now and then.
    fn is_sampled(&self) -> bool {
        self.shown && !self.stuck.is_empty()
    }

    fn due_ns(&self) -> Option<u64> {
        let News { first_ns, last_ns } = self.news.filter(|_| self.shown)?;
        let settled_ns = last_ns.saturating_add(SETTLED_NS).min(first_ns.saturating_add(SETTLING_NS));
        Some(self.told.map_or(settled_ns, |told| settled_ns.max(told.at_ns.saturating_add(BETWEEN_NS))))
    }

    fn take_busy_share(&mut self, cpu_ns: u64, now_ns: u64) -> Option<f64> {
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

/// The first time after `now_ns` at which samples are taken again, so many nanoseconds later or
/// somewhat less.
const fn next_step_after(now_ns: u64, between_ns: u64) -> u64 {
    (now_ns / SAMPLING_STEP_NS + between_ns / SAMPLING_STEP_NS).saturating_mul(SAMPLING_STEP_NS)
}

#[cfg(test)]
mod tests;
