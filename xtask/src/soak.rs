//! `cargo xtask soak`: millions of transitions through one run of the tracer, and every one of them accounted for.
//!
//! What the kernel itself counts (how often it ran the program on the tracepoint, or was kept from it) has to be what
//! reached the tracker and what the tracer says was lost; what reached the tracker has to be what was printed, and what
//! was dropped for a slow reader; and memory has to stay where it is, for no connection of the load lives on.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::{
        helper, proc,
        tracer::{Command, Ready, Seen, Tracer},
    },
    compile::{self, Profile},
    setup::{self, Scope},
    shell::{self, say},
};

/// Transitions of one connection of the load, both ends together (`tests/src/bin/churn.rs`).
const PER_CONNECTION: u64 = 10;

/// So many connections are made in one go; their TIME_WAIT goes with the namespace that they are in.
const CONNECTIONS: u32 = 25_000;

/// By how much memory may differ between the first tenth of the run and its end, KiB: an arena of the allocator.
const FLAT_KIB: u64 = 2_048;

/// How long to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many transitions at least
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    transitions: u64,
}

/// What the part that runs as root is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Measure {
    #[arg(long)]
    transitions: u64,
    #[arg(long)]
    tcptrace: PathBuf,
    #[arg(long)]
    helpers: PathBuf,
}

/// Builds everything, and runs it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let tools = setup::run(Scope::Test)?;
    let tcptrace = compile::tcptrace(&tools, Profile::Release)?;
    let helpers = compile::helpers(&tools)?;
    let this = std::env::current_exe().context("/proc is not there")?;
    let mut root = shell::as_root(this.as_os_str(), &[])?;
    root.arg("soak-as-root").arg("--tcptrace").arg(tcptrace).arg("--helpers").arg(helpers);
    root.arg("--transitions").arg(options.transitions.to_string());
    let status = root.status().context("cannot run the part that needs root")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part that runs as root.
pub(crate) fn measure(measure: &Measure) -> Result<ExitCode> {
    let Measure { transitions, tcptrace, helpers } = measure;
    // Without this the kernel does not count how often programs run.
    let _counting = helper::start(helpers, "bpf-stats", &[])?;
    let what =
        Command { program: tcptrace.clone(), arguments: vec!["--json".into()], ready: Ready::FirstLine };
    let began = Instant::now();
    let tracer = Tracer::start(helpers, &what)?;
    let memory = load(&tracer, helpers, *transitions)?;
    let seen = tracer.finish(&what)?;
    let (accounts, is_sound) = Accounts::of(&seen)?.told(&memory);
    println!("{accounts}");
    say(format_args!("soak: {:.0} s", began.elapsed().as_secs_f64()));
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes connections until there were so many transitions. Returns the tracer's memory after each tenth, KiB.
fn load(tracer: &Tracer, helpers: &Path, transitions: u64) -> Result<Vec<u64>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rounds = transitions.div_ceil(u64::from(CONNECTIONS) * PER_CONNECTION);
    let mut memory = Vec::new();
    for round in 1..=rounds {
        helper::churn(helpers, CONNECTIONS, threads)?;
        if round * 10 / rounds > (round - 1) * 10 / rounds {
            let kib = proc::memory(tracer.pid(), "VmRSS").context("the tracer has ended")?;
            say(format_args!("soak: {round} of {rounds} rounds, {} MB", kib / 1024));
            memory.push(kib);
        }
    }
    Ok(memory)
}

/// Who counted how many transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Accounts {
    /// The kernel: runs of the program, and runs that it was kept from.
    kernel: u64,
    /// The tracer: those that reached the tracker.
    reached: u64,
    /// And those that did not.
    lost: u64,
    /// Records that it did not write, the reader being too slow.
    dropped: u64,
    /// Its reader: lines that are neither the first nor the last one.
    lines: u64,
    /// How often the tracer looked at all sockets again, which is two lines each.
    resyncs: u64,
}

impl Accounts {
    fn of(seen: &Seen) -> Result<Self> {
        let Some(summary) = seen.summary else { bail!("the tracer wrote no summary") };
        Ok(Self {
            kernel: seen.runs.events,
            reached: summary.transitions,
            lost: summary.lost,
            dropped: summary.dropped,
            lines: seen.lines.saturating_sub(2),
            resyncs: summary.resyncs,
        })
    }

    /// As a table, and whether everything is accounted for and memory is flat. Each loss is a line, too, of which there
    /// are as many as resyncs or more: then lines prove nothing.
    fn told(&self, memory: &[u64]) -> (String, bool) {
        let Self { kernel, reached, lost, dropped, lines, resyncs } = *self;
        let by_tracer = reached + lost;
        let printed_adds_up = resyncs > 0 || dropped > 0 || lines == reached;
        let (first, last) = (memory.first().copied().unwrap_or(0), memory.last().copied().unwrap_or(0));
        let is_flat = last <= first + FLAT_KIB;
        let adds_up = kernel == by_tracer;
        let verdict = |good| if good { "yes" } else { "NO" };
        let table = format!(
            "| transitions counted by the kernel | {kernel} |\n\
             | --- | ---: |\n\
             | that reached the tracker | {reached} |\n\
             | lost | {lost} |\n\
             | records not written | {dropped} |\n\
             | lines read, but for the first and the last | {lines} |\n\
             | looked at all sockets again | {resyncs} |\n\
             | memory after a tenth, at the end, KiB | {first}, {last} |\n\
             | kernel = reached + lost | {} |\n\
             | reached = printed + dropped | {} |\n\
             | memory flat | {} |\n",
            verdict(adds_up),
            verdict(printed_adds_up),
            verdict(is_flat)
        );
        (table, adds_up && printed_adds_up && is_flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: Accounts =
        Accounts { kernel: 1_000, reached: 1_000, lost: 0, dropped: 0, lines: 1_000, resyncs: 0 };

    #[test]
    fn each_thing_that_does_not_add_up_is_told() {
        let is_sound = |accounts: Accounts, memory: &[u64]| accounts.told(memory).1;
        assert!(is_sound(SOUND, &[9_000, 9_500, 9_100]));
        assert!(is_sound(Accounts { reached: 990, lost: 10, lines: 992, resyncs: 1, ..SOUND }, &[9_000]));
        assert!(!is_sound(Accounts { kernel: 1_001, ..SOUND }, &[9_000]));
        assert!(!is_sound(Accounts { lines: 999, ..SOUND }, &[9_000]));
        assert!(!is_sound(SOUND, &[9_000, 20_000]));
    }
}
