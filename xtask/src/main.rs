//! `cargo xtask`: what one does with this repository, each in one command.
//!
//! This file holds the command line and calls the module that does the work; it decides nothing else.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "speaking is its job: results on stdout, what it does on stderr"
)]

mod bench;
mod cargo_json;
mod ci;
mod compile;
mod deny;
mod facts;
mod install;
mod matrix;
mod packages;
mod places;
mod plan;
mod results;
mod setup;
mod shell;
mod soak;
mod test;
mod tools;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{compile::Profile, setup::Scope};

/// Set up, build, run, test and install tcptrace.
///
/// Run it as yourself: what needs root (installing packages, loading BPF programs) is done with sudo, and only
/// that. Every command first installs what it misses, saying what and why.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need and is missing: a compiler and a linker for BPF, test tools
    Setup {
        /// Only report what is missing; exit status 1 if anything is
        #[arg(long)]
        check: bool,
    },
    /// Build tcptrace and print the path of the binary
    Build {
        /// Optimised, as it is installed (the default)
        #[arg(long, conflicts_with = "debug")]
        release: bool,
        /// Not optimised, with debug assertions
        #[arg(long)]
        debug: bool,
    },
    /// Build tcptrace and run it as root, with the arguments after `--`
    ///
    /// Only tcptrace writes to stdout, and its exit status is the one you get:
    /// `cargo xtask run -- --stuck 30s --json | jq`
    Run {
        /// Run the unoptimised build
        #[arg(long)]
        debug: bool,
        /// Arguments for tcptrace
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Run the unit tests as you and the kernel tests as root
    ///
    /// The last line says how many tests passed and failed. The exit status is 1 if one failed, or if no kernel
    /// test ran though kernel tests were asked for.
    ///
    /// With --kernels the kernel tests run in virtual machines instead, under kernels from Debian's archives. They
    /// are kept in ~/.cache/tcptrace/kernels ($TCPTRACE_KERNEL_CACHE). One that cannot be had is a failure unless
    /// $TCPTRACE_KERNELS_MAY_MISS names it.
    Test(test::Options),
    /// Check format, lints, documentation and dependencies, then run all the tests, here and under all kernels
    Ci,
    /// Measure what tracing costs: tables of ratios within one run, next to other tools where they are installed
    ///
    /// It installs none of them, and says which are missing. docs/performance.md says what the tables mean. Anything
    /// else that runs on the machine meanwhile makes them less certain.
    Bench(bench::Options),
    /// Send millions of transitions through one run, and account for every one of them
    Soak(soak::Options),
    /// The part of `soak` that needs root
    #[command(hide = true)]
    SoakAsRoot(soak::Measure),
    /// The part of `bench` that needs root
    #[command(hide = true)]
    BenchAsRoot(bench::Measure),
    /// What a guest runs as its first process
    #[command(hide = true)]
    Guest,
    /// Build tcptrace and install it for all users, so that `sudo tcptrace` finds it
    Install {
        /// Install to PREFIX/bin
        #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
        prefix: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { check: true } => return setup::check(),
        Task::Setup { check: false } => {
            let outcome = setup::run(Scope::Test)?;
            shell::say(format_args!("ready: {}", outcome.way));
        }
        Task::Build { release: _, debug } => {
            let tools = setup::run(Scope::Build)?;
            println!("{}", compile::tcptrace(&tools, Profile::new(debug))?.display());
        }
        Task::Run { debug, arguments } => {
            let tools = setup::run(Scope::Build)?;
            let binary = compile::tcptrace(&tools, Profile::new(debug))?;
            return Err(shell::become_root(&binary, &arguments));
        }
        Task::Test(options) => return test::run(&options),
        Task::Bench(options) => return bench::run(options),
        Task::Soak(options) => return soak::run(&options),
        Task::SoakAsRoot(measure) => return soak::measure(&measure),
        Task::BenchAsRoot(measure) => return bench::measure(&measure),
        Task::Ci => return ci::run(),
        Task::Guest => return matrix::guest::main(),
        Task::Install { prefix } => install::run(&prefix)?,
    }
    Ok(ExitCode::SUCCESS)
}
