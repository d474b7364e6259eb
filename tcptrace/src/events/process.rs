//! What stuck sockets come to in one process: the record `process`, and its words for people.

use std::fmt::Write as _;

use serde::Serialize;
use tcptrace_common::COMM_LEN;

use crate::engine::processes::Rolled;
use crate::{
    events::record::{Name, milliseconds},
    outputs::text::words::{process, span, visible},
};

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
    /// How many of them are charged to other processes as well.
    pub shared: usize,
    /// Age of the oldest of them, milliseconds: at least this; null where it has none.
    pub oldest_ms: Option<f64>,
    /// How many more (or, below 0, fewer) there are each minute, now; 0 until that has been
    /// watched for long enough.
    pub growth_per_min: f64,
    /// Open descriptors; null where that cannot be read.
    pub fds_open: Option<u64>,
    /// How many it may have open (the soft limit); null where that cannot be read.
    pub fds_limit: Option<u64>,
    /// How many more (or, below 0, fewer) descriptors it has open each minute, now; 0 until that
    /// has been watched for long enough, null where they cannot be counted.
    pub fds_growth_per_min: Option<f64>,
    /// In how many seconds its descriptors run out; 0 if they have, null where they do not grow.
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
    /// Whether its descriptors have been.
    #[serde(skip)]
    pub fds_growth_is_known: bool,
    /// The first of the processes that hold exactly the same stuck sockets, by pid; `None` if no other does.
    #[serde(skip)]
    pub shared_with: Option<u32>,
    /// How many other processes a line of text is about as well.
    #[serde(skip)]
    pub others: usize,
}

impl ProcessRecord {
    /// From a roll-up.
    pub fn new(pid: u32, rolled: &Rolled) -> Self {
        // Nothing is `-0.0`.
        let thousandth = |number: f64| (number * 1_000.0).round() / 1_000.0 + 0.0;
        let Rolled { stuck, shared, fds_open, fds_limit, ended, stopped, busy, .. } = *rolled;
        Self {
            pid,
            comm: rolled.comm.map(Name),
            stuck,
            shared,
            oldest_ms: rolled.oldest_ns.map(milliseconds),
            growth_per_min: thousandth(rolled.growth_per_min.unwrap_or(0.0)),
            fds_open,
            fds_limit,
            fds_growth_per_min: fds_open.map(|_| thousandth(rolled.fds_growth_per_min.unwrap_or(0.0))),
            fds_full_in_s: rolled.fds_full_in_s.map(thousandth),
            ended,
            stopped,
            busy,
            growth_is_known: rolled.growth_per_min.is_some(),
            fds_growth_is_known: rolled.fds_growth_per_min.is_some(),
            shared_with: None,
            others: 0,
        }
    }

    /// Makes the line of this process that of another as well, which holds the same stuck sockets, or has ended too: of
    /// both it has the descriptors of the one that runs out of them first, or has fewer free.
    pub(crate) fn add(&mut self, other: &Self) {
        self.others += 1 + other.others;
        self.stopped &= other.stopped;
        self.busy = [self.busy, other.busy].into_iter().flatten().reduce(f64::max);
        let urgency = |record: &Self| {
            let free = record.fds_limit.zip(record.fds_open).map(|(limit, open)| limit.saturating_sub(open));
            (record.fds_full_in_s.unwrap_or(f64::INFINITY), free.unwrap_or(u64::MAX))
        };
        if urgency(other) < urgency(self) {
            (self.fds_open, self.fds_limit) = (other.fds_open, other.fds_limit);
            self.fds_full_in_s = other.fds_full_in_s;
        }
    }

    /// What the lines of two processes have to have in common to be one.
    pub(crate) fn alike(&self) -> (Option<u32>, bool, [u8; COMM_LEN]) {
        match self.shared_with {
            Some(first) => (Some(first), false, [0; COMM_LEN]),
            None if self.ended => (None, true, self.comm.map_or([0; COMM_LEN], |name| name.0)),
            None => (Some(self.pid), true, [0; COMM_LEN]),
        }
    }

    /// As text in at most `room` columns, what matters most first: (who, the words, when the descriptors run out). Where
    /// there is not room for everything, what can be seen elsewhere is left out.
    pub(crate) fn words(&self, room: Option<usize>) -> (String, String, Option<String>) {
        let full = self.fds_full_in_s.map(|seconds| match seconds {
            0.0 => "FULL".to_owned(),
            seconds => format!("full in {}", span(seconds * 1_000.0)),
        });
        let (mut who, mut words) = (String::new(), String::new());
        for level in 0..=LEAST {
            who = self.who(if level < LEAST { usize::MAX } else { ROOM });
            words = self.words_at(level);
            let columns = visible(&who) + visible(&words) + full.as_ref().map_or(0, |full| full.len() + 2);
            if room.is_none_or(|room| columns <= room) {
                break;
            }
        }
        (who, words, full)
    }

    /// Which process, or processes, with a name and pid in at most `room` columns.
    fn who(&self, room: usize) -> String {
        let first = process((self.pid, self.comm.as_ref()), room);
        match self.others {
            0 => format!("{first}:"),
            others => format!("{first} and {others} more:"),
        }
    }

    /// The words, with less of them the higher the level.
    fn words_at(&self, level: u8) -> String {
        let mut words = String::new();
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
        match self.shared {
            shared if shared == 0 || shared < self.stuck && level > 1 => {}
            shared if shared == self.stuck => words.push_str(", shared"),
            shared => {
                let _infallible = write!(words, ", {shared} shared");
            }
        }
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
