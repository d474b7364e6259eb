//! The figures of a moment for `--metrics`, as far as the records are concerned.

use crate::outputs::publisher::Sink;
use crate::{
    engine::tracker::{Policy, Tracker},
    events::Summary,
    host::proc::proc_stat::condition,
    outputs::prometheus::{About, Processes, Snapshot, Sockets},
};

impl Sink {
    /// All figures as of now. Reads what `/proc` says of the processes that are shown.
    pub(crate) fn snapshot(&self, about: About, policy: &Policy, tracker: &Tracker, now_ns: u64) -> Snapshot {
        let totals = self.reporter.totals();
        Snapshot {
            about,
            views: self.reporter.views(),
            threshold_ns: policy.threshold_ns,
            // Those that were dropped just now have yet to be told.
            totals: Summary { dropped: totals.dropped + self.held_back.dropped, ..totals.clone() },
            sockets: Sockets::count(tracker, policy, now_ns, |cookie| self.admission.has_reported(cookie)),
            processes: Processes::look(&self.rollup, now_ns, condition),
        }
    }
}
