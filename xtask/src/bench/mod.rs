//! `cargo xtask bench`: what tracing costs, as ratios within one run.
//!
//! # What is measured
//! Absolute numbers are those of one machine on one day. So everything is measured beside what it
//! is compared with, in rounds that take turns:
//! - [`churn`]: short connections, untraced and traced in each way, by tcptrace, an empty program
//!   and other tools
//! - [`owners`]: who holds thousands of stuck sockets, by tcptrace, `ss` and `lsof`; and how long
//!   tcptrace takes to start
//! - `tcptrace/benches/pipeline.rs`: the code between ring and output, without a kernel
//!
//! The last runs as the user, the others as root ([`measure`]). [`tracer`] runs a tracer under
//! load, [`proc`] reads what it used, and [`figures`] sums up the rounds and has the goals.
//! docs/performance.md explains the tables.
//!
//! # When it fails
//! The error names the program and what it wrote to stderr. A tool that isn't there, or can't work
//! on this kernel, is left out and named at the end.
//!
//! # To add a figure
//! A way to trace is a line in `churn::OURS` or `churn::RIVALS`, a column is one in
//! `Churned::cells`; a [`Goal`] is a line in `goals()` of the module that measures it.

mod churn;
pub(crate) mod figures;
pub(crate) mod helper;
mod owners;
pub(crate) mod proc;
pub(crate) mod tracer;

use std::{
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    compile::{self, Programs},
    setup,
    shell::{self, say},
};
use figures::{Goal, table};

/// The highest priority of all that is not real-time (setpriority(2)).
const HIGHEST_PRIORITY: i32 = -20;

/// How long to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds: a minute or two, with more noise
    #[arg(long)]
    quick: bool,
}

/// What the part that runs as root gets from the part that has built everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    quick: bool,
    programs: Programs,
    /// A result of the pipeline's benchmark, for the goals.
    bytes_per_socket: Option<f64>,
}

/// Builds everything, and runs all the benchmarks.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    setup::prepare(&[])?;
    let (pipeline, programs) = compile::build_benchmarks()?;
    let Options { quick } = options;
    let pipeline = run_pipeline(&pipeline, quick)?;
    println!("{pipeline}");
    let bytes_per_socket = bytes_per_socket(&pipeline);
    shell::run_self_as_root("bench-as-root", &Measure { quick, programs, bytes_per_socket })
}

/// Runs the benchmarks that need root.
pub(crate) fn measure(measure: &Measure) -> Result<ExitCode> {
    mount_tracefs();
    // For this process and all that it starts: what else the machine does weighs less then.
    rustix::process::setpriority_process(None, HIGHEST_PRIORITY).context("cannot raise the priority")?;
    let churned = churn::run(&measure.programs, churn::Plan::new(measure.quick))?;
    let owned = owners::run(&measure.programs, if measure.quick { 3 } else { 9 })?;
    println!("{churned}\n{owned}");
    let memory = measure.bytes_per_socket;
    let memory = memory.map(|bytes| Goal::at_most("bytes per tracked socket, of 100,000", bytes, 200.0, ""));
    let goals = churned.goals().into_iter().chain(owned.goals()).chain(memory);
    let rows: Vec<_> = goals.map(|goal| goal.row()).collect();
    println!("Goals\n\n{}", table(&["goal", "limit", "measured", ""], &rows));
    for missing in churned.missing.iter().chain(&owned.missing) {
        println!("{missing}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Mounts what other tools need and tcptrace doesn't, in a mount namespace of its own.
fn mount_tracefs() {
    use rustix::{
        mount::{MountFlags, MountPropagationFlags, mount, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };
    // SAFETY: this process has one thread, and of what it shares only the mounts become its own.
    let is_private = unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
    if is_private.is_ok() {
        for (kind, target) in [("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug")] {
            let _mounted_already_or_not_available = mount(kind, target, kind, MountFlags::empty(), None);
        }
    }
}

/// Runs the benchmark of the pipeline, and returns what it prints.
fn run_pipeline(program: &Path, quick: bool) -> Result<String> {
    say(format_args!("pipeline: records to bytes, without a kernel"));
    let samples: &[&str] = if quick { &["--sample-count", "20"] } else { &[] };
    let mut command = shell::command(program);
    command.args(["--bench", "--color", "never"]).args(samples).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run the benchmark of the pipeline")?;
    ensure!(output.status.success(), "the benchmark of the pipeline failed ({})", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bytes in the pipeline's line `every_transition_as_json LIVE BYTES (PEAK) ALLOCATIONS`.
fn bytes_per_socket(pipeline: &str) -> Option<f64> {
    pipeline.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["every_transition_as_json", "100000", bytes, ..] => bytes.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_per_socket_are_found_in_the_table() {
        let table = "bytes per …\nevery_transition_as_json   1000   338 (507) 0.0000\n\
                     every_transition_as_json  100000  217 (325) 0.0000\nstuck_only 100000 9 (9) 0.1\n";
        assert_eq!(bytes_per_socket(table), Some(217.0));
        assert_eq!(bytes_per_socket("every_transition_as_json  100000"), None);
    }
}
