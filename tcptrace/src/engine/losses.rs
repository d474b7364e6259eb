//! What losses call for: which sockets have to be looked at again, and what that look repaired.

use std::time::Duration;

use crate::engine::input::Loss;

/// A walk that repaired something this long before a loss is suspected has repaired that loss:
/// suspicions are gathered for a second.
const REPAIRED_BEFORE: Duration = Duration::from_secs(2);

/// The losses that no resync has followed yet.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Whether all sockets have to be looked at again.
    needs_resync: bool,
    /// The reasons for the next resync.
    pending: Doubt,
}

/// What makes a look at all sockets necessary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    /// Whether a loss was reported.
    is_reported: bool,
    /// How many transitions may have been lost besides.
    suspected: u64,
    /// How many sockets other walks repaired meanwhile.
    repaired: usize,
    /// When the last of these walks began.
    repaired_ns: u64,
}

impl Losses {
    /// Whether all sockets have to be looked at again.
    pub(crate) const fn needs_resync(&self) -> bool {
        self.needs_resync
    }

    /// Counts a loss.
    pub(crate) fn add_loss(&mut self, loss: &Loss) {
        let Loss { ring_full, skipped, suspected, at_ns: _ } = *loss;
        self.pending.is_reported |= ring_full + skipped > 0;
        self.pending.suspected += suspected;
        self.needs_resync |= ring_full + skipped + suspected > 0;
    }

    /// Notes that a walk made for another purpose found sockets in other states than thought.
    pub(crate) const fn note_repairs(&mut self, repaired: usize, walked_ns: u64) {
        if repaired > 0 {
            self.pending.repaired += repaired;
            self.pending.repaired_ns = walked_ns;
        }
    }

    /// Begins a resync. Returns what made it necessary, if a loss did; what is lost from here on
    /// takes another one.
    pub(crate) fn begin_resync(&mut self) -> Option<Doubt> {
        std::mem::take(&mut self.needs_resync).then(|| std::mem::take(&mut self.pending))
    }
}

/// What a resync comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResyncOutcome {
    /// How many sockets were repaired, by this walk or another one just before.
    pub(crate) repaired: usize,
    /// How many transitions are now known to have been skipped.
    pub(crate) skipped: u64,
}

impl Doubt {
    /// Says what a resync that began at `walked_ns` and repaired so many sockets comes to; `None`
    /// if there was no loss. A suspected loss is one if there was something to repair: as many
    /// transitions were lost then, and at most as many as are suspected.
    pub(crate) fn settle_resync(self, mut repaired: usize, walked_ns: u64) -> Option<ResyncOutcome> {
        let long_ago = walked_ns.saturating_sub(self.repaired_ns);
        if u128::from(long_ago) <= REPAIRED_BEFORE.as_nanos() {
            repaired += self.repaired;
        }
        if self.is_reported {
            return Some(ResyncOutcome { repaired, skipped: 0 });
        }
        let skipped = self.suspected.min(u64::try_from(repaired).unwrap_or(u64::MAX));
        (repaired > 0).then_some(ResyncOutcome { repaired, skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn resync_after(loss: Loss, repaired: usize) -> Option<ResyncOutcome> {
        let mut losses = Losses::default();
        losses.add_loss(&loss);
        losses.begin_resync().unwrap_or_default().settle_resync(repaired, 10 * SECOND)
    }

    #[test]
    fn a_reported_loss_is_resynced_whether_or_not_anything_was_to_repair() {
        let loss = Loss { ring_full: 3, ..Loss::default() };
        assert_eq!(resync_after(loss, 0), Some(ResyncOutcome { repaired: 0, skipped: 0 }));
        assert_eq!(resync_after(loss, 2), Some(ResyncOutcome { repaired: 2, skipped: 0 }));
    }

    #[test]
    fn a_suspected_loss_is_one_if_there_was_something_to_repair() {
        let loss = Loss { suspected: 3, ..Loss::default() };
        assert_eq!(resync_after(loss, 0), None);
        assert_eq!(resync_after(loss, 2), Some(ResyncOutcome { repaired: 2, skipped: 2 }));
        assert_eq!(resync_after(loss, 9), Some(ResyncOutcome { repaired: 9, skipped: 3 }));
    }

    #[test]
    fn another_walk_just_before_has_repaired_the_loss() {
        let suspected_at = |repaired_ns| {
            let mut losses = Losses::default();
            losses.note_repairs(1, repaired_ns);
            assert!(!losses.needs_resync());
            losses.add_loss(&Loss { suspected: 5, ..Loss::default() });
            let doubt = losses.begin_resync().expect("a loss is suspected");
            assert!(!losses.needs_resync() && losses.begin_resync().is_none());
            doubt.settle_resync(0, 10 * SECOND)
        };
        assert_eq!(suspected_at(9 * SECOND), Some(ResyncOutcome { repaired: 1, skipped: 1 }));
        assert_eq!(suspected_at(7 * SECOND), None);
    }
}
