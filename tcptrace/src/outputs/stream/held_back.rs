//! What is not written while the reader is too slow: counted or added up, so that memory stays
//! bounded however long that lasts.

use rustc_hash::FxHashMap;

use crate::events::{Event, Lost, Record};

/// Processes whose last roll-up is kept at the most; those of further ones are dropped.
const PROCESSES: usize = 1024;

/// What was held back since it was last told.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    /// Records that were dropped.
    pub(crate) dropped: u64,
    /// The `lost` records, one for each reason: how much is added up, the time is that of the last.
    pub(crate) lost: Vec<Record>,
    /// The last roll-up of each process: it says all that those before it said.
    pub(crate) processes: FxHashMap<u32, Record>,
}

impl HeldBack {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.dropped == 0 && self.lost.is_empty() && self.processes.is_empty()
    }

    /// Counts a record, or puts it in the place of the one before it.
    pub(crate) fn hold_back(&mut self, record: Record) {
        match &record.event {
            Event::Lost(more) => {
                let is_same = |held: &&mut Record| matches!(&held.event, Event::Lost(lost) if lost.reason == more.reason);
                match self.lost.iter_mut().find(is_same) {
                    Some(held) => {
                        let before = if let Event::Lost(lost) = &held.event { lost.lost } else { 0 };
                        let lost = Lost { lost: before + more.lost, ..more.clone() };
                        *held = Record { at: record.at, event: Event::Lost(lost) };
                    }
                    None => self.lost.push(record),
                }
            }
            Event::Process(process)
                if self.processes.len() < PROCESSES || self.processes.contains_key(&process.pid) =>
            {
                self.processes.insert(process.pid, record);
            }
            _ => self.dropped += 1,
        }
    }
}
