//! From facts to events: the tracker finds, and the reporter makes events of the findings.

use crate::{
    engine::{
        assemble::instant_at, observation::Observation, process_info::ProcessInfo, reporter::Reporter,
        settings::Settings, state_change::StateChange, tracker::Tracker,
    },
    events::{Event, EventSink, Record, Summary},
};

/// A tracker, and the reporter of its findings.
#[derive(Debug)]
pub(crate) struct Pipeline<P> {
    pub(crate) tracker: Tracker,
    pub(crate) reporter: Reporter<P>,
}

impl<P: ProcessInfo> Pipeline<P> {
    /// Knows no socket yet. Tracing began at `began_ns`, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) fn new(settings: Settings, began_ns: u64, info: P) -> Self {
        Self { tracker: Tracker::new(settings.policy), reporter: Reporter::new(settings, began_ns, info) }
    }

    /// Applies a state change.
    pub(crate) fn apply_transition(&mut self, change: &StateChange, out: &mut impl EventSink) {
        let Self { tracker, reporter } = self;
        tracker.apply_transition(change, &mut |finding| reporter.report_finding(&finding, out));
    }

    /// Applies that a socket was seen. Returns whether it was in another state than was thought.
    pub(crate) fn observe_socket(&mut self, seen: &Observation, out: &mut impl EventSink) -> bool {
        let Self { tracker, reporter } = self;
        tracker.observe_socket(seen, &mut |finding| reporter.report_finding(&finding, out))
    }

    /// Rolls up all processes, and sums up.
    pub(crate) fn end(&mut self, began_ns: u64, at_ns: u64, out: &mut impl EventSink) {
        let all = self.reporter.processes.all_reported();
        self.reporter.roll_up(all, at_ns, out);
        let summary = self.summary(began_ns, at_ns);
        out.publish(Record { at: instant_at(&self.reporter.wall, at_ns), event: Event::Summary(summary) });
    }

    /// Returns the totals so far. What the outputs dropped is not among them.
    pub(crate) fn summary(&self, began_ns: u64, at_ns: u64) -> Summary {
        self.reporter.totals.summary(began_ns, at_ns)
    }
}
