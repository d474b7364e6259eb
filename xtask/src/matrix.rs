//! `cargo xtask test --kernels`: the kernel tests under real Debian kernels, each in a guest of its own.
//!
//! The kernels (`matrix/list.rs`) are fetched (`archive`, `cache`), the very programs that run on this machine are
//! packed into a file system (`image`), QEMU boots it (`qemu`), xtask itself runs the tests in there (`guest`), and
//! what it tells over a serial line (`frames`) is judged (`report`). Nothing of the host is in reach of a guest.
//! What the tracer finds in each is held against docs/requirements.md (`features`).

mod archive;
mod cache;
mod cpio;
mod features;
mod frames;
pub(crate) mod guest;
mod image;
mod list;
mod modules;
mod qemu;
mod report;
mod vmlinux;

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    compile::{self, Profile},
    places::Place,
    results::Totals,
    setup::Tools,
    shell::{self, say},
    test::{self, Outcome},
};
use cache::Cached;
use image::Job;
use list::{Guest, Kernel, MAY_MISS_VARIABLE};
use report::Report;

/// How many lines of a log are shown.
const TAIL: usize = 40;
/// How many lines of what a program with failed tests printed are shown; the failures come last.
const OUTPUT: usize = 200;

/// What became of a guest of the matrix.
enum Fate {
    /// Its kernel could not be had, for this reason.
    Missing(String),
    /// It was booted, or nearly.
    Booted(Report, Option<String>),
}

/// Runs the kernel tests in the guests of these labels, or all; prints what each came to.
pub(crate) fn run(tools: &Tools, labels: &[String], arguments: &[String]) -> Result<Outcome> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests' kernels are for x86_64, and so would have to be the tests that were built here");
    }
    let guests = list::select(labels, &env::var(MAY_MISS_VARIABLE).unwrap_or_default())?;
    let tcptrace = compile::tcptrace(tools, Profile::Release)?;
    let tests = compile::kernel_tests(tools)?;
    let target =
        tcptrace.parent().and_then(Path::parent).context("cargo builds outside its target directory")?;
    let logs = target.join("kernels");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let lock = File::create(logs.join("lock")).context("cannot make the lock of the guests' files")?;
    // Another run may be using them at this moment.
    lock.lock().context("cannot lock the guests' files")?;
    let names: Vec<_> = tests.programs.iter().map(|program| program.name.as_str()).collect();
    let job = Job {
        tests: &tests,
        programs: list::guest_programs(&names, arguments)?,
        tcptrace: &tcptrace,
        arguments: arguments.to_owned(),
        environment: test::environment(&tcptrace, env::vars_os()),
    };
    let shared = logs.join("shared.cpio");
    image::build(&job, &logs, &shared)?;
    let kernels: BTreeMap<_, _> = guests.iter().map(|guest| (guest.kernel.label, guest.kernel)).collect();
    let kernels: Vec<Kernel> = kernels.into_values().collect();
    let cached = cache::provide(&kernels)?;
    let cached: BTreeMap<_, _> = kernels.iter().map(|kernel| kernel.label).zip(cached).collect();
    let fates = boot_all(&guests, |guest| {
        let logs = logs.join(guest.label);
        match &cached[guest.kernel.label] {
            Ok(cached) => boot(guest, cached, &job, &shared, &logs),
            Err(why) => Fate::Missing(format!("{why:#}")),
        }
    });
    let mut outcome = sum_up(&guests, &fates, &logs);
    if !agrees_with_document(&guests, &fates) {
        outcome.totals.failed += 1;
        outcome.good = false;
    }
    Ok(outcome)
}

/// Boots as many at a time as there are processors; a guest has one.
fn boot_all(guests: &[Guest], boot: impl Fn(&Guest) -> Fate + Sync) -> Vec<Fate> {
    let waiting: VecDeque<_> = guests.iter().enumerate().collect();
    let workers = thread::available_parallelism().map_or(1, usize::from).min(waiting.len());
    let waiting = Mutex::new(waiting);
    let done = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((number, guest)) = next() {
                    let fate = boot(guest);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, fate));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, fate)| fate).collect()
}

fn boot(guest: &Guest, cached: &Cached, job: &Job<'_>, shared: &Path, logs: &Path) -> Fate {
    let report = try_to_boot(guest, cached, job, shared, logs).unwrap_or_else(|error| Report {
        troubles: vec![format!("it cannot be booted: {error:#}")],
        ..Report::default()
    });
    let totals = report.totals();
    say(format_args!("kernel {}: {totals} ({:.1} s)", guest.label, report.time.as_secs_f64()));
    Fate::Booted(report, cached.warning.clone())
}

