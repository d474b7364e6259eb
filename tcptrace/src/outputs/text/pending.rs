//! Records that wait for others, so that those that are alike become one line.

use std::cmp::Reverse;

use crate::{
    events::{Cleared, Event, Instant, ProcessRecord, Record, Stuck},
    humanize::number::truncate,
};

/// The records of the stuck view that wait for the next flush.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// When the first of them happened, `CLOCK_MONOTONIC` nanoseconds.
    since_ns: Option<u64>,
    /// Boxed as they came: thousands of them are not small.
    pub(crate) stuck: Vec<(Instant, Box<Stuck>)>,
    pub(crate) cleared: Vec<(Instant, Cleared)>,
    pub(crate) processes: Vec<(Instant, ProcessRecord)>,
}

impl Pending {
    /// Returns when the first record happened, `CLOCK_MONOTONIC` nanoseconds; `None` if there is
    /// none.
    pub(crate) const fn since_ns(&self) -> Option<u64> {
        self.since_ns
    }

    /// Adds a record of the stuck view. Records of other views and notices never wait.
    pub(crate) fn add_record(&mut self, Record { at, event }: Record) {
        self.since_ns.get_or_insert(at.mono_ns);
        match event {
            Event::Stuck(mut stuck) => {
                put_requested_first(&mut stuck);
                self.stuck.push((at, stuck));
            }
            Event::Cleared(cleared) => self.cleared.push((at, cleared)),
            Event::Process(process) => self.processes.push((at, process)),
            _ => {}
        }
    }

    /// Sorts stuck sockets by the time that is shown, then by process, the oldest first.
    pub(crate) fn sort_stuck(&mut self) {
        self.stuck.sort_by_cached_key(|(at, one)| {
            let first = one.details.owners.first();
            let tenths = truncate(one.age_ms / 100.0);
            let pid = first.map_or(u32::MAX, |owner| owner.pid);
            (at.wall_ns.div_euclid(1_000_000_000), pid, Reverse(tenths), first.and_then(|owner| owner.fd))
        });
    }
}

/// Moves the owners that a filter asked for to the front: a line names the first owner.
fn put_requested_first(stuck: &mut Stuck) {
    let details = &mut stuck.details;
    details.owners.sort_by_key(|owner| !owner.is_requested);
    if details.owners.first().is_some_and(|first| !first.is_requested)
        && let Some(at) = details.unlisted.iter().position(|owner| owner.is_requested)
    {
        details.owners.insert(0, details.unlisted.remove(at));
    }
}
