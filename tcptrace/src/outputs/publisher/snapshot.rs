//! The figures of a moment for `--metrics`, as far as the records are concerned.

use crate::outputs::publisher::Sink;
use crate::{
    engine::{
        figures::{count_sockets, look_at_processes},
        tracker::{Policy, Tracker},
    },
    events::{Figures, Summary, TracerInfo},
    host::proc::proc_stat::process_stats,
};

impl Sink {
    /// All figures as of now. Reads what `/proc` says of the processes that are shown.
    pub(crate) fn figures(
        &self,
        tracer: TracerInfo,
        policy: &Policy,
        tracker: &Tracker,
        now_ns: u64,
    ) -> Figures {
        let totals = self.reporter.totals();
        Figures {
            tracer,
            views: self.reporter.views(),
            threshold_ns: policy.threshold_ns,
            // Those that were dropped just now have yet to be told.
            totals: Summary { dropped: totals.dropped + self.held_back.dropped, ..totals.clone() },
            sockets: count_sockets(tracker, policy, now_ns, |cookie| self.admission.has_reported(cookie)),
            processes: look_at_processes(&self.rollup, now_ns, process_stats),
        }
    }
}
