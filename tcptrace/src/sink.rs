//! Findings and records in, batches of lines to the output: rendering, counting down `--count`, and dropping what may
//! be dropped when the reader is too slow.

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    clock::{self, WallClock},
    kernel::{Process, condition, start_ticks},
    output::Output,
    report::{self, Event, Evidence, Instant, ProcessRecord, Record, Reporter, Summary, Text},
    rollup::{ProcessId, Rollup},
    tracker::Finding,
    walk::{Holder, Walk},
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
    pub(crate) rollup: Rollup,
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
    pub(crate) fn new(
        reporter: Reporter,
        rollup: Rollup,
        format: Format,
        output: Output,
        left: Option<u64>,
    ) -> Self {
        let wall = WallClock::now();
        Self { reporter, rollup, format, output, lines: Vec::new(), wall, left, dropped: 0 }
    }

    /// Whether people read along.
    pub(crate) const fn is_text(&self) -> bool {
        matches!(self.format, Format::Text(_))
    }

    /// Hands over the record of a finding, where a view wants it.
    pub(crate) fn finding(&mut self, finding: &Finding, evidence: &Evidence) {
        if let Finding::Cleared { cookie, at_ns, .. } = finding {
            self.rollup.cleared(*cookie, *at_ns);
        }
        if let Some(record) = self.reporter.finding(finding, evidence, self.wall) {
            self.record(record);
        }
    }

    /// Hands over what judging after a walk has found, with the holders that the walk has seen, and counts the stuck
    /// sockets in their processes.
    pub(crate) fn judged(&mut self, findings: &[Finding], walk: &Walk) {
        let stuck = findings.iter().filter_map(|finding| match finding {
            Finding::Stuck { cookie, .. } => Some(*cookie),
            _ => None,
        });
        let cookies: FxHashSet<u64> = stuck.collect();
        let evidence = Evidence::gather(walk, &cookies, Process::look_up);
        let mut processes: FxHashMap<u32, ProcessId> = FxHashMap::default();
        let mut holders: FxHashMap<u64, Vec<ProcessId>> = FxHashMap::default();
        for Holder { cookie, pid, .. } in walk.holders.iter().filter(|held| cookies.contains(&held.cookie)) {
            let id = processes.entry(*pid).or_insert_with(|| {
                // One that has ended by now has its last record coming, and no time of start is needed for that.
                ProcessId { pid: *pid, start_ticks: start_ticks(*pid).unwrap_or(0) }
            });
            holders.entry(*cookie).or_default().push(*id);
        }
        for finding in findings {
            if let Finding::Stuck { cookie, socket, seen_ns } = finding {
                let holders = holders.get(cookie).map_or(&[][..], Vec::as_slice);
                self.rollup.stuck(*cookie, socket.since, *seen_ns, holders);
            }
            self.finding(finding, &evidence);
        }
    }

    /// Hands over a record: into the batch, or to be counted where the reader is too slow for it.
    pub(crate) fn record(&mut self, record: Record) {
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
            Format::Json => report::json(&record, &mut self.lines),
            Format::Text(text) => text.take(record, &mut self.lines),
        }
        // One drain of the ring can be long: what waits has to be known while it goes on.
        if self.lines.len() >= BATCH {
            self.output.write(Bytes::from(std::mem::take(&mut self.lines)));
        }
    }

    /// Ends the batch: what is in it goes to the output, but for text that waits for more of its kind.
    pub(crate) fn flush(&mut self) {
        self.flush_as_of(clock::monotonic_ns());
    }

    /// Ends the last batch: nothing waits any more.
    pub(crate) fn flush_all(&mut self) {
        self.flush_as_of(u64::MAX);
    }

    fn flush_as_of(&mut self, now_ns: u64) {
        if let Format::Text(text) = &mut self.format {
            text.settle(now_ns, &mut self.lines);
        }
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
            self.record(record);
        }
    }

    /// When text that waits for more of its kind is to be written, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        match &self.format {
            Format::Text(text) => text.due_ns(),
            Format::Json => None,
        }
    }

    /// Hands over the roll-ups of these processes.
    pub(crate) fn roll_up(&mut self, which: Vec<ProcessId>, now_ns: u64) {
        let at = self.at(now_ns);
        for id in which {
            if let Some(rolled) = self.rollup.roll(id, condition(id).as_ref(), now_ns) {
                self.record(Record { at, event: Event::Process(ProcessRecord::new(id.pid, &rolled)) });
            }
        }
        self.rollup.forget_ended(|id| start_ticks(id.pid) == Some(id.start_ticks));
    }

    /// Hands over the summary of a run that began at `started_ns`, and says what it is.
    pub(crate) fn summary(&mut self, started_ns: u64) -> Summary {
        let at = self.at(clock::monotonic_ns());
        let totals = self.reporter.summary(started_ns, at);
        self.record(Record { at, event: Event::Summary(totals.clone()) });
        totals
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
