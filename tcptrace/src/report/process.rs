//! What stuck sockets come to in one process: the record `process`, and its words for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    record::{Name, milliseconds},
    words::{process, span, visible},
};
use crate::rollup::Rolled;

/// From this share of one CPU on it is worth a word.
const BUSY: f64 = 0.9;

/// Columns for name and pid where there is little room.
const ROOM: usize = 15;

/// How little of the words there can be.
const LEAST: u8 = 3;

/// See the contract, `process`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessRecord {
    /// The process (thread group).
    pub pid: u32,
    /// Its name, as it was last known.
    pub comm: Option<Name>,
    /// Sockets reported stuck, not cleared, that it holds.
    pub stuck: usize,
    /// Age of the oldest of them, milliseconds: at least this; null where it has none.
    pub oldest_ms: Option<f64>,
    /// How many more (or, below 0, fewer) there are each minute; 0 where nothing has been seen to change yet.
    pub growth_per_min: f64,
    /// Open descriptors; null where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open (the soft limit); null where that cannot be read.
    pub fds_limit: Option<u64>,
    /// In how many seconds its descriptors run out at that growth; null where it does not grow.
    pub fds_full_in_s: Option<f64>,
    /// Whether it has ended.
    #[serde(skip)]
    pub ended: bool,
    /// Whether it is stopped, by a signal or a debugger.
    #[serde(skip)]
    pub stopped: bool,
    /// Its share of the CPU since its last record, 1 being all of one CPU.
    #[serde(skip)]
    pub busy: Option<f64>,
    /// Whether it has been watched for long enough to say how it grows.
    #[serde(skip)]
    pub growth_is_known: bool,
}

impl ProcessRecord {
    /// From a roll-up.
    pub fn new(pid: u32, rolled: &Rolled) -> Self {
        // Nothing is `-0.0`.
        let thousandth = |number: f64| (number * 1_000.0).round() / 1_000.0 + 0.0;
        let Rolled { stuck, fds_open, fds_limit, ended, stopped, busy, .. } = *rolled;
        Self {
            pid,
            comm: rolled.comm.map(Name),
            stuck,
            oldest_ms: rolled.oldest_ns.map(milliseconds),
            growth_per_min: thousandth(rolled.growth_per_min.unwrap_or(0.0)),
            fds_open,
            fds_limit,
            fds_full_in_s: rolled.fds_full_in_s.map(thousandth),
            ended,
            stopped,
            busy,
            growth_is_known: rolled.growth_per_min.is_some(),
        }
    }
    /// As text in at most `room` columns, what matters most first: (the words, when the descriptors run out). Where
    /// there is not room for everything, what can be seen elsewhere is left out.
    pub(super) fn words(&self, room: Option<usize>) -> (String, Option<String>) {
        let full = self.fds_full_in_s.map(|seconds| format!("full in {}", span(seconds * 1_000.0)));
        let mut words = String::new();
        for level in 0..=LEAST {
            words = self.words_at(level);
            let columns = visible(&words) + full.as_ref().map_or(0, |full| full.len() + 2);
            if room.is_none_or(|room| columns <= room) {
                break;
            }
        }
        (words, full)
    }

    /// The words, with less of them the higher the level.
    fn words_at(&self, level: u8) -> String {
        let owner = (self.pid, self.comm.as_ref());
        let mut words = format!("{}:", process(owner, if level < LEAST { usize::MAX } else { ROOM }));
        if self.ended {
            words.push_str(" ended,");
        }
        if self.stopped {
            words.push_str(" stopped,");
        }
        if let Some(busy) = self.busy.filter(|busy| *busy >= BUSY && level < LEAST) {
            let _infallible = write!(words, " busy: {:.0}% CPU,", busy * 100.0);
        }
        let _infallible = write!(words, " {} stuck", self.stuck);
        if let Some(oldest) = self.oldest_ms.filter(|_| level < 2) {
            let _infallible = write!(words, ", oldest {}", span(oldest));
        }
        if self.growth_is_known {
            let _infallible = match self.growth_per_min {
                growth if growth.abs() < 0.05 => write!(words, ", not growing"),
                growth if growth.abs() < 10.0 => write!(words, ", {growth:+.1}/min"),
                growth => write!(words, ", {growth:+.0}/min"),
            };
        }
        match (self.fds_open, self.fds_limit) {
            (Some(open), Some(limit)) if level == 0 => {
                let _infallible = write!(words, ", {open} of {limit} fds");
            }
            (Some(open), Some(limit)) if level < LEAST => {
                let _infallible = write!(words, ", {open}/{limit} fds");
            }
            _ => {}
        }
        words
    }
}
