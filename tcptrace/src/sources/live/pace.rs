//! When the next walk may begin. It knows no clock: times are passed in.

/// Sockets that become due close to each other are judged by one walk: the next begins this much
/// later at the soonest, nanoseconds.
const SOONEST_NS: u64 = 50_000_000;

/// How much later it begins at the latest. With it a socket is reported within a second of its
/// threshold, whatever the walk before it took.
const LATEST_NS: u64 = 500_000_000;

/// How soon a walk is made again that failed or left out a namespace, nanoseconds. The wait doubles
/// each time.
const FIRST_RETRY_NS: u64 = 100_000_000;

/// How late at most.
const LAST_RETRY_NS: u64 = 5_000_000_000;

/// How often a walk that left something out is followed by another.
const FOLLOW_UPS: u32 = 8;

/// The times of walks.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// No walk to judge sockets before this.
    judging_ns: u64,
    /// No resync before this.
    resync_ns: u64,
    /// How many walks have failed since one succeeded.
    failed: u32,
    /// When to look again at what the last resync left out.
    follow_up_ns: Option<u64>,
    /// How many such looks there were since the last one that left out nothing, or the last loss.
    follow_ups: u32,
}

impl Pace {
    /// When a walk may begin that judges sockets of which one is due then.
    pub(crate) fn next_judging_ns(&self, due_ns: u64) -> u64 {
        due_ns.max(self.judging_ns)
    }

    /// When a resync may begin: judging does not hold it back.
    pub(crate) const fn next_resync_ns(&self) -> u64 {
        self.resync_ns
    }

    /// When to look again at what was left out, if anything was.
    pub(crate) fn next_follow_up_ns(&self) -> Option<u64> {
        self.follow_up_ns.map(|at| at.max(self.resync_ns))
    }

    /// A walk ended that took this much CPU time. Walks that judge take no more than a fifth of the
    /// time, unless sockets would be reported too late. Says whether it is the first one to succeed
    /// after some that failed.
    pub(crate) fn note_walk(&mut self, ended_ns: u64, cpu_ns: u64) -> bool {
        self.judging_ns = ended_ns.saturating_add(cpu_ns.saturating_mul(4).clamp(SOONEST_NS, LATEST_NS));
        // Transitions may be lost again at once: no more than half of the time.
        self.resync_ns = ended_ns.saturating_add(cpu_ns.clamp(SOONEST_NS, LATEST_NS));
        std::mem::take(&mut self.failed) > 0
    }

    /// A walk failed that may succeed later. Says whether it is the first one.
    pub(crate) fn note_failure(&mut self, now_ns: u64) -> bool {
        let again_ns = now_ns.saturating_add(backoff_ns(self.failed));
        (self.judging_ns, self.resync_ns) = (again_ns, again_ns);
        self.failed = self.failed.saturating_add(1);
        self.failed == 1
    }

    /// Transitions were lost: what the next look leaves out is looked at again, as often as after
    /// the first.
    pub(crate) const fn note_loss(&mut self) {
        self.follow_ups = 0;
    }

    /// A look at all sockets ended. `left_out`: whether it could not look everywhere.
    pub(crate) fn note_look(&mut self, ended_ns: u64, left_out: bool) {
        let again = left_out && self.follow_ups < FOLLOW_UPS;
        self.follow_up_ns = again.then(|| ended_ns.saturating_add(backoff_ns(self.follow_ups)));
        self.follow_ups = if left_out { self.follow_ups.saturating_add(1) } else { 0 };
    }
}

/// How long to wait after so many attempts.
fn backoff_ns(attempts: u32) -> u64 {
    FIRST_RETRY_NS.saturating_mul(1 << attempts.min(16)).min(LAST_RETRY_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    #[test]
    fn walks_that_judge_take_a_fifth_of_the_time_and_none_waits_for_long() {
        let mut pace = Pace::default();
        assert_eq!(pace.next_judging_ns(7), 7);
        for (cpu_ms, wait_ms) in
            [(0, 50), (1, 50), (20, 80), (100, 400), (125, 500), (400, 500), (60_000, 500)]
        {
            pace.note_walk(SECOND, cpu_ms * MS);
            assert_eq!(pace.next_judging_ns(0), SECOND + wait_ms * MS, "after a walk of {cpu_ms} ms");
        }
        assert_eq!(pace.next_judging_ns(9 * SECOND), 9 * SECOND, "none is due before");
    }

    #[test]
    fn judging_does_not_hold_back_a_resync() {
        let mut pace = Pace::default();
        pace.note_walk(SECOND, 100 * MS);
        assert_eq!((pace.next_judging_ns(0), pace.next_resync_ns()), (SECOND + 400 * MS, SECOND + 100 * MS));
        pace.note_walk(2 * SECOND, MS);
        assert_eq!(pace.next_resync_ns(), 2 * SECOND + 50 * MS, "resyncs do not follow each other at once");
        pace.note_walk(3 * SECOND, 60 * SECOND);
        assert_eq!(pace.next_resync_ns(), 3 * SECOND + 500 * MS);
    }

    #[test]
    fn a_walk_that_fails_is_made_again_later_and_later_and_both_ends_are_told_once() {
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for at in 1..=9 {
            assert_eq!(pace.note_failure(at * SECOND), at == 1);
            assert_eq!(pace.next_judging_ns(0), pace.next_resync_ns());
            waits.push((pace.next_judging_ns(0) - at * SECOND) / MS);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
        assert!(pace.note_walk(20 * SECOND, MS), "it works again");
        assert!(!pace.note_walk(21 * SECOND, MS), "it has been told");
        assert!(pace.note_failure(22 * SECOND));
        assert_eq!(pace.next_judging_ns(0), 22 * SECOND + 100 * MS);
    }

    #[test]
    fn what_was_left_out_is_looked_at_again_a_few_times() {
        let mut pace = Pace::default();
        pace.note_look(SECOND, false);
        assert_eq!(pace.next_follow_up_ns(), None);
        let mut waits = Vec::new();
        pace.note_look(SECOND, true);
        while let Some(at) = pace.next_follow_up_ns() {
            waits.push((at - SECOND) / MS);
            pace.note_look(SECOND, true);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        pace.note_loss();
        pace.note_look(SECOND, true);
        assert_eq!(pace.next_follow_up_ns(), Some(SECOND + 100 * MS));
        pace.note_look(SECOND, false);
        assert_eq!(pace.next_follow_up_ns(), None);
    }
}
