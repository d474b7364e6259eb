//! `--once`: one look at what is open right now, and a verdict. Nothing is traced; ages are what the sockets' own clocks
//! prove.

use crate::engine::walk;
use tcptrace_common::state;

use crate::{
    cli::Plan,
    clock,
    diagnostics::{is_verbose, say_lines},
    engine::{
        age::since_by_stamps,
        coverage::Unseen,
        tracker::{Tracker, finding::Finding},
        walk::Reach,
    },
    events::{Event, Record},
    host::kernel::Kernel,
    outputs::{
        publisher::{Format, Sink},
        writer::LineWriter,
    },
    sources::live::{
        Failure, finish,
        start::{greet, start_record},
    },
};

/// What one look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that was asked about was looked at.
    NothingStuck,
    /// Sockets are stuck, whatever else could not be looked at.
    Stuck,
    /// Nothing was found stuck, and something that was asked about could not be looked at.
    NotLookedAt,
}

/// Looks, and reports what is stuck.
///
/// # Errors
/// See [`Failure`]. A reader that has gone is none.
pub fn run(plan: &Plan, mut kernel: Kernel, output: LineWriter, format: Format) -> Result<Verdict, Failure> {
    let started_ns = clock::monotonic_ns();
    let mut sink = Sink::new(plan, started_ns, format, output).patient();

    let watched = plan.policy.watched;
    let walk = kernel.walk_holding(state::ALL, watched | walk::beside(watched), &Reach::default())?;
    let start = start_record(&kernel, &walk);
    if sink.is_text() || is_verbose() {
        greet(
            kernel.feature_statuses(),
            &crate::humanize::message::looked_at_message(&start, walk.count_namespaces(), &plan.watched()),
        );
    }
    let at = sink.at(walk.started_ns);
    sink.record(Record { at, event: Event::Start(start) });

    let mut tracker = Tracker::new(plan.policy);
    let jiffy_ns = clock::jiffy_ns();
    for row in &walk.sockets {
        // One that has not been judged yet does not clear.
        tracker.observe_socket(row, since_by_stamps(row, jiffy_ns), &mut |_| {});
    }
    let (stuck, others) = tracker.judge_at_observation();
    let cookies = stuck.iter().copied().collect();
    sink.judged(
        &cookies,
        stuck.iter().filter_map(|cookie| tracker.find_observed(*cookie).map(Finding::Stuck)),
        &walk,
    );
    sink.roll_up(sink.rollup.all(), clock::monotonic_ns());
    let totals = sink.summary(started_ns);
    let residents = kernel.residents(plan.filter.asks_for_processes());
    let unseen = Unseen::find(&plan.filter, &walk, &residents, &Kernel::has_cgroup);
    let verdict = match (totals.stuck, unseen.is_empty()) {
        (1.., _) => Verdict::Stuck,
        (0, true) => Verdict::NothingStuck,
        (0, false) => Verdict::NotLookedAt,
    };
    let looked = || {
        let others = sink.count_admitted(&others, &walk);
        crate::humanize::message::verdict_message(
            totals.stuck,
            others,
            &plan.state_names(),
            &plan.threshold(),
        )
    };
    let speaks = sink.is_text() || is_verbose();
    let (words, warning) = match verdict {
        Verdict::NotLookedAt => (None, Some(unseen.refusal())),
        Verdict::Stuck if !unseen.is_empty() => {
            (None, Some(format!("{}; not all was looked at: {}", looked(), unseen.what())))
        }
        _ => (speaks.then(looked), None),
    };
    // The process ends, and takes them with it.
    std::mem::forget((walk, tracker));
    let delivered = finish(sink, words);
    warning.into_iter().for_each(say_lines);
    delivered?;
    Ok(verdict)
}
