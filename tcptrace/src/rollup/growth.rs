//! How fast the number of a process's stuck sockets grows: net change per minute over the last ten minutes at the most.
//!
//! The change is counted by the second. For the answer the seconds are joined to at most twenty bins of equal length,
//! and a bin that stands out from all others, as one burst makes it, is taken for as high as they are. Regular bursts,
//! such as a list that is refreshed once a minute, are in many bins and are counted in full.

use std::collections::VecDeque;

const SECOND: u64 = 1_000_000_000;

/// The longest time that is looked at, seconds.
const WINDOW: usize = 600;

/// A shorter time says nothing, seconds.
const SHORTEST: usize = 5;

/// In a shorter time one burst cannot be told from a regular one, seconds: it is counted as it is.
const SHORTEST_WITH_OUTLIERS: usize = 180;

const BINS: usize = 20;

/// So many of the highest bins can stand out, and so many of the lowest.
const OUTLIERS: usize = 2;

/// A bin with no more than this many never stands out.
const FEW: f64 = 10.0;

/// A bin stands out that has more than this many times as many as the next ones.
const TIMES: f64 = 3.0;

/// The net change in each second of the last ten minutes.
#[derive(Debug)]
pub(super) struct Growth {
    /// Nothing that happened before is counted, `CLOCK_MONOTONIC` nanoseconds.
    begin_ns: u64,
    /// Whether it was a socket getting stuck that made it begin: then the first bin always has something in it, and says
    /// nothing about how often that happens.
    begins_with_one: bool,
    /// The number, since `begin_ns`, of the first second below.
    first: u64,
    seconds: VecDeque<i64>,
}

impl Growth {
    /// Counted from a moment that has nothing to do with what is counted.
    pub(super) const fn since(begin_ns: u64) -> Self {
        Self { begin_ns, begins_with_one: false, first: 0, seconds: VecDeque::new() }
    }

    /// Counted from the moment when the first one of a series got stuck.
    pub(super) const fn since_first(begin_ns: u64) -> Self {
        Self { begin_ns, begins_with_one: true, first: 0, seconds: VecDeque::new() }
    }

    /// So many more, or fewer, at that time. What is older than the window is left out.
    pub(super) fn add(&mut self, at_ns: u64, change: i64) {
        let Some(after_ns) = at_ns.checked_sub(self.begin_ns) else { return };
        let Some(index) = (after_ns / SECOND).checked_sub(self.first) else { return };
        let mut index = index as usize;
        // One second more than the window: the last one is not over yet.
        if index > WINDOW {
            let beyond = index - WINDOW;
            self.seconds.drain(..beyond.min(self.seconds.len()));
            self.first += beyond as u64;
            index = WINDOW;
        }
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, 0);
        }
        self.seconds[index] += change;
    }

    /// Net growth per minute up to now; `None` where that is too soon to say.
    pub(super) fn per_minute(&self, now_ns: u64) -> Option<f64> {
        let over = now_ns.checked_sub(self.begin_ns)? / SECOND;
        let length = usize::try_from(over).unwrap_or(WINDOW).min(WINDOW);
        if length < SHORTEST {
            return None;
        }
        let bin_length = length.div_ceil(BINS);
        let mut count = length / bin_length;
        let from = over - (count * bin_length) as u64;
        let mut bins = vec![0.0; count];
        for (at, change) in (self.first..).zip(&self.seconds) {
            if let Some(after) = at.checked_sub(from).filter(|_| at < over) {
                bins[after as usize / bin_length] += *change as f64;
            }
        }
        if self.begins_with_one && over <= WINDOW as u64 {
            bins.remove(0);
            count -= 1;
        }
        if length >= SHORTEST_WITH_OUTLIERS {
            lower_what_stands_out(&mut bins);
        }
        Some(bins.iter().sum::<f64>() * 60.0 / (count * bin_length) as f64)
    }
}

fn lower_what_stands_out(bins: &mut [f64]) {
    bins.sort_unstable_by(f64::total_cmp);
    let Some(last) = bins.len().checked_sub(OUTLIERS + 1) else { return };
    let (low, high) = (bins[OUTLIERS.min(last)], bins[last]);
    for bin in bins {
        if *bin > (TIMES * high).max(FEW) {
            *bin = high.max(0.0);
        } else if *bin < (TIMES * low).min(-FEW) {
            *bin = low.min(0.0);
        }
    }
}
