//! `cargo xtask ci`: all that has to be right before a change is accepted.
//!
//! The checks run one after the other, even after one has failed, so that one run shows
//! everything: format, lints, documentation and dependencies, the tests on this machine (`cargo
//! xtask test`), then the kernel tests under every other kernel (`cargo xtask test --kernels`). A
//! kernel test that runs in none of these places is a failure too.

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, ensure};

use crate::{
    matrix,
    results::Outcome,
    setup::{self, Purpose},
    shell::{self, say},
    test,
};

/// Each check's name, cargo's arguments, and RUSTDOCFLAGS.
const CHECKS: [(&str, &str, &str); 4] = [
    ("format", "fmt --all --check", ""),
    // tcptrace-ebpf is compiled for BPF, so the checks for the host leave it out.
    ("lints", "clippy --workspace --exclude tcptrace-ebpf --all-targets -- -D warnings", ""),
    // clippy has no `core` for BPF: the BPF programs are checked as if for the host. In release,
    // because dev unwinds, which needs std.
    ("lints of the BPF programs", "clippy --package tcptrace-ebpf --release -- -D warnings", ""),
    (
        "documentation",
        "doc --workspace --exclude tcptrace-ebpf --no-deps --document-private-items",
        "-Dwarnings",
    ),
];

/// The version of cargo-deny that is installed where there is none.
const DENY_VERSION: &str = "0.20.2";
/// What was not checked, and what to do about it.
const NO_ADVISORIES: &str = "NOT CHECKED: advisories, because their database cannot be fetched. Run \
                             `cargo deny check advisories` where the network allows it";

/// Runs everything.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::default();
    let mut all = Outcome::default();
    steps.run("setup", || setup::prepare(&[Purpose::Test, Purpose::Guests]));
    ensure!(!steps.have_failed, "without set-up nothing else can run");
    for (name, arguments, rustdoc_flags) in CHECKS {
        steps.run(name, || {
            let mut cargo = shell::cargo();
            if !rustdoc_flags.is_empty() {
                cargo.env("RUSTDOCFLAGS", rustdoc_flags);
            }
            shell::run(cargo.args(arguments.split(' ')))
        });
    }
    let mut has_advisories = true;
    steps.run("dependencies", || check_dependencies().map(|checked| has_advisories = checked));
    let mut run_tests = |name, run: fn() -> Result<Outcome>| {
        steps.run(name, || {
            // Tests that could not be started count as a failure.
            all.totals.failed += 1;
            let outcome = run()?;
            all.totals.failed -= 1;
            all.totals += outcome.totals;
            all.places.extend(outcome.places);
            ensure!(outcome.totals.failed == 0, "{}", outcome.totals);
            Ok(())
        });
    };
    run_tests("tests", || test::run_here(&test::Options::default()));
    run_tests("tests under other kernels", || matrix::run(&[], &[]));
    let unrun = test::show_unrun(&all.places);
    all.totals.failed += u64::try_from(unrun)?;
    eprintln!("\n{}\n", steps.summary.join("\n"));
    if !has_advisories {
        eprintln!("{NO_ADVISORIES}\n");
    }
    println!("{}", all.totals);
    Ok(if steps.have_failed || unrun > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What ran so far.
#[derive(Default)]
struct Steps {
    /// A line for each.
    summary: Vec<String>,
    have_failed: bool,
}

impl Steps {
    /// Runs a step under a heading. If it fails, the others still run.
    fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        eprintln!("\n==== {name} ====");
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        eprintln!("==== {name}: {seconds:.1} s ====");
        self.have_failed |= result.is_err();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        self.summary.push(format!("{verdict:6} {name} ({seconds:.1} s)"));
    }
}

/// Checks with deny.toml what Cargo.lock names, and installs cargo-deny first if it is missing.
/// Returns whether advisories were checked too.
fn check_dependencies() -> Result<bool> {
    if shell::read_output(shell::cargo().args(["deny", "--version"])).is_err() {
        say(format_args!(
            "installing cargo-deny {DENY_VERSION}: it checks the dependencies against deny.toml"
        ));
        shell::run(shell::cargo().args([
            "install",
            "cargo-deny",
            "--version",
            DENY_VERSION,
            "--locked",
            "--force",
        ]))?;
    }
    // `check` exits with 1 for a vulnerable dependency and for a database that it cannot fetch.
    let has_database = shell::run(shell::cargo().args(["deny", "fetch", "db"])).is_ok();
    let offline: &[&str] = if has_database { &[] } else { &["licenses", "bans", "sources"] };
    shell::run(shell::cargo().args(["deny", "check"]).args(offline))?;
    Ok(has_database)
}
