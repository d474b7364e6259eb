//! The totals of a run.

use rustc_hash::FxHashSet;

use crate::events::{Event, Lost, LostReason, Summary, milliseconds};

/// Counts what a run came to.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    counts: Summary,
    /// The transitions among `counts.lost` for which the kernel did not run the program.
    skipped: u64,
    /// Sockets reported stuck and not cleared yet, by cookie.
    stuck: FxHashSet<u64>,
}

impl Totals {
    /// Counts a transition that reached the tracker.
    pub(crate) const fn count_transition(&mut self) {
        self.counts.transitions += 1;
    }

    /// Counts a record that is reported. A socket that is still stuck counts once, however often it
    /// is reported.
    pub(crate) fn count_reported(&mut self, event: &Event) {
        match event {
            Event::Stuck(stuck) if self.stuck.insert(stuck.socket.cookie) => self.counts.stuck += 1,
            Event::Cleared(cleared) => {
                self.stuck.remove(&cleared.socket.cookie);
                self.counts.cleared += 1;
            }
            Event::Life(_) => self.counts.lives += 1,
            Event::Resync(_) => self.counts.resyncs += 1,
            _ => {}
        }
    }

    /// Counts a record that a filter kept back.
    pub(crate) const fn count_filtered(&mut self) {
        self.counts.filtered += 1;
    }

    /// Counts what was lost, and says how much it is together with what was lost before for the
    /// same reason.
    pub(crate) fn count_lost(&mut self, lost: u64, reason: LostReason) -> Lost {
        let lost_total = match reason {
            LostReason::RingFull => {
                self.counts.lost += lost;
                self.counts.lost - self.skipped
            }
            LostReason::Skipped => {
                self.counts.lost += lost;
                self.skipped += lost;
                self.skipped
            }
            LostReason::ReaderSlow => {
                self.counts.dropped += lost;
                self.counts.dropped
            }
        };
        Lost { lost, lost_total, reason }
    }

    /// The totals so far, with the time from `began_ns` to `at_ns`.
    pub(crate) fn summary(&self, began_ns: u64, at_ns: u64) -> Summary {
        let duration_ms = milliseconds(at_ns.saturating_sub(began_ns));
        Summary { skipped: self.skipped, duration_ms, ..self.counts.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Resync;

    #[test]
    fn losses_are_counted_apart_by_their_reason() {
        let mut totals = Totals::default();
        for (lost, reason, lost_total) in [
            (3, LostReason::RingFull, 3),
            (5, LostReason::Skipped, 5),
            (4, LostReason::ReaderSlow, 4),
            (2, LostReason::RingFull, 5),
            (1, LostReason::Skipped, 6),
            (7, LostReason::ReaderSlow, 11),
        ] {
            assert_eq!(totals.count_lost(lost, reason), Lost { lost, lost_total, reason });
        }
        totals.count_reported(&Event::Resync(Resync { sockets: 10, repaired: 2, found: None }));
        let Summary { lost, skipped, dropped, resyncs, duration_ms, .. } = totals.summary(1_000, 3_001_000);
        assert_eq!((lost, skipped, dropped, resyncs), (11, 6, 11, 1));
        assert!((duration_ms - 3.0).abs() < 1e-9);
    }
}
