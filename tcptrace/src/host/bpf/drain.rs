//! Limits how much is taken out of the ring at a time.

/// Where draining the ring stops, if the ring is not empty before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Stop after the first record that is later than this, `CLOCK_MONOTONIC` nanoseconds.
    pub until_ns: u64,
    /// Stop after this number of records.
    pub records: usize,
    /// Stop after this time, nanoseconds.
    pub time_ns: u64,
}

impl Limit {
    /// Drains a part, so that signals, deadlines and scrapes get their turn under load.
    pub const PART: Self = Self { until_ns: u64::MAX, records: 4096, time_ns: 20_000_000 };

    /// Drains the ring until it is empty.
    pub const NONE: Self = Self { until_ns: u64::MAX, records: usize::MAX, time_ns: u64::MAX };

    /// Drains all that was written until then. The size of the ring bounds it.
    pub const fn until(until_ns: u64) -> Self {
        Self { until_ns, ..Self::NONE }
    }
}

/// The result of draining the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The number of records that were taken.
    pub records: usize,
    /// Whether the ring may contain more.
    pub has_more: bool,
}

/// The number of records between two readings of the clock.
const STRIDE: usize = 64;

/// Takes records with `next`, which returns the time of each, until the limit is reached or there
/// are no more. `now_ns` reads the clock.
///
/// # Errors
/// `next` failed.
pub(crate) fn drain<E>(
    limit: Limit,
    now_ns: impl Fn() -> u64,
    mut next: impl FnMut() -> Result<Option<u64>, E>,
) -> Result<Drained, E> {
    let began_ns = now_ns();
    let mut drained = Drained { records: 0, has_more: true };
    while drained.records < limit.records {
        let Some(ktime_ns) = next()? else {
            drained.has_more = false;
            break;
        };
        drained.records += 1;
        let reads_clock = drained.records.is_multiple_of(STRIDE);
        let is_late = || now_ns().saturating_sub(began_ns) >= limit.time_ns;
        if ktime_ns > limit.until_ns || (reads_clock && is_late()) {
            break;
        }
    }
    Ok(drained)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;

    /// Drains a ring that is never empty. Its records are 10 ns apart, and each takes
    /// `each_takes_ns`.
    fn taken(limit: Limit, each_takes_ns: u64) -> Drained {
        let (clock, ktime) = (Cell::new(0), Cell::new(0));
        let next = || {
            clock.set(clock.get() + each_takes_ns);
            ktime.set(ktime.get() + 10);
            Ok::<_, Infallible>(Some(ktime.get()))
        };
        drain(limit, || clock.get(), next).unwrap_or_else(|never| match never {})
    }

    #[test]
    fn a_ring_that_is_never_empty_leaves_time_for_other_work() {
        assert_eq!(taken(Limit::PART, 1_000), Drained { records: 4096, has_more: true });
        // If records take long, fewer are taken.
        assert_eq!(taken(Limit::PART, 100_000), Drained { records: 256, has_more: true });
        assert_eq!(taken(Limit::PART, 1_000_000_000), Drained { records: STRIDE, has_more: true });
    }

    #[test]
    fn all_that_was_written_until_a_time_is_taken_however_much_it_is() {
        assert_eq!(taken(Limit::until(1_000_000), 1_000_000).records, 100_001);
    }

    #[test]
    fn an_empty_ring_has_no_more_and_an_error_ends_it() {
        let mut left = [5, 6].into_iter();
        let drained = drain(Limit::NONE, || 0, || Ok::<_, ()>(left.next()));
        assert_eq!(drained, Ok(Drained { records: 2, has_more: false }));
        assert_eq!(drain(Limit::NONE, || 0, || Err("no record")), Err("no record"));
    }
}
