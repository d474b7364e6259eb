//! Records as a stream of bytes to stdout or a file: batches of lines for the writer's thread, and
//! what is dropped where the reader is too slow.

pub mod held_back;

use std::{
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    clock::{self, WallClock},
    events::{Event, Instant, Lost, LostReason, Record, Summary},
    outputs::{
        Output,
        stream::held_back::HeldBack,
        writer::{LineWriter, WriteEnd},
    },
};

/// Bytes of records that are handed to the writer at most at a time.
const BATCH: usize = 64 << 10;

/// Writes records as bytes. Times are `CLOCK_MONOTONIC`, nanoseconds.
pub trait Format {
    /// Appends a record, or keeps it until [`Self::settle`].
    fn render(&mut self, record: Record, out: &mut Vec<u8>);

    /// Prepares for the lines to come, when a batch begins.
    fn begin_batch(&mut self) {}

    /// Appends what has waited long enough by now.
    fn settle(&mut self, _now_ns: u64, _out: &mut Vec<u8>) {}

    /// Appends all that waits, if a roll-up is among it.
    fn settle_roll_ups(&mut self, _now_ns: u64, _out: &mut Vec<u8>) {}

    /// When something has waited long enough.
    fn due_ns(&self) -> Option<u64> {
        None
    }

    /// When what waits can be written at the earliest.
    fn ready_ns(&self) -> u64 {
        0
    }
}

/// Records on their way to a writer.
pub struct StreamOutput<F> {
    format: F,
    writer: LineWriter,
    lines: Vec<u8>,
    /// What a reader that is too slow has cost since it was last told.
    held_back: HeldBack,
    /// Records dropped and told.
    dropped: u64,
    /// Waits for a slow reader until this is set, instead of dropping records: where nothing has to
    /// be kept up with.
    waits: Option<Arc<AtomicBool>>,
}

impl<F: Format> StreamOutput<F> {
    /// Writes in this form. With `waits`, waits for a slow reader until that flag is set, instead
    /// of dropping records.
    pub fn new(format: F, writer: LineWriter, waits: Option<Arc<AtomicBool>>) -> Self {
        Self { format, writer, lines: Vec::new(), held_back: HeldBack::default(), dropped: 0, waits }
    }

    /// Holds back what may be where the reader is too slow, and tells what was held back once there
    /// is room again.
    fn admit_to_queue(&mut self, record: Record) -> Option<Record> {
        if !record.event.may_be_held_back() {
            return Some(record);
        }
        if let Some(is_given_up) = &self.waits {
            self.writer.wait_for_room(is_given_up);
        } else if self.writer.is_full() {
            self.held_back.hold_back(record);
            return None;
        } else if !self.held_back.is_empty() {
            self.tell_dropped();
        }
        Some(record)
    }

    fn render(&mut self, record: Record) {
        if self.lines.is_empty() {
            self.format.begin_batch();
        }
        self.format.render(record, &mut self.lines);
        // One drain of the ring can be long: what waits has to be known while it goes on.
        if self.lines.len() >= BATCH {
            self.writer.write(&mut self.lines);
            self.lines.reserve(BATCH + BATCH / 16);
        }
    }

    /// Adds the records of what was held back since the last ones, if anything was.
    fn tell_dropped(&mut self) {
        let HeldBack { dropped, lost, processes } = std::mem::take(&mut self.held_back);
        for record in lost {
            self.render(record);
        }
        let mut processes: Vec<_> = processes.into_values().collect();
        processes.sort_unstable_by_key(|record| record.at.mono_ns);
        for record in processes {
            self.render(record);
        }
        if dropped > 0 {
            self.dropped += dropped;
            let mono_ns = clock::monotonic_ns();
            let at = Instant { wall_ns: WallClock::now().wall_ns_at(mono_ns), mono_ns };
            let lost = Lost { lost: dropped, lost_total: self.dropped, reason: LostReason::ReaderSlow };
            self.render(Record { at, event: Event::Lost(lost) });
        }
    }

    fn flush_as_of(&mut self, now_ns: u64) {
        if self.format.due_ns().is_some_and(|due| due <= now_ns) {
            self.format.begin_batch();
        }
        self.format.settle(now_ns, &mut self.lines);
        if !self.held_back.is_empty() && !self.writer.is_full() {
            self.tell_dropped();
        }
        self.writer.write(&mut self.lines);
    }
}

impl<F: Format> Output for StreamOutput<F> {
    fn publish(&mut self, mut record: Record) -> bool {
        if let Event::Summary(Summary { dropped, .. }) = &mut record.event {
            self.tell_dropped();
            *dropped += self.dropped;
        }
        let Some(record) = self.admit_to_queue(record) else { return false };
        self.render(record);
        true
    }

    fn flush(&mut self, now_ns: u64) {
        self.flush_as_of(now_ns);
    }

    fn flush_and_wait(&mut self, now_ns: u64) {
        if self.lines.len() >= BATCH || self.format.due_ns().is_some_and(|due| due <= now_ns) {
            self.flush_as_of(now_ns);
        }
        if let Some(is_given_up) = &self.waits {
            self.writer.wait_for_room(is_given_up);
        }
    }

    fn settle_roll_ups(&mut self, now_ns: u64) {
        self.format.settle_roll_ups(now_ns, &mut self.lines);
    }

    fn flush_all(&mut self) {
        self.flush_as_of(u64::MAX);
    }

    fn flush_due_ns(&self) -> Option<u64> {
        self.format.due_ns()
    }

    fn ready_ns(&self) -> u64 {
        self.format.ready_ns()
    }

    fn dropped(&self) -> u64 {
        self.dropped + self.held_back.dropped
    }

    fn has_ended(&self) -> bool {
        self.writer.has_ended()
    }

    fn ended(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.writer.ended())
    }

    fn reader(&self) -> Option<&OwnedFd> {
        self.writer.reader()
    }

    fn reopen(&self) {
        self.writer.reopen();
    }

    fn finish(self: Box<Self>) -> Option<WriteEnd> {
        Some(self.writer.finish())
    }
}

#[cfg(test)]
mod tests;
