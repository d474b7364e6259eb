//! Findings and records in, batches of lines to the output: rendering, counting down `--count`, and dropping what may
//! be dropped when the reader is too slow.

use bytes::Bytes;

use crate::{
    clock::{self, WallClock},
    output::Output,
    report::{self, Evidence, Instant, Record, Reporter, Text},
    tracker::Finding,
};

/// Bytes of records that are handed to the output at the most at a time.
const BATCH: usize = 64 << 10;

/// How records become bytes.
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Aligned text.
    Text(Box<Text>),
}

/// Findings and records in, bytes to the output.
pub(crate) struct Sink {
    pub(crate) reporter: Reporter,
    format: Format,
    pub(crate) output: Output,
    lines: Vec<u8>,
    /// The wall clock, as it was when the batch under way began.
    pub(crate) wall: WallClock,
    /// How many more records of the views are wanted.
    left: Option<u64>,
    /// Records dropped since that was last told.
    dropped: u64,
}

impl Sink {
    /// Nothing handed over yet; `left` records of the views are wanted, or all.
    pub(crate) fn new(reporter: Reporter, format: Format, output: Output, left: Option<u64>) -> Self {
        Self { reporter, format, output, lines: Vec::new(), wall: WallClock::now(), left, dropped: 0 }
    }

    /// Whether people read along.
    pub(crate) const fn is_text(&self) -> bool {
        matches!(self.format, Format::Text(_))
    }

    /// Hands over the record of a finding, where a view wants it.
    pub(crate) fn finding(&mut self, finding: &Finding, evidence: &Evidence) {
        if let Some(record) = self.reporter.finding(finding, evidence, self.wall) {
            self.record(&record);
        }
    }

    /// Hands over a record: into the batch, or to be counted where the reader is too slow for it.
    pub(crate) fn record(&mut self, record: &Record) {
        if record.event.is_of_a_view() {
            match &mut self.left {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if record.event.may_be_dropped() && self.output.is_full() {
            self.dropped += 1;
            return;
        }
        match &mut self.format {
            Format::Json => report::json(record, &mut self.lines),
            Format::Text(text) => text.line(record, &mut self.lines),
        }
        // One drain of the ring can be long: what waits has to be known while it goes on.
        if self.lines.len() >= BATCH {
            self.output.write(Bytes::from(std::mem::take(&mut self.lines)));
        }
    }

    /// Ends the batch: what is in it goes to the output.
    pub(crate) fn flush(&mut self) {
        if self.dropped > 0 && !self.output.is_full() {
            self.tell_dropped();
        }
        self.output.write(Bytes::from(std::mem::take(&mut self.lines)));
    }

    /// Adds the record of what was dropped since the last one, if anything was.
    pub(crate) fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            let at = self.at(clock::monotonic_ns());
            let record = self.reporter.dropped(std::mem::take(&mut self.dropped), at);
            self.record(&record);
        }
    }

    /// Whether all records that were wanted have been made.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// An instant, given on the monotonic clock.
    pub(crate) fn at(&self, mono_ns: u64) -> Instant {
        Instant { wall_ns: self.wall.at(mono_ns), mono_ns }
    }
}
