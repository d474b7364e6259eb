//! The stuck view's lines of processes: what their stuck sockets come to.

use std::{fmt::Write as _, iter};

use rustc_hash::FxHashMap;
use tcptrace_common::COMM_LEN;

use crate::{
    diagnostics::escape_harmful,
    events::{Instant, ProcessRecord},
    humanize::{name::ProcessName, span::format_span, width::display_width},
    outputs::text::canvas::{BOLD, Canvas, RED, YELLOW},
};

/// Descriptors that run out sooner than this are red, seconds.
const RED_BELOW_S: f64 = 600.0;

/// Descriptors that run out sooner than this are yellow, seconds.
const YELLOW_BELOW_S: f64 = 7_200.0;

/// The most lines of processes at a time.
const MAX_LINES: usize = 10;

/// The share of one CPU from which on a process is shown as busy.
const BUSY: f64 = 0.9;

/// Columns of name and pid if there is little room.
const SHORT_NAME: usize = 15;

/// The highest brevity of a line: 0 leaves out nothing, this all that can be seen elsewhere.
const TERSEST: u8 = 3;

/// A process's line, which may stand for several processes.
struct ProcessLine {
    record: ProcessRecord,
    /// How many more processes the line stands for.
    others: usize,
}

impl Canvas {
    /// Writes the lines of processes. Those that hold the same stuck sockets share a line, as do
    /// those of one name that have ended. If there are many lines, only the most urgent are
    /// written.
    pub(crate) fn write_processes(&mut self, processes: Vec<(Instant, ProcessRecord)>, out: &mut Vec<u8>) {
        let mut lines: Vec<(Instant, ProcessLine)> = Vec::new();
        let mut indices = FxHashMap::default();
        for (at, record) in processes {
            match *indices.entry(group_key(&record)).or_insert(lines.len()) {
                index if index < lines.len() => lines[index].1.add_process(&record),
                _ => lines.push((at, ProcessLine { record, others: 0 })),
            }
        }
        let mut left_out = 0;
        if lines.len() > MAX_LINES {
            let by_urgency = |(_, a): &(Instant, ProcessLine), (_, b): &(Instant, ProcessLine)| {
                let full_in_s = |line: &ProcessLine| line.record.fds_full_in_s.unwrap_or(f64::INFINITY);
                full_in_s(a).total_cmp(&full_in_s(b)).then(b.record.stuck.cmp(&a.record.stuck))
            };
            lines.sort_by(by_urgency);
            left_out = lines.drain(MAX_LINES - 1..).map(|(_, line)| 1 + line.others).sum();
        }
        let last = lines.last().map(|(at, _)| *at);
        for (at, process) in lines {
            self.write_line(out, |text, line| text.write_process(line, at, &process));
        }
        if let Some(at) = last.filter(|_| left_out > 0) {
            self.write_line(out, |text, line| {
                text.write_time(line, at);
                let _infallible = write!(line, " and {left_out} more processes");
            });
        }
    }

    fn write_process(&mut self, line: &mut String, at: Instant, process: &ProcessLine) {
        self.write_time(line, at);
        line.push(' ');
        let room = self.layout.width.map(|width| width.saturating_sub(line.len()));
        let ProcessWords { name, figures, descriptors } = process.fit_room(room);
        self.write_coloured(line, BOLD, |line| line.push_str(&name));
        line.push_str(&figures);
        if let Some(descriptors) = descriptors {
            let colour = match process.record.fds_full_in_s {
                Some(seconds) if seconds < RED_BELOW_S => RED,
                Some(seconds) if seconds < YELLOW_BELOW_S => YELLOW,
                _ => "",
            };
            line.push_str(", ");
            self.write_coloured(line, colour, |line| line.push_str(&descriptors));
        }
    }
}

/// The parts of a process's line.
struct ProcessWords {
    /// The process, or processes.
    name: String,
    /// What it does, and how many sockets and descriptors it has.
    figures: String,
    /// When its descriptors run out.
    descriptors: Option<String>,
}

impl ProcessWords {
    fn width(&self) -> usize {
        let descriptors = self.descriptors.as_ref().map_or(0, |text| text.len() + 2);
        display_width(&self.name) + display_width(&self.figures) + descriptors
    }
}

