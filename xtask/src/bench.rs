//! `cargo xtask bench`: what tracing costs, by ratios within one run.
//!
//! Absolute numbers are those of a machine on a day. So everything is measured next to what it is compared with, over
//! several rounds in turn: a churn of connections untraced and traced in each way (`churn.rs`), who holds thousands of
//! stuck sockets by tcptrace, `ss` and `lsof` (`owners.rs`), and the code between ring and output without a kernel
//! (`tcptrace/benches/pipeline.rs`). Building and the last run as the user; the rest is [`measure`], as root.

mod churn;
mod figures;
mod goals;
pub(crate) mod helper;
mod owners;
pub(crate) mod proc;
mod table;
pub(crate) mod tracer;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    compile::{self, Profile},
    setup::{self, Scope},
    shell::{self, say},
};
use goals::Goal;

/// The highest priority of all that is not real-time (setpriority(2)).
const HIGHEST: i32 = -20;

/// How long to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds: a minute or two, with more noise
    #[arg(long)]
    quick: bool,
}

/// What the part that runs as root is told by the part that has built everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Measure {
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    tcptrace: PathBuf,
    /// Where the programs of the package `tests` are.
    #[arg(long)]
    helpers: PathBuf,
    /// The benchmark of owner resolution.
    #[arg(long)]
    owners: PathBuf,
    /// What the pipeline's benchmark found, for the goals.
    #[arg(long)]
    bytes_per_socket: Option<f64>,
}

/// Builds everything, and runs all the benchmarks.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let tools = setup::run(Scope::Test)?;
    let tcptrace = compile::tcptrace(&tools, Profile::Release)?;
    let built = compile::benchmarks(&tools)?;
    let pipeline = pipeline(&built.pipeline, options.quick)?;
    println!("{pipeline}");
    let this = std::env::current_exe().context("/proc is not there")?;
    let mut root = shell::as_root(this.as_os_str(), &[])?;
    root.arg("bench-as-root").arg("--tcptrace").arg(tcptrace).arg("--helpers").arg(built.helpers);
    root.arg("--owners").arg(built.owners);
    if options.quick {
        root.arg("--quick");
    }
    if let Some(bytes) = bytes_per_socket(&pipeline) {
        root.arg("--bytes-per-socket").arg(bytes.to_string());
    }
    let status = root.status().context("cannot run the part that needs root")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part that runs as root.
pub(crate) fn measure(measure: &Measure) -> Result<ExitCode> {
    let quick = measure.quick;
    offer_tracefs();
    // Ourselves, and all that is started from here: whatever else the machine does then weighs less.
    rustix::process::setpriority_process(None, HIGHEST).context("cannot raise the priority")?;
    say(format_args!("churn: {} rounds of each tracer, all in turn", churn::Plan::new(quick).rounds));
    let churned = churn::run(measure, churn::Plan::new(quick))?;
    say(format_args!("owners: {} rounds", owners::rounds(quick)));
    let owned = owners::run(measure, owners::rounds(quick))?;
    println!("{churned}\n{owned}");
    let memory = measure
        .bytes_per_socket
        .map(|bytes| Goal::at_most("bytes per tracked socket, of 100,000", bytes, 200.0, ""));
    let goals: Vec<_> = churned.goals().into_iter().chain(owned.goals()).chain(memory).collect();
    println!("{}", goals::table_of(&goals));
    for missing in churned.missing.into_iter().chain(owners::missing()) {
        println!("{missing}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Mounts what other tools look for, where it is not mounted, and where nobody but us sees it. tcptrace does without.
fn offer_tracefs() {
    use rustix::{
        mount::{MountFlags, MountPropagationFlags, mount, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };
    // SAFETY: this process has one thread; from here on its mounts are its own and its children's, nothing else changes.
    let alone = unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
        .and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
    if alone.is_ok() {
        for (kind, target) in [("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug")] {
            let _there_already_or_not_to_be_had = mount(kind, target, kind, MountFlags::empty(), None);
        }
    }
}

/// Runs the benchmark of the pipeline, and returns what it prints.
fn pipeline(program: &std::path::Path, quick: bool) -> Result<String> {
    say(format_args!("pipeline: records to bytes, without a kernel"));
    let mut arguments = vec![OsString::from("--bench"), "--color".into(), "never".into()];
    if quick {
        arguments.extend(["--sample-count".into(), "20".into()]);
    }
    let mut command = shell::command(program);
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run the benchmark of the pipeline")?;
    anyhow::ensure!(output.status.success(), "the benchmark of the pipeline failed ({})", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Among the lines of the pipeline's benchmark: `every_transition_as_json LIVE BYTES (PEAK) ALLOCATIONS`.
fn bytes_per_socket(pipeline: &str) -> Option<f64> {
    pipeline.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["every_transition_as_json", "100000", bytes, ..] => bytes.parse().ok(),
            _ => None,
        }
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
