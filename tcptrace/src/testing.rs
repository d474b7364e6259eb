//! What unit tests of several rooms share: events collected, and a host with one kind of process.

use crate::{
    clock::WallClock,
    engine::{
        filter::Filter,
        process_info::{ProcessDetails, ProcessInfo},
        processes::{ProcessId, ProcessStats},
        reporter::Reporter,
        settings::Settings,
        tracker::{Policy, finding::Finding},
        walk::Named,
    },
    events::{EventSink, Fields, FromFields, Record, Views},
};

/// Reads a record, or a part of one.
pub(crate) fn read_record<T: FromFields>(text: &str) -> serde_json::Result<T> {
    T::from_fields(&Fields::split(text.as_bytes())?)
}

/// Keeps every event.
#[derive(Debug, Default)]
pub(crate) struct Collected(pub(crate) Vec<Record>);

impl EventSink for Collected {
    fn is_open(&self) -> bool {
        true
    }

    fn publish(&mut self, record: Record) {
        self.0.push(record);
    }
}

/// A host on which every process is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct OneProcess(pub(crate) ProcessDetails);

impl ProcessInfo for OneProcess {
    fn holder_details(&self, _pid: u32, _named: Option<Named>) -> ProcessDetails {
        self.0.clone()
    }

    fn actor_details(&mut self, _pid: u32, _comm: Option<&[u8]>, _at_ns: u64) -> Option<&ProcessDetails> {
        Some(&self.0)
    }

    fn opener_details(&mut self, _pid: u32, _since_ns: u64, _now_ns: u64) -> Option<&ProcessDetails> {
        Some(&self.0)
    }

    fn process_id(&self, pid: u32, _named: Option<Named>) -> ProcessId {
        ProcessId { pid, start_ticks: 1 }
    }

    fn process_stats(&self, _id: ProcessId) -> Option<ProcessStats> {
        Some(ProcessStats::default())
    }

    fn is_alive(&self, _id: ProcessId) -> bool {
        true
    }
}

/// Settings for these views: everything is reported, and stuck after `threshold_ns` in a state of
/// `watched` (a mask).
pub(crate) fn settings(views: Views, watched: u32, threshold_ns: u64) -> Settings {
    Settings {
        views,
        policy: Policy {
            followed: tcptrace_common::state::ALL,
            watched,
            threshold_ns,
            remind_ns: None,
            lives: views.lives,
        },
        filter: Filter::default(),
        recorded_states: 0,
        describes_actors: true,
        jiffy_ns: 4_000_000,
    }
}

/// What a finding comes to, if one of the views shows it.
pub(crate) fn event_of(views: Views, finding: &Finding, wall: &WallClock) -> Option<Record> {
    let mut reporter = Reporter::new(settings(views, 0, 0), 0, OneProcess::default());
    reporter.wall = wall.clone();
    let mut events = Collected::default();
    reporter.report_finding(finding, &mut events);
    events.0.pop()
}