impl ProcessLine {
    /// Adds another process, which holds the same stuck sockets or has ended too. The line shows
    /// the descriptors of the process that runs out of them first, or else has the fewest free.
    fn add_process(&mut self, other: &ProcessRecord) {
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

    /// Returns the most detailed words that fit `room` columns, or the tersest if none do.
    fn fit_room(&self, room: Option<usize>) -> ProcessWords {
        let fits = |words: &ProcessWords| room.is_none_or(|room| words.width() <= room);
        let placed = || {
            let words = self.words_of(0);
            ProcessWords { name: self.add_place(&words.name), ..words }
        };
        let detailed = (0..TERSEST).map(|brevity| self.words_of(brevity));
        iter::once_with(placed).chain(detailed).find(fits).unwrap_or_else(|| self.words_of(TERSEST))
    }

    /// Adds what the process is called and where it runs, as far as its name does not say it:
    /// `java/4242 (java -jar app.jar, app.service):`.
    fn add_place(&self, name: &str) -> String {
        /// An id is told from others by its beginning.
        const ID_LENGTH: usize = 12;
        let ProcessRecord { comm, program, unit, container, pod, .. } = &self.record;
        let is_told = |program: &&str| comm.as_ref().is_some_and(|comm| comm.bytes() == program.as_bytes());
        let program = program.as_deref().filter(|program| !is_told(program)).map(str::to_owned);
        let short = |id: &str| id.chars().take(ID_LENGTH).collect::<String>();
        let place = match (pod, container, unit) {
            (Some(pod), ..) => Some(format!("pod {}", short(pod))),
            (None, Some(container), _) => Some(format!("container {}", short(container))),
            // Logins are no place that a person would look for.
            (None, None, Some(unit)) => {
                Some(unit.to_string()).filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@"))
            }
            (None, None, None) => None,
        };
        let parts: Vec<_> = [program, place].into_iter().flatten().collect();
        // Several processes need not have a program or a place in common.
        if parts.is_empty() || self.others > 0 {
            return name.to_owned();
        }
        let parts = escape_harmful(&parts.join(", ")).into_owned();
        format!("{} ({parts}):", name.trim_end_matches(':'))
    }

    fn words_of(&self, brevity: u8) -> ProcessWords {
        let descriptors = self.record.fds_full_in_s.map(|seconds| match seconds {
            0.0 => "FULL".to_owned(),
            seconds => format!("full in {}", format_span(seconds * 1_000.0)),
        });
        let name = self.fit_name(if brevity < TERSEST { usize::MAX } else { SHORT_NAME });
        ProcessWords { name, figures: self.format_figures(brevity), descriptors }
    }

    /// Names the process in at most `width` columns, and says how many more there are.
    fn fit_name(&self, width: usize) -> String {
        let process = ProcessName { pid: self.record.pid, comm: self.record.comm.as_ref() };
        let first = process.fit_width(width);
        match self.others {
            0 => format!("{first}:"),
            others => format!("{first} and {others} more:"),
        }
    }

    /// Says what the process does, and how many sockets and descriptors it has.
    fn format_figures(&self, brevity: u8) -> String {
        let record = &self.record;
        let mut words = String::new();
        if record.ended {
            words.push_str(" ended,");
        }
        if record.stopped {
            words.push_str(" stopped,");
        }
        if let Some(busy) = record.busy.filter(|busy| *busy >= BUSY && brevity < TERSEST) {
            let _infallible = write!(words, " busy: {:.0}% CPU,", busy * 100.0);
        }
        let _infallible = write!(words, " {} stuck", record.stuck);
        match record.shared {
            shared if shared == 0 || shared < record.stuck && brevity > 1 => {}
            shared if shared == record.stuck => words.push_str(", shared"),
            shared => {
                let _infallible = write!(words, ", {shared} shared");
            }
        }
        if let Some(oldest_ms) = record.oldest_ms.filter(|_| brevity < 2) {
            let _infallible = write!(words, ", oldest {}", format_span(oldest_ms));
        }
        if record.growth_is_known {
            let _infallible = match record.growth_per_min {
                growth if growth.abs() < 0.05 => write!(words, ", not growing"),
                growth if growth.abs() < 10.0 => write!(words, ", {growth:+.1}/min"),
                growth => write!(words, ", {growth:+.0}/min"),
            };
        }
        match (record.fds_open, record.fds_limit) {
            (Some(open), Some(limit)) if brevity == 0 => {
                let _infallible = write!(words, ", {open} of {limit} fds");
            }
            (Some(open), Some(limit)) if brevity < TERSEST => {
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
