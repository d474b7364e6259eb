//! Decides which skips are losses. It only works on counts and times.

use std::{mem, time::Duration};

/// How long a skip has until a fallback program must have recorded it, nanoseconds.
const FALLBACK_NS: u64 = as_ns(Duration::from_millis(1));

/// How often suspected losses are reported at most, nanoseconds. Each report causes a walk, and a
/// busy host that spreads its packets over CPUs (RPS) skips a hundred programs a second, none of
/// which matters.
const SUSPICION_INTERVAL_NS: u64 = as_ns(Duration::from_secs(1));

/// How often the counters are read if no record may follow a loss, nanoseconds.
const POLL_NS: u64 = as_ns(Duration::from_secs(5));

#[expect(clippy::cast_possible_truncation, reason = "the durations above are seconds")]
const fn as_ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// How often the first program was skipped, less what the fallbacks recorded, and how often the
/// last program was skipped.
pub(crate) type Missed = [u64; 2];

/// Computes how many skips were lost at most.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// The number of skips that were lost before the last program was attached.
    settled: u64,
    /// The counts at that time.
    base: Missed,
}

impl Skipped {
    /// Returns how many skips no fallback has recorded.
    pub(crate) fn total_lost(&self, now: Missed) -> u64 {
        let [first, last] = [0, 1].map(|which| now[which].saturating_sub(self.base[which]));
        self.settled + first.min(last)
    }

    /// Notes that one more program is attached. `before` and `after` are the counts when the
    /// program before it counts as the last one, and when it does itself.
    pub(crate) fn settle_attachment(&mut self, before: Missed, after: Missed) {
        *self = Self { settled: self.total_lost(before), base: after };
    }
}

/// Decides when a growing count of skips is a loss, and when to read the counters next.
///
/// A fallback may record a skip in the next moment, so a count stands only once it was read again
/// later.
#[derive(Debug, Default)]
pub(crate) struct LossReader {
    /// Whether skips are only suspected losses.
    only_suspects: bool,
    /// Whether nothing is attached any more, so that no fallback can record anything.
    is_closed: bool,
    /// The number of losses that were reported.
    reported: u64,
    /// A higher count, and when it was first read.
    pending: Option<(u64, u64)>,
    /// The number of suspected losses that were not reported yet.
    suspected: u64,
    /// When the next suspicion may be reported.
    suspicion_due_ns: u64,
    /// When the counters were last read.
    read_ns: u64,
}

impl LossReader {
    /// Starts with no skips. `only_suspects`: whether skips are only suspected losses.
    pub(crate) fn new(only_suspects: bool) -> Self {
        Self { only_suspects, ..Self::default() }
    }

    /// Notes that nothing is attached any more.
    pub(crate) const fn close(&mut self) {
        self.is_closed = true;
    }

    /// Takes the number of skips that no fallback has recorded. Returns the new losses and the new
    /// suspected ones.
    pub(crate) fn count_new(&mut self, total: u64, now_ns: u64) -> (u64, u64) {
        self.read_ns = now_ns;
        let lost = match self.pending {
            _ if self.is_closed => total,
            // A fallback may yet record some of what has been skipped since then.
            Some((count, since_ns)) if now_ns >= since_ns + FALLBACK_NS => {
                self.pending = None;
                total.min(count)
            }
            _ => self.reported,
        };
        let new = lost.saturating_sub(self.reported);
        self.reported += new;
        if total <= self.reported {
            self.pending = None;
        } else if self.pending.is_none() && !self.is_closed {
            self.pending = Some((total, now_ns));
        }
        if !self.only_suspects {
            return (new, 0);
        }
        self.suspected += new;
        if self.suspected == 0 || (now_ns < self.suspicion_due_ns && !self.is_closed) {
            return (0, 0);
        }
        self.suspicion_due_ns = now_ns + SUSPICION_INTERVAL_NS;
        (0, mem::take(&mut self.suspected))
    }

    /// Returns when to read next if no record comes before. `may_skip`: whether the kernel skips
    /// programs.
    pub(crate) fn due_ns(&self, may_skip: bool) -> Option<u64> {
        if self.is_closed {
            return None;
        }
        let settles = self.pending.map(|(_, since_ns)| since_ns + FALLBACK_NS);
        let suspects = (self.suspected > 0).then_some(self.suspicion_due_ns);
        let polls = (self.only_suspects && may_skip).then(|| self.read_ns + POLL_NS);
        [settles, suspects, polls].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_is_no_more_than_the_last_program_missed() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.total_lost([3, 3]), 3, "there is one program");
        // From here on, the fallback has seen what the first program missed if it was watched.
        skipped.settle_attachment([3, 3], [3, 0]);
        assert_eq!(skipped.total_lost([3, 0]), 3);
        assert_eq!(skipped.total_lost([103, 0]), 3);
        assert_eq!(skipped.total_lost([103, 2]), 5);
        assert_eq!(skipped.total_lost([4, 2]), 4, "the fallback recorded all but one of them");
        skipped.settle_attachment([4, 2], [4, 0]);
        assert_eq!(skipped.total_lost([50, 1]), 5);
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_skip_is_lost_if_no_fallback_has_recorded_it_a_millisecond_later() {
        let mut reader = LossReader::default();
        assert_eq!(reader.count_new(0, 0), (0, 0));
        assert_eq!(reader.due_ns(true), None);
        assert_eq!(reader.count_new(3, 10 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), Some(11 * MS));
        assert_eq!(reader.count_new(3, 11 * MS - 1), (0, 0), "too early");
        assert_eq!(reader.due_ns(true), Some(11 * MS), "an early reading does not delay it");
        assert_eq!(reader.count_new(2, 11 * MS), (2, 0), "a fallback recorded one");
        assert_eq!(reader.count_new(2, 20 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), None);
        // A fallback records all.
        assert_eq!(reader.count_new(5, 30 * MS), (0, 0));
        assert_eq!(reader.count_new(2, 31 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), None);
    }

    #[test]
    fn of_continuous_skips_only_those_count_that_have_had_their_time() {
        let mut reader = LossReader::default();
        assert_eq!(reader.count_new(3, 0), (0, 0));
        assert_eq!(reader.count_new(5, MS), (3, 0));
        assert_eq!(reader.due_ns(true), Some(2 * MS));
        assert_eq!(reader.count_new(9, 2 * MS), (2, 0));
        reader.close();
        assert_eq!(reader.due_ns(true), None);
        assert_eq!(reader.count_new(9, 2 * MS), (4, 0), "there is no fallback any more");
        assert_eq!(reader.count_new(9, 3 * MS), (0, 0));
    }

    #[test]
    fn suspicions_are_gathered_and_reported_once_a_second_and_at_the_end() {
        let mut reader = LossReader::new(true);
        assert_eq!(reader.due_ns(true), Some(POLL_NS), "no record may come");
        assert_eq!(reader.due_ns(false), None, "this kernel skips nothing");
        reader.count_new(2, 100 * MS);
        assert_eq!(reader.count_new(2, 101 * MS), (0, 2), "the first at once");
        reader.count_new(4, 200 * MS);
        assert_eq!(reader.count_new(5, 201 * MS), (0, 0));
        reader.count_new(5, 300 * MS);
        assert_eq!(reader.due_ns(true), Some(1_101 * MS));
        assert_eq!(reader.count_new(5, 1_101 * MS), (0, 3));
        assert_eq!(reader.due_ns(true), Some(1_101 * MS + POLL_NS));
        reader.count_new(6, 1_200 * MS);
        reader.close();
        assert_eq!(reader.count_new(6, 1_200 * MS), (0, 1));
    }
}
