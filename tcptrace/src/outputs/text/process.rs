//! The stuck view's lines of processes: what their stuck sockets come to.

use std::fmt::Write as _;

use rustc_hash::FxHashMap;
use tcptrace_common::COMM_LEN;

use crate::{
    events::{Instant, ProcessRecord},
    outputs::text::{
        BOLD, RED, Text, YELLOW,
        words::{process, span, visible},
    },
};

/// Descriptors that run out sooner than this are shown in red, or in yellow, seconds.
const ALARMING_S: f64 = 600.0;
const WORRYING_S: f64 = 7_200.0;

/// So many lines of processes are written at a time at the most.
const PROCESSES: usize = 10;

/// From this share of one CPU on it is worth a word.
const BUSY: f64 = 0.9;

/// Columns for name and pid where there is little room.
const ROOM: usize = 15;

/// How little of the words there can be.
const LEAST: u8 = 3;

/// A process's line, which may stand for several.
struct ProcessLine {
    record: ProcessRecord,
    /// How many other processes it stands for as well.
    others: usize,
}

impl Text {
    /// Writes the lines of processes, one for those that hold the same stuck sockets, and for those of a name that have
    /// ended. Of many lines those are left out that matter least.
    pub(crate) fn processes(&mut self, processes: Vec<(Instant, ProcessRecord)>, out: &mut Vec<u8>) {
        let mut lines: Vec<(Instant, ProcessLine)> = Vec::new();
        let mut places = FxHashMap::default();
        for (at, record) in processes {
            match *places.entry(group_key(&record)).or_insert(lines.len()) {
                place if place < lines.len() => lines[place].1.add(&record),
                _ => lines.push((at, ProcessLine { record, others: 0 })),
            }
        }
        let mut left_out = 0;
        if lines.len() > PROCESSES {
            let by_urgency = |(_, a): &(Instant, ProcessLine), (_, b): &(Instant, ProcessLine)| {
                let full = |line: &ProcessLine| line.record.fds_full_in_s.unwrap_or(f64::INFINITY);
                full(a).total_cmp(&full(b)).then(b.record.stuck.cmp(&a.record.stuck))
            };
            lines.sort_by(by_urgency);
            left_out = lines.drain(PROCESSES - 1..).map(|(_, line)| 1 + line.others).sum();
        }
        let last = lines.last().map(|(at, _)| *at);
        for (at, process) in lines {
            self.put(out, |text, line| text.process(line, at, &process));
        }
        if let Some(at) = last.filter(|_| left_out > 0) {
            self.put(out, |text, line| {
                text.time(line, at);
                let _infallible = write!(line, " and {left_out} more processes");
            });
        }
    }

    fn process(&mut self, line: &mut String, at: Instant, process: &ProcessLine) {
        self.time(line, at);
        line.push(' ');
        let room = self.layout.width.map(|width| width.saturating_sub(line.len()));
        let (who, words, full) = process.words(room);
        self.paint(line, BOLD, |line| line.push_str(&who));
        line.push_str(&words);
        if let Some(full) = full {
            let colour = match process.record.fds_full_in_s {
                Some(seconds) if seconds < ALARMING_S => RED,
                Some(seconds) if seconds < WORRYING_S => YELLOW,
                _ => "",
            };
            line.push_str(", ");
            self.paint(line, colour, |line| line.push_str(&full));
        }
    }
}

impl ProcessLine {
    /// Adds another process, which holds the same stuck sockets or has ended too. The line shows the descriptors of the process
    /// that runs out of them first, or that has fewer free.
    fn add(&mut self, other: &ProcessRecord) {
        self.others += 1;
        self.record.stopped &= other.stopped;
        self.record.busy = [self.record.busy, other.busy].into_iter().flatten().reduce(f64::max);
        let urgency = |record: &ProcessRecord| {
            let free = record.fds_limit.zip(record.fds_open).map(|(limit, open)| limit.saturating_sub(open));
            (record.fds_full_in_s.unwrap_or(f64::INFINITY), free.unwrap_or(u64::MAX))
        };
        if urgency(other) < urgency(&self.record) {
            (self.record.fds_open, self.record.fds_limit) = (other.fds_open, other.fds_limit);
            self.record.fds_full_in_s = other.fds_full_in_s;
        }
    }

    /// Returns the text, in at most `room` columns: (which process, the words, when its descriptors run out). If there is no
    /// room for everything, it leaves out what can be seen elsewhere.
    fn words(&self, room: Option<usize>) -> (String, String, Option<String>) {
        let full = self.record.fds_full_in_s.map(|seconds| match seconds {
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

    /// Names the process, and how many more there are, with a name and pid in at most `room` columns.
    fn who(&self, room: usize) -> String {
        let first = process((self.record.pid, self.record.comm.as_ref()), room);
        match self.others {
            0 => format!("{first}:"),
            others => format!("{first} and {others} more:"),
        }
    }

    /// Returns the words: fewer of them the higher the level.
    fn words_at(&self, level: u8) -> String {
        let mut words = String::new();
        if self.record.ended {
            words.push_str(" ended,");
        }
        if self.record.stopped {
            words.push_str(" stopped,");
        }
        if let Some(busy) = self.record.busy.filter(|busy| *busy >= BUSY && level < LEAST) {
            let _infallible = write!(words, " busy: {:.0}% CPU,", busy * 100.0);
        }
        let _infallible = write!(words, " {} stuck", self.record.stuck);
        match self.record.shared {
            shared if shared == 0 || shared < self.record.stuck && level > 1 => {}
            shared if shared == self.record.stuck => words.push_str(", shared"),
            shared => {
                let _infallible = write!(words, ", {shared} shared");
            }
        }
        if let Some(oldest) = self.record.oldest_ms.filter(|_| level < 2) {
            let _infallible = write!(words, ", oldest {}", span(oldest));
        }
        if self.record.growth_is_known {
            let _infallible = match self.record.growth_per_min {
                growth if growth.abs() < 0.05 => write!(words, ", not growing"),
                growth if growth.abs() < 10.0 => write!(words, ", {growth:+.1}/min"),
                growth => write!(words, ", {growth:+.0}/min"),
            };
        }
        match (self.record.fds_open, self.record.fds_limit) {
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

/// Returns what two processes must have in common to share a line.
fn group_key(record: &ProcessRecord) -> (Option<u32>, bool, [u8; COMM_LEN]) {
    match record.shared_with {
        Some(first) => (Some(first), false, [0; COMM_LEN]),
        None if record.ended => (None, true, record.comm.map_or([0; COMM_LEN], |name| name.0)),
        None => (Some(record.pid), true, [0; COMM_LEN]),
    }
}
