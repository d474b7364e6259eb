//! `cargo xtask test --kernels`: the kernel tests under real Debian kernels, each in a guest of
//! its own.
//!
//! # How a run goes
//! 1. [`kernels`] lists kernels and guests; [`cache`] fetches each kernel, once per version.
//! 2. [`image`] packs a file system: xtask, tcptrace, and the very test programs that run on this
//!    machine.
//! 3. [`qemu`] boots kernel and file system, as many guests at a time as there are processors. No
//!    part of the host is in reach of a guest but two serial lines to files.
//! 4. [`guest`] is xtask again, as the guest's first process: it runs the test programs and sends
//!    their results.
//! 5. [`report`] judges what came. The tracer's features in each guest make a table ([`features`])
//!    that has to be the one in docs/requirements.md.
//!
//! # When a guest fails
//! Output of programs with failed tests is printed. `target/kernels/GUEST/` has `console.log` (the
//! kernel), `tests.log` (what the guest sent) and `qemu.log`. `cargo xtask test --kernel GUEST
//! TEST
//! -- --nocapture` runs one test.
//!
//! # To add a kernel
//! Add a [`Kernel`] and a [`Guest`] in `kernels.rs`. The next full run prints the table for
//! docs/requirements.md.

mod cache;
mod features;
pub(crate) mod guest;
mod image;
mod kernels;
mod qemu;
mod report;

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use fs_err::{self as fs, File};

use crate::{
    compile::{self, Profile},
    environment,
    results::{Outcome, Place},
    shell::{self, say},
};
use kernels::{GUESTS, Guest, Kernel};
use report::Report;

/// How many lines of a log are shown.
const LOG_LINES: usize = 40;
/// How many lines of the output of a program with failed tests are shown; the failures come last.
const OUTPUT_LINES: usize = 200;

/// Runs the kernel tests in the guests of these labels, or all, and prints what came of each.
pub(crate) fn run(labels: &[String], arguments: &[String]) -> Result<Outcome> {
    ensure!(cfg!(target_arch = "x86_64"), "the guests' kernels are for x86_64, and this machine is not");
    let guests = kernels::select_guests(labels)?;
    let tcptrace = compile::build_tcptrace(Profile::Release)?;
    let tests = compile::build_kernel_tests()?;
    let target = tcptrace.ancestors().nth(2).context("cargo builds outside its target directory")?;
    let logs = target.join("kernels");
    fs::create_dir_all(&logs)?;
    let lock = File::create(logs.join("lock"))?;
    // Another run may be using them at this moment.
    lock.lock().context("cannot lock the guests' files")?;
    let names: Vec<_> = tests.programs.iter().map(|program| program.name.as_str()).collect();
    let programs = kernels::guest_programs(&names, arguments)?;
    let shared = logs.join("shared.cpio");
    image::build_shared(&tests, &programs, &tcptrace, &shared)?;
    let environment = environment::for_tests(env::vars_os());
    let kernels: BTreeMap<_, _> = guests.iter().map(|guest| (guest.kernel.label, guest.kernel)).collect();
    let cached = cache::provide_kernels(&kernels.into_values().collect::<Vec<Kernel>>())?;
    let reports = in_parallel(&guests, |guest| {
        let cached = cached[guest.kernel.label].as_ref().map_err(|why| format!("{why:#}"))?;
        let job = image::make_job(&programs, &cached.modules, arguments, &environment, guest.without);
        let directory = logs.join(guest.label);
        let boot = || {
            fs::create_dir_all(&directory)?;
            image::build_for_guest(&shared, &cached.modules, &job, &directory.join(qemu::IMAGE))?;
            say(format_args!("kernel {}: booting", guest.label));
            let (trouble, time) = qemu::run(&cached.image, &directory)?;
            fs::remove_file(directory.join(qemu::IMAGE))?;
            Ok::<_, anyhow::Error>(Report::new(&read_log(&directory.join(qemu::RESULTS)), trouble, time))
        };
        let report =
            boot().unwrap_or_else(|error| Report::of_failure(format!("it cannot be booted: {error:#}")));
        say(format_args!("kernel {}: {}", guest.label, report.totals()));
        Ok(report)
    });
    Ok(sum_up(&guests, reports, &logs))
}

/// What came of a guest, or why its kernel cannot be had.
type Fate = Result<Report, String>;

/// Boots as many guests at a time as there are processors; a guest has one. Their fates are in the
/// same order.
fn in_parallel(guests: &[Guest], boot: impl Fn(&Guest) -> Fate + Sync) -> Vec<Fate> {
    let next = AtomicUsize::new(0);
    let fates: Vec<_> = guests.iter().map(|guest| (guest, OnceLock::new())).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((guest, fate)) = fates.get(next.fetch_add(1, Ordering::Relaxed)) {
                    fate.get_or_init(|| boot(guest));
                }
            });
        }
    });
    fates.into_iter().filter_map(|(_, fate)| fate.into_inner()).collect()
}

/// Prints what failed, a line for each guest, and the table of features.
fn sum_up(guests: &[Guest], fates: Vec<Fate>, logs: &Path) -> Outcome {
    for (guest, report) in
        guests.iter().zip(&fates).filter_map(|(guest, fate)| Some((guest, fate.as_ref().ok()?)))
    {
        show_failures(guest.label, report, &logs.join(guest.label));
    }
    println!("\nkernels (logs are in {}):", logs.display());
    let mut outcome = Outcome::default();
    let mut features = Vec::new();
    for (guest, fate) in guests.iter().zip(fates) {
        match fate {
            Err(why) => {
                println!("  {:9} NOT AVAILABLE, which counts as a failure: {why}", guest.label);
                outcome.totals.failed += 1;
            }
            Ok(report) => {
                println!("  {:9} {report}", guest.label);
                outcome.totals += report.totals();
                features.extend(report.features.map(|features| (guest.label, features)));
                let programs = report.programs.into_iter().map(|(results, _)| results).collect();
                outcome.places.push(Place { name: guest.label.to_owned(), programs });
            }
        }
    }
    let table = features::features_table(&features);
    println!("\nkernel features that the tracer uses:\n{table}");
    if features.len() == GUESTS.len() {
        let document = fs::read_to_string(shell::workspace_root().join(features::DOCUMENT));
        if let Some(difference) = features::find_difference(&document.unwrap_or_default(), &table) {
            println!("\n{difference}");
            outcome.totals.failed += 1;
        }
    }
    outcome
}

/// Prints the output of programs with failed tests, and the end of the logs of a guest in trouble.
fn show_failures(label: &str, report: &Report, logs: &Path) {
    for (results, output) in report.programs.iter().filter(|(results, _)| results.totals.failed > 0) {
        let output = last_lines(output, OUTPUT_LINES);
        println!("\n---- kernel {label}: {} ----\n{output}", results.name);
    }
    for name in [qemu::CONSOLE, qemu::RESULTS].into_iter().filter(|_| !report.troubles.is_empty()) {
        let log = last_lines(&read_log(&logs.join(name)), LOG_LINES);
        println!("\n---- kernel {label}: the end of {name} ----\n{log}");
    }
}

fn read_log(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The last lines of a log, after the number of those before them.
fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    let before = lines.len().saturating_sub(count);
    let omitted = if before > 0 { format!("({before} lines before that)\n") } else { String::new() };
    omitted + &lines[before..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_says_what_it_leaves_out() {
        assert_eq!(last_lines("a\nb\n", 2), "a\nb");
        assert_eq!(last_lines("a\nb\nc\n", 2), "(1 lines before that)\nb\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
