//! `cargo xtask soak`: sends millions of transitions through one run of the tracer, and checks the
//! counts.
//!
//! What the kernel counts (how often it ran the program on the tracepoint, or skipped it) has to
//! be what reached the tracker plus what the tracer reports as lost. What reached the tracker has
//! to be what was printed plus what was dropped for a slow reader. Memory has to stay where it is,
//! because no connection of the load lives on.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    bench::{
        figures::table,
        helper,
        tracer::{Command, Measured, Ready, Summary, Tracer},
    },
    compile::{self, Profile},
    setup,
    shell::{self, say},
};

/// Transitions of one connection of the load, both ends together (`tests/src/bin/churn.rs`).
const PER_CONNECTION: u64 = 10;

/// Connections made in one go; their timewait sockets go with the namespace that they are in.
const CONNECTIONS: u32 = 25_000;

/// How much memory may grow between the first tenth of the run and its end, KiB: an arena of the
/// allocator.
const FLAT_KIB: u64 = 2_048;

/// How long to run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many transitions at least
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    transitions: u64,
}

/// What the part that runs as root gets from the part that has built everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    transitions: u64,
    tcptrace: PathBuf,
    helpers: PathBuf,
}

/// Builds everything, and runs it.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    setup::prepare(&[])?;
    let Options { transitions } = options;
    let (tcptrace, helpers) = (compile::build_tcptrace(Profile::Release)?, compile::build_helpers()?);
    shell::run_self_as_root("soak-as-root", &Measure { transitions, tcptrace, helpers })
}

/// Runs the part that needs root.
pub(crate) fn measure(measure: &Measure) -> Result<ExitCode> {
    let Measure { transitions, tcptrace, helpers } = measure;
    // Without this the kernel does not count how often programs run.
    let _counting = helper::start(helpers, "bpf-stats", &[])?;
    let command = Command::new(tcptrace.clone(), &["--json"], Ready::StdoutLine);
    let began = Instant::now();
    let tracer = Tracer::start(helpers, &command)?;
    let memory = make_load(&tracer, helpers, *transitions)?;
    let (table, is_sound) = check(&tracer.finish()?, &memory)?;
    println!("{table}");
    say(format_args!("soak: {:.0} s", began.elapsed().as_secs_f64()));
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes connections until there were so many transitions. Returns the memory that the tracer has
/// allocated after each tenth, KiB.
fn make_load(tracer: &Tracer, helpers: &Path, transitions: u64) -> Result<Vec<u64>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rounds = transitions.div_ceil(u64::from(CONNECTIONS) * PER_CONNECTION);
    let mut memory = Vec::new();
    for round in 1..=rounds {
        helper::churn(helpers, CONNECTIONS, threads)?;
        if round * 10 / rounds > (round - 1) * 10 / rounds {
            let kib = tracer.read_memory()?.allocated;
            say(format_args!("soak: {round} of {rounds} rounds, {} MB", kib / 1024));
            memory.push(kib);
        }
    }
    Ok(memory)
}

/// A table of how many transitions each part counted, and whether all are accounted for and memory
/// is flat.
///
/// Each loss is a line too, and there are at least as many as resyncs: then the number of lines
/// proves nothing.
fn check(measured: &Measured, memory: &[u64]) -> Result<(String, bool)> {
    let Summary { transitions, lost, dropped, resyncs } =
        measured.summary.context("the tracer wrote no summary")?;
    // Runs of the program, and runs that the kernel skipped.
    let kernel = measured.runs.events;
    // The first and the last line are no transitions.
    let lines = measured.lines.saturating_sub(2);
    let (first, last) = (memory.first().copied().unwrap_or(0), memory.last().copied().unwrap_or(0));
    let verdicts = [
        ("kernel = reached + lost", kernel == transitions + lost),
        ("reached = printed + dropped", resyncs > 0 || dropped > 0 || lines == transitions),
        ("memory flat", last <= first + FLAT_KIB),
    ];
    let counts = [
        ("that reached the tracker", transitions.to_string()),
        ("lost", lost.to_string()),
        ("records not written", dropped.to_string()),
        ("lines read, but for the first and the last", lines.to_string()),
        ("walks of all sockets after a loss", resyncs.to_string()),
        ("memory after a tenth, at the end, KiB", format!("{first}, {last}")),
    ];
    let shown = verdicts.map(|(what, is_good)| (what, if is_good { "yes" } else { "NO" }.to_owned()));
    let rows = counts.into_iter().chain(shown).map(|(what, value)| vec![what.to_owned(), value]);
    let heading = ["transitions counted by the kernel", &kernel.to_string()];
    Ok((table(&heading, &rows.collect::<Vec<_>>()), verdicts.iter().all(|(_, is_good)| *is_good)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::proc::Runs;

    #[test]
    fn each_count_that_does_not_add_up_is_reported() {
        let is_sound = |kernel, summary: [u64; 3], lines, memory: &[u64]| {
            let [transitions, lost, resyncs] = summary;
            let summary = Some(Summary { transitions, lost, dropped: 0, resyncs });
            let runs = Runs { events: kernel, ..Runs::default() };
            check(&Measured { runs, lines, summary, ..Measured::default() }, memory)
                .is_ok_and(|(_, sound)| sound)
        };
        assert!(is_sound(1_000, [1_000, 0, 0], 1_002, &[9_000, 9_500, 9_100]));
        assert!(is_sound(1_000, [990, 10, 1], 994, &[9_000]));
        assert!(!is_sound(1_001, [1_000, 0, 0], 1_002, &[9_000]));
        assert!(!is_sound(1_000, [1_000, 0, 0], 1_001, &[9_000]));
        assert!(!is_sound(1_000, [1_000, 0, 0], 1_002, &[9_000, 20_000]));
    }
}
