//! Records as text for people: aligned, what matters first, and never thousands of lines.
//!
//! A record is one line if that fits the terminal. Otherwise it continues, indented, on the next
//! line: no line is wider than the terminal (`layout.rs`). Without a terminal every record is one
//! line and nothing is shortened.
//!
//! Records of the stuck view wait up to a second for others (`pending.rs`). Many that have
//! everything that matters in common become one line (`group.rs`).

pub mod canvas;
pub mod column;
pub mod detail;
pub mod endpoint;
pub mod fold;
pub mod format;
pub mod group;
pub mod heading;
pub mod holders;
pub mod layout;
pub mod life;
pub mod pending;
pub mod process;
pub mod stuck;
pub mod transition;

use jiff::tz::TimeZone;

use crate::{
    events::{Event, Record},
    humanize::{
        interface::InterfaceNames,
        words::{lost_words, resync_words},
    },
    outputs::text::{
        canvas::Canvas,
        group::{MAX_SINGLE_LINES, group_alike},
        heading::View,
        holders::Holders,
        pending::Pending,
    },
};

/// How long the first pending record waits for more, nanoseconds.
const GATHERING_NS: u64 = 100_000_000;

/// The least time between two flushes of pending records, nanoseconds.
const FLUSH_INTERVAL_NS: u64 = 1_000_000_000;

/// Renders records as lines of text.
#[derive(Debug)]
pub struct TextRenderer {
    canvas: Canvas,
    pending: Pending,
    /// When pending records were last flushed, `CLOCK_MONOTONIC` nanoseconds.
    flushed_ns: u64,
}

impl TextRenderer {
    /// Creates a renderer for a terminal of `width` columns, or for no terminal, with times in
    /// `time_zone`.
    pub fn new(width: Option<u16>, has_colour: bool, time_zone: TimeZone) -> Self {
        let canvas = Canvas::new(width, has_colour, time_zone);
        Self { canvas, pending: Pending::default(), flushed_ns: 0 }
    }

    /// Shows link-local addresses with the names of their interfaces.
    #[must_use]
    pub fn with_interface_names(mut self, interface_names: Option<InterfaceNames>) -> Self {
        self.canvas.interface_names = interface_names;
        self
    }

    /// Fits the lines to come to a terminal of this size. 0 means that the terminal does not know
    /// its size.
    ///
    /// On a terminal, a heading is repeated before it scrolls out of sight.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.canvas.resize(columns, rows);
    }

    /// Appends the line of a record, or keeps a record of the stuck view until a flush.
    ///
    /// `start`, `found` and `summary` have no line: the first and the last are messages on stderr,
    /// and `found` is for recordings.
    pub fn add_record(&mut self, record: Record, out: &mut Vec<u8>) {
        let Self { canvas, pending, .. } = self;
        let at = record.at;
        match &record.event {
            Event::Transition(transition) => {
                canvas.fit_endpoints(&transition.socket);
                canvas.write_heading(View::Transitions, out);
                canvas.write_line(out, |canvas, line| canvas.write_transition(line, at, transition));
            }
            Event::Life(life) => {
                canvas.fit_endpoints(&life.socket);
                canvas.write_heading(View::Lives, out);
                canvas.write_line(out, |canvas, line| canvas.write_life(line, at, life));
            }
            Event::Lost(lost) => {
                canvas.write_line(out, |canvas, line| canvas.write_notice(line, at, &lost_words(lost)));
            }
            Event::Resync(resync) => {
                canvas.write_line(out, |canvas, line| canvas.write_notice(line, at, &resync_words(resync)));
            }
            Event::Stuck(_) | Event::Cleared(_) | Event::Process(_) => pending.add_record(record),
            Event::Start(_) | Event::Found(_) | Event::Summary(_) => {}
        }
    }

    /// Returns when pending records have to be flushed, `CLOCK_MONOTONIC` nanoseconds: soon after
    /// the first of them, but some time after the last flush, so that a flood becomes a few lines.
    pub fn next_flush_ns(&self) -> Option<u64> {
        let since_ns = self.pending.since_ns()?;
        Some(since_ns.saturating_add(GATHERING_NS).max(self.earliest_flush_ns()))
    }

    /// Returns when pending records can be flushed at the earliest, `CLOCK_MONOTONIC` nanoseconds.
    pub const fn earliest_flush_ns(&self) -> u64 {
        self.flushed_ns.saturating_add(FLUSH_INTERVAL_NS)
    }

    /// Appends the lines of pending records if they are due by now.
    pub fn flush_due(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if self.next_flush_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.flush_all(now_ns, out);
        }
    }

    /// Whether a roll-up is pending.
    pub const fn has_roll_ups(&self) -> bool {
        !self.pending.processes.is_empty()
    }

    /// Appends the lines of all pending records.
    pub fn flush_all(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.flushed_ns = now_ns;
        let canvas = &mut self.canvas;
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_stuck();
        let Pending { stuck, cleared, processes, .. } = pending;
        if !(stuck.is_empty() && cleared.is_empty()) {
            for (_, one) in &stuck {
                canvas.fit_endpoints(&one.socket);
            }
            for (_, one) in &cleared {
                canvas.fit_endpoints(&one.socket);
            }
            let mut needs = canvas.needs;
            for holders in stuck.iter().map(|(_, one)| Holders::of_socket(one)) {
                needs.fit_descriptor(holders.format_descriptors().len());
                needs.fit_process(holders.format_process(0).len());
            }
            canvas.widen(needs);
            canvas.write_heading(View::Stuck, out);
        }
        for group in group_alike(stuck) {
            if group.members.len() <= MAX_SINGLE_LINES {
                for (at, one) in &group.members {
                    canvas.write_line(out, |canvas, line| canvas.write_stuck(line, *at, one));
                }
            } else {
                canvas.write_line(out, |canvas, line| canvas.write_stuck_group(line, &group));
            }
        }
        for group in group_alike(cleared) {
            if group.members.len() <= MAX_SINGLE_LINES {
                for (at, one) in &group.members {
                    canvas.write_line(out, |canvas, line| canvas.write_cleared(line, *at, one));
                }
            } else {
                canvas.write_line(out, |canvas, line| canvas.write_cleared_group(line, &group));
            }
        }
        canvas.write_processes(processes, out);
    }
}

#[cfg(test)]
mod tests;
