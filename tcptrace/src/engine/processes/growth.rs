//! Keeps how two numbers moved in the last twenty minutes: that of stuck sockets, of which each
//! change is known, and that of open descriptors, which is sampled.

use std::collections::VecDeque;

use crate::{clock::SECOND_NS, engine::processes::trend::Trend};

/// The longest time that is looked at, seconds.
const WINDOW: u64 = 1200;

/// The changes of a number, by the second.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Changes before are not counted, `CLOCK_MONOTONIC` nanoseconds.
    begin_ns: u64,
    /// The number, since `begin_ns`, of the first second below.
    first: u64,
    seconds: VecDeque<i64>,
}

impl Changes {
    /// Counts from that moment on.
    pub(crate) const fn starting_at(begin_ns: u64) -> Self {
        Self { begin_ns, first: 0, seconds: VecDeque::new() }
    }

    /// Adds so many more, or fewer, at that time. What is older than the window is left out.
    pub(crate) fn add(&mut self, at_ns: u64, change: i64) {
        let Some(after_ns) = at_ns.checked_sub(self.begin_ns) else { return };
        let Some(mut index) = (after_ns / SECOND_NS).checked_sub(self.first) else { return };
        // One second more than the window: the last one is not over yet.
        if index > WINDOW {
            let beyond = index - WINDOW;
            self.seconds.drain(
                ..usize::try_from(beyond).map_or(self.seconds.len(), |beyond| beyond.min(self.seconds.len())),
            );
            self.first += beyond;
            index = WINDOW;
        }
        let Ok(index) = usize::try_from(index) else { return };
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, 0);
        }
        self.seconds[index] += change;
    }

    /// How it grows now; `None` if it has been watched for too short a time.
    pub(crate) fn fit_trend(&self, now_ns: u64) -> Option<Trend> {
        let now = now_ns.checked_sub(self.begin_ns)? as f64 / SECOND_NS as f64;
        let from = (now - WINDOW as f64).max(0.0);
        let mut level = 0.0;
        let mut series = vec![(from - now, level)];
        let changes = (self.first..).zip(&self.seconds).filter(|(_, change)| **change != 0);
        for (second, change) in changes {
            let (begin, end) = (second as f64, (second as f64 + 1.0).min(now));
            if begin < from || begin >= now {
                continue;
            }
            if series[series.len() - 1].0 < begin - now {
                series.push((begin - now, level));
            }
            level += *change as f64;
            series.push((end - now, level));
        }
        if series[series.len() - 1].0 < 0.0 {
            series.push((0.0, level));
        }
        Trend::fit_series(&series)
    }
}

/// Samples of a number.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// (when, `CLOCK_MONOTONIC` nanoseconds; number), in order. Where the number stays, only the
    /// first and the last.
    taken: VecDeque<(u64, u64)>,
}

impl Samples {
    /// Adds one. Says whether the number is another one than before.
    pub(crate) fn add(&mut self, at_ns: u64, number: u64) -> bool {
        let last = self.taken.back().copied();
        if last.is_some_and(|(before_ns, _)| before_ns >= at_ns) {
            return false;
        }
        let stays = |back: usize| {
            let index = self.taken.len().checked_sub(back);
            index.is_some_and(|index| self.taken[index].1 == number)
        };
        if stays(1) && stays(2) {
            self.taken.pop_back();
        }
        self.taken.push_back((at_ns, number));
        // One that is older than the window stays: the line from it leads into the window.
        let from_ns = at_ns.saturating_sub(WINDOW * SECOND_NS);
        while self.taken.get(1).is_some_and(|(taken_ns, _)| *taken_ns <= from_ns) {
            self.taken.pop_front();
        }
        last.is_none_or(|(_, before)| before != number)
    }

    /// When the last one was taken.
    pub(crate) fn last_ns(&self) -> Option<u64> {
        Some(self.taken.back()?.0)
    }

    /// For how long it has been watched, nanoseconds.
    pub(crate) fn watched_ns(&self, now_ns: u64) -> u64 {
        self.taken.front().map_or(0, |(first_ns, _)| now_ns.saturating_sub(*first_ns))
    }

    /// How it grows now; `None` if it has been watched for too short a time.
    pub(crate) fn fit_trend(&self, now_ns: u64) -> Option<Trend> {
        let before = |at_ns: u64| (at_ns as f64 - now_ns as f64) / SECOND_NS as f64;
        let mut series: Vec<_> =
            self.taken.iter().map(|(at_ns, number)| (before(*at_ns).min(0.0), *number as f64)).collect();
        let (last, number) = *series.last()?;
        if last < 0.0 {
            series.push((0.0, number));
        }
        Trend::fit_series(&series)
    }
}