fn try_to_boot(guest: &Guest, cached: &Cached, job: &Job<'_>, shared: &Path, logs: &Path) -> Result<Report> {
    fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let files = qemu::Files {
        vmlinux: cached.vmlinux(),
        image: logs.join("image.cpio"),
        console: console(logs),
        results: results(logs),
    };
    for log in [&files.console, &files.results] {
        // What an earlier run left there must not pass for this one's.
        fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    }
    image::of_guest(shared, &cached.modules()?, &job.to_json(guest.without), &files.image)?;
    say(format_args!("kernel {}: booting", guest.label));
    let (end, time) = qemu::run(&files)?;
    let told =
        fs::read(&files.results).with_context(|| format!("cannot read {}", files.results.display()))?;
    fs::remove_file(&files.image).context("cannot remove the guest's file system")?;
    Ok(Report::new(&String::from_utf8_lossy(&told), &end, time))
}

fn console(logs: &Path) -> PathBuf {
    logs.join("console.log")
}

fn results(logs: &Path) -> PathBuf {
    logs.join("tests.log")
}

/// Prints what failed, then a line for each guest.
fn sum_up(guests: &[Guest], fates: &[Fate], logs: &Path) -> Outcome {
    let with_fate = || guests.iter().zip(fates);
    for (guest, fate) in with_fate() {
        if let Fate::Booted(report, _) = fate {
            show_failures(guest, report, &logs.join(guest.label));
        }
    }
    println!("\nkernels (logs are in {}):", logs.display());
    let mut outcome = Outcome { totals: Totals::default(), good: true, places: Vec::new() };
    for (guest, fate) in with_fate() {
        match fate {
            Fate::Missing(why) => {
                let excuse = if guest.kernel.may_miss { "" } else { ", which counts as a failure" };
                println!("  {:9} NOT AVAILABLE{excuse}: {why}", guest.label);
                if !guest.kernel.may_miss {
                    println!("        (to do without it: {MAY_MISS_VARIABLE}={})", guest.kernel.label);
                    outcome.totals.failed += 1;
                }
            }
            Fate::Booted(report, warning) => {
                println!("  {:9} {report}", guest.label);
                if let Some(warning) = warning {
                    println!("        {warning}");
                }
                outcome.totals += report.totals();
                let programs = report.programs.iter();
                let tests = programs.map(|program| (program.name.as_str(), &program.results.tests));
                outcome.places.push(Place::new(guest.label, tests));
            }
        }
    }
    outcome.good = outcome.totals.failed == 0 && outcome.totals.passed > 0;
    outcome
}

/// Prints what the tracer finds in each guest. Whether docs/requirements.md says the same of them all, where all told.
fn agrees_with_document(guests: &[Guest], fates: &[Fate]) -> bool {
    let told = guests.iter().zip(fates).filter_map(|(guest, fate)| match fate {
        Fate::Booted(report, _) => Some((guest.label, report.features.as_ref()?)),
        Fate::Missing(_) => None,
    });
    let told: Vec<_> = told.collect();
    let table = features::table(&told);
    println!("\nkernel features that the tracer uses:\n{table}");
    if told.len() < list::GUESTS.len() {
        return true;
    }
    let document = fs::read_to_string(shell::workspace_root().join(features::DOCUMENT)).unwrap_or_default();
    let complaint = features::complain(&document, &table);
    complaint.iter().for_each(|complaint| println!("\n{complaint}"));
    complaint.is_none()
}

/// What the programs with failed tests printed, and of a guest in trouble the end of what its kernel said.
fn show_failures(guest: &Guest, report: &Report, logs: &Path) {
    for program in report.programs.iter().filter(|program| program.results.totals.failed > 0) {
        let output = tail(&program.output, OUTPUT);
        println!("\n---- kernel {}: {} ----\n{output}", guest.label, program.name);
    }
    if !report.troubles.is_empty() {
        let paths = [("console", console(logs)), ("tests", results(logs))];
        for (name, path) in paths {
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            println!("\n---- kernel {}: the end of its {name} log ----\n{}", guest.label, tail(&log, TAIL));
        }
    }
}

/// The last lines, and how many come before them.
fn tail(log: &str, count: usize) -> String {
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
        assert_eq!(tail("a\nb\n", 2), "a\nb");
        assert_eq!(tail("a\nb\nc\n", 2), "(1 lines before that)\nb\nc");
        assert_eq!(tail("", 2), "");
    }
}
