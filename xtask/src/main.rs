//! `cargo xtask`: sets up, builds, runs, tests, measures and installs tcptrace, each in one
//! command.
//!
//! This file holds the command line and calls the module that does the work: [`setup`] installs
//! what a command needs, [`compile`] builds, [`mod@test`] runs tests here and [`matrix`] in guests
//! with other kernels, [`mod@bench`] and [`soak`] measure, [`ci`] runs all checks.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints results on stdout and progress on stderr"
)]

mod bench;
mod ci;
mod compile;
mod environment;
mod install;
mod matrix;
mod results;
mod setup;
mod shell;
mod soak;
mod test;
#[cfg(test)]
mod unlinked;
mod version;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{compile::Profile, setup::Purpose};

/// Set up, build, run, test and install tcptrace.
///
/// Run it as yourself: only what needs root (installing packages, loading BPF programs) is done
/// with sudo. Each command first installs what it needs and the machine lacks, and says what and
/// why.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing for building and testing: a compiler and a linker for BPF, test
    /// tools
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
    /// Stdout and the exit status are those of tcptrace:
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
    /// The last line says how many tests passed and failed. The exit status is 1 if one failed, or
    /// if no kernel test ran though kernel tests were asked for.
    ///
    /// With --kernels the kernel tests run in virtual machines instead, under kernels from
    /// Debian's archives, kept in `~/.cache/tcptrace/kernels` (`$TCPTRACE_KERNEL_CACHE`). A kernel
    /// that cannot be fetched is a failure.
    Test(test::Options),
    /// Check format, lints, documentation and dependencies, then run all the tests, here and under
    /// all kernels
    Ci,
    /// Measure what tracing costs: tables of ratios within one run, next to other tools where they
    /// are installed
    ///
    /// It installs none of the other tools, and says which are missing. docs/performance.md
    /// explains the tables. Run it on a quiet machine.
    Bench(bench::Options),
    /// Send millions of transitions through one run, and check that none is missing from the
    /// counts
    Soak(soak::Options),
    /// The part of `bench` that needs root
    #[command(hide = true)]
    BenchAsRoot {
        /// A [`bench::Measure`] as JSON
        measure: String,
    },
    /// The part of `soak` that needs root
    #[command(hide = true)]
    SoakAsRoot {
        /// A [`soak::Measure`] as JSON
        measure: String,
    },
    /// The first process of a guest of the kernel matrix
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

fn profile(is_debug: bool) -> Profile {
    if is_debug { Profile::Debug } else { Profile::Release }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { check: true } => return setup::check(),
        Task::Setup { check: false } => {
            setup::prepare(&[Purpose::Test])?;
            shell::say(format_args!("nothing is missing"));
        }
        Task::Build { release: _, debug } => {
            setup::prepare(&[])?;
            println!("{}", compile::build_tcptrace(profile(debug))?.display());
        }
        Task::Run { debug, arguments } => {
            setup::prepare(&[])?;
            let binary = compile::build_tcptrace(profile(debug))?;
            return Err(shell::become_root(&binary, &arguments));
        }
        Task::Test(options) => return test::run(&options),
        Task::Bench(options) => return bench::run(options),
        Task::Soak(options) => return soak::run(options),
        Task::BenchAsRoot { measure } => return bench::measure(&serde_json::from_str(&measure)?),
        Task::SoakAsRoot { measure } => return soak::measure(&serde_json::from_str(&measure)?),
        Task::Ci => return ci::run(),
        Task::Guest => return matrix::guest::main(),
        Task::Install { prefix } => install::run(&prefix)?,
    }
    Ok(ExitCode::SUCCESS)
}
