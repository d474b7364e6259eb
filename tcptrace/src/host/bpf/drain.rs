//! How much is taken out of the ring at a time.

/// Where taking records out of the ring stops, if it is not empty before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The first record of a later time, `CLOCK_MONOTONIC` nanoseconds, is the last one.
    pub until_ns: u64,
    /// No more records than these.
    pub records: usize,
    /// No longer than this, nanoseconds.
    pub time_ns: u64,
}

impl Limit {
    /// A part of what there is under load, so that signals, deadlines and scrapes get their turn.
    pub const PART: Self = Self { until_ns: u64::MAX, records: 4096, time_ns: 20_000_000 };

    /// All that there is.
    pub const NONE: Self = Self { until_ns: u64::MAX, records: usize::MAX, time_ns: u64::MAX };

    /// All that was written by then, however much it is: the ring bounds it.
    pub const fn until(until_ns: u64) -> Self {
        Self { until_ns, ..Self::NONE }
    }
}

/// What came of taking records out of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// How many records were taken.
    pub records: usize,
    /// Whether there may be more.
    pub has_more: bool,
}

/// Between two looks at the clock, records.
const STRIDE: usize = 64;

/// Takes records with `next`, which tells the time of each, until a limit is reached. `now_ns` is the clock.
pub(crate) fn take<E>(
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
        let looks = drained.records.is_multiple_of(STRIDE);
        if ktime_ns > limit.until_ns || (looks && now_ns().saturating_sub(began_ns) >= limit.time_ns) {
            break;
        }
    }
    Ok(drained)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;

    /// A ring that never runs empty: records 10 ns apart, each of which takes so long to take.
    fn taken(limit: Limit, each_takes_ns: u64) -> Drained {
        let (clock, ktime) = (Cell::new(0), Cell::new(0));
        let next = || {
            clock.set(clock.get() + each_takes_ns);
            ktime.set(ktime.get() + 10);
            Ok::<_, Infallible>(Some(ktime.get()))
        };
        take(limit, || clock.get(), next).unwrap_or_else(|never| match never {})
    }

    #[test]
    fn a_ring_that_never_runs_empty_is_left_for_other_things_to_do() {
        assert_eq!(taken(Limit::PART, 1_000), Drained { records: 4096, has_more: true });
        // Where records take long, fewer are taken.
        assert_eq!(taken(Limit::PART, 100_000), Drained { records: 256, has_more: true });
        assert_eq!(taken(Limit::PART, 1_000_000_000), Drained { records: STRIDE, has_more: true });
    }

    #[test]
    fn all_that_was_written_by_a_time_is_taken_however_much_it_is() {
        assert_eq!(taken(Limit::until(1_000_000), 1_000_000).records, 100_001);
    }

    #[test]
    fn an_empty_ring_has_no_more_and_an_error_ends_it() {
        let mut left = [5, 6].into_iter();
        let drained = take(Limit::NONE, || 0, || Ok::<_, ()>(left.next()));
        assert_eq!(drained, Ok(Drained { records: 2, has_more: false }));
        assert_eq!(take(Limit::NONE, || 0, || Err("no record")), Err("no record"));
    }
}
