//! `--once`: one look at what is open right now, and a verdict. Nothing is traced; ages are what
//! the sockets' own time stamps prove.

use tcptrace_common::state;

use crate::{
    clock::{self, WallClock},
    config::Config,
    diagnostics::{is_verbose, print_problem_lines},
    engine::{
        Engine,
        coverage::CoverageGaps,
        input::{Input, Purpose},
        walk::{self, Reach},
    },
    events::Summary,
    host::{
        kernel::Kernel,
        proc::{arguments::Patience, live_processes::LiveProcesses},
    },
    humanize::message::{looked_at_message, verdict_message},
    outputs::publisher::Publisher,
    sources::{
        Failure, deliver,
        live::start::{print_banner, start_record},
        settings_of,
    },
};

/// What one look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotVerdict {
    /// All that was asked about was looked at, and nothing is stuck.
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
pub fn run(
    config: &Config,
    mut kernel: Kernel,
    mut publisher: Publisher,
) -> Result<SnapshotVerdict, Failure> {
    let began_ns = clock::monotonic_ns();
    let speaks = !config.json || is_verbose();
    let mut engine = Engine::new(settings_of(config), began_ns, LiveProcesses::with_patience(Patience::Long));
    engine.set_wall_clock(&WallClock::now());
    let watched = config.policy.watched;
    let walk = kernel.walk_holding(state::ALL, watched | walk::beside(watched), &Reach::default())?;
    let start = start_record(&kernel, &walk);
    if speaks {
        print_banner(
            kernel.feature_statuses(),
            &looked_at_message(&start, walk.count_namespaces(), &config.format_watched()),
        );
    }
    engine.apply(Input::Started { start: Box::new(start), at_ns: walk.started_ns }, &mut publisher);
    engine.apply(Input::WalkBegan(&walk, Purpose::Once), &mut publisher);
    for row in &walk.sockets {
        engine.apply(Input::Socket(row), &mut publisher);
    }
    engine.apply(Input::WalkEnded(&walk, Purpose::Once), &mut publisher);
    let at_ns = clock::monotonic_ns();
    engine.apply(Input::Ended { began_ns, at_ns }, &mut publisher);
    let Summary { stuck, .. } = engine.summary(began_ns, at_ns);

    let residents = kernel.residents(config.filter.asks_for_processes(), Patience::Long);
    let unnamed = engine.process_info().unnamed_holders();
    let unseen = CoverageGaps::find_gaps(&config.filter, &walk, &residents, &Kernel::has_cgroup, &unnamed);
    let verdict = match (stuck, unseen.is_empty()) {
        (1.., _) => SnapshotVerdict::Stuck,
        (0, true) => SnapshotVerdict::NothingStuck,
        (0, false) => SnapshotVerdict::NotLookedAt,
    };
    let looked = || {
        let undecided = engine.count_undecided(&walk);
        verdict_message(stuck, undecided, &config.state_names(), &config.format_threshold())
    };
    let (words, warning) = match verdict {
        SnapshotVerdict::NotLookedAt => (None, Some(unseen.refusal_message())),
        SnapshotVerdict::Stuck if !unseen.is_empty() => {
            (None, Some(format!("{}; not all was looked at: {}", looked(), unseen.describe_gaps())))
        }
        _ => (speaks.then(looked), None),
    };
    // The process ends, and takes them with it.
    std::mem::forget((walk, engine));
    let delivered = deliver(publisher, words);
    warning.into_iter().for_each(print_problem_lines);
    delivered?;
    Ok(verdict)
}
