//! `cargo xtask ci`: all that has to be right before a change is accepted.
//!
//! The checks run one after the other, also when one fails, so that one run shows everything. The tests at the end
//! are those of `cargo xtask test`, and then those of `cargo xtask test --kernels`: the same kernel tests under every other
//! kernel. A kernel test that runs neither here nor there tests nothing: that is a failure too.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    deny, matrix, places,
    results::Totals,
    setup::{self, Scope, Tools},
    shell,
    test::{self, Outcome},
};

/// The crate that is compiled for BPF, which the checks for the host leave out.
const BPF_CRATE: &str = "tcptrace-ebpf";

/// A check: its name, cargo's arguments, and a variable for it.
struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    variable: Option<(&'static str, &'static str)>,
}

const CHECKS: [Check; 4] = [
    Check { name: "format", arguments: &["fmt", "--all", "--check"], variable: None },
    Check {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--exclude",
            BPF_CRATE,
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        variable: None,
    },
    // clippy has no `core` for BPF, so this is checked as if it were for the host; in release, which unlike dev
    // doesn't unwind: without std there is nothing to do that with.
    Check {
        name: "lints of the BPF programs",
        arguments: &["clippy", "--package", BPF_CRATE, "--release", "--", "-D", "warnings"],
        variable: None,
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--workspace", "--exclude", BPF_CRATE, "--no-deps", "--document-private-items"],
        variable: Some(("RUSTDOCFLAGS", "-Dwarnings")),
    },
];

/// Runs everything.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::default();
    let tools = steps.step("setup", || setup::run(Scope::Guests))?;
    for check in &CHECKS {
        // A check that fails is noted, and doesn't keep the others from running.
        let _noted = steps.step(check.name, || run_check(check, &tools));
    }
    let has_advisories = steps.step("dependencies", deny::check);
    let here = steps.tests("tests", || test::run_with(&tools, &test::Options::default()));
    let kernels = steps.tests("tests under other kernels", || matrix::run(&tools, &[], &[]));
    let mut totals = Totals::default();
    let mut places = Vec::new();
    for outcome in [here, kernels] {
        // Tests that couldn't even be started are not none at all.
        totals +=
            outcome.as_ref().map_or(Totals { failed: 1, ..Totals::default() }, |outcome| outcome.totals);
        places.extend(outcome.into_iter().flat_map(|outcome| outcome.places));
    }
    test::show_nowhere(&places);
    let nowhere = places::ran_nowhere(&places).len();
    totals.failed += u64::try_from(nowhere).unwrap_or(u64::MAX);
    if nowhere > 0 {
        steps.mark_failed();
    }
    steps.summarise();
    if matches!(has_advisories, Ok(false)) {
        eprintln!("{}\n", deny::NO_ADVISORIES);
    }
    println!("{totals}");
    Ok(if steps.all_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_check(check: &Check, tools: &Tools) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(check.arguments).envs(check.variable);
    cargo.envs(tools.environment.iter().map(|(name, value)| (name, value)));
    shell::run(&mut cargo)
}

/// What ran, how long it took, and whether it failed.
#[derive(Debug, Default)]
struct Steps(Vec<(&'static str, Duration, bool)>);

impl Steps {
    /// Runs one under a heading.
    fn step<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n==== {name} ====");
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        let time = start.elapsed();
        eprintln!("==== {name}: {:.1} s ====", time.as_secs_f64());
        self.0.push((name, time, result.is_ok()));
        result
    }

    /// Runs tests under a heading.
    fn tests(&mut self, name: &'static str, tests: impl FnOnce() -> Result<Outcome>) -> Option<Outcome> {
        let outcome = self.step(name, tests).ok();
        if !outcome.as_ref().is_some_and(|outcome| outcome.good) {
            self.mark_failed();
        }
        outcome
    }

    fn mark_failed(&mut self) {
        if let Some((_, _, good)) = self.0.last_mut() {
            *good = false;
        }
    }

    fn all_good(&self) -> bool {
        self.0.iter().all(|(_, _, good)| *good)
    }

    fn summarise(&self) {
        eprintln!();
        for (name, time, good) in &self.0 {
            eprintln!("{:6} {name} ({:.1} s)", if *good { "ok" } else { "FAILED" }, time.as_secs_f64());
        }
        eprintln!();
    }
}
