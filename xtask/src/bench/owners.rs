//! Who holds thousands of stuck sockets, by tcptrace, `ss` and `lsof`; and how long tcptrace takes to start.

use std::{
    fmt,
    fs::File,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    Measure,
    figures::Figures,
    goals::Goal,
    helper::{self, Killed},
    proc,
    table::table,
};
use crate::shell;

/// Held in CLOSE_WAIT by one process.
const SOCKETS: usize = 15_000;
/// Of the benchmark of owner resolution alone, in each round.
const PASSES: usize = 3;

/// All are stuck, as JSON and as text; none is, for so long.
const ONCE: [(&str, &[&str]); 3] = [
    ("tcptrace --stuck 0s --once --json", &["--stuck", "0s", "--once", "--json"]),
    ("tcptrace --stuck 0s --once", &["--stuck", "0s", "--once"]),
    ("tcptrace --stuck 1h --once: none is stuck", &["--stuck", "1h", "--once"]),
];
/// What this is compared with: name, arguments, Debian package.
const RIVALS: [(&str, &[&str], &str); 2] =
    [("ss", &["-tnp"], "iproute2"), ("lsof", &["-nP", "-iTCP"], "lsof")];

pub(crate) fn rounds(quick: bool) -> usize {
    if quick { 3 } else { 9 }
}

/// A line for each tool that is not here.
pub(crate) fn missing() -> Vec<String> {
    let absent = RIVALS.iter().filter(|(name, ..)| shell::find(name).is_none());
    absent.map(|(name, _, package)| format!("not compared with {name}: apt install {package}")).collect()
}

/// Milliseconds each, one a round.
#[derive(Default)]
struct Times {
    walk: Vec<f64>,
    gather: Vec<f64>,
    resolution: Vec<f64>,
    /// In the order of [`ONCE`].
    once: [Vec<f64>; ONCE.len()],
    rivals: Vec<(String, Vec<f64>)>,
    start: Vec<f64>,
    report: Vec<f64>,
}

/// What has been measured.
pub(crate) struct Owned {
    times: Times,
    quiet_start: Vec<f64>,
    /// KiB.
    idle: Vec<f64>,
    idle_peak: Vec<f64>,
    rounds: usize,
}

/// Runs all rounds.
pub(crate) fn run(measure: &Measure, rounds: usize) -> Result<Owned> {
    let (mut quiet_start, mut idle, mut idle_peak) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (began, tracer) = start(&measure.tcptrace, "30s", "start")?;
        quiet_start.push(began);
        let kib = |which| proc::memory(tracer.0.id(), which).context("it has ended");
        idle.push(kib("VmRSS")? as f64);
        idle_peak.push(kib("VmHWM")? as f64);
    }
    let server = helper::start(&measure.helpers, "leaky-server", &[&SOCKETS.to_string()])?;
    let namespace = format!("/proc/{}/ns/net", server.process.0.id());
    let namespace = File::open(namespace).context("the server has ended")?;
    // `ss` and `lsof` see their own namespace; the thread that is in it starts them.
    let in_namespace = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        measure_in(measure, rounds)
    };
    let times = thread::scope(|scope| scope.spawn(in_namespace).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Owned { times, quiet_start, idle, idle_peak, rounds })
}

fn measure_in(measure: &Measure, rounds: usize) -> Result<Times> {
    let mut times = Times::default();
    let rivals: Vec<_> = RIVALS.iter().filter_map(|rival| Some((shell::find(rival.0)?, rival))).collect();
    times.rivals = rivals
        .iter()
        .map(|(_, (name, arguments, _))| (format!("{name} {}", arguments.join(" ")), Vec::new()))
        .collect();
    let (_, once) = ONCE[0];
    // Once with what they say: one that finds nothing is quick. lsof shows nine letters of a name.
    let all =
        [(&measure.tcptrace, once)].into_iter().chain(rivals.iter().map(|(path, rival)| (path, rival.1)));
    for (program, arguments) in all {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        let found =
            String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("leaky-ser")).count();
        ensure!(found >= SOCKETS, "{} names the holder of {found} of {SOCKETS}", program.display());
    }
    for _ in 0..rounds {
        passes(&measure.owners, &mut times)?;
        for ((_, arguments), taken) in ONCE.iter().zip(&mut times.once) {
            taken.push(timed(&measure.tcptrace, arguments)?);
        }
        for ((program, rival), (_, taken)) in rivals.iter().zip(&mut times.rivals) {
            taken.push(timed(program, rival.1)?);
        }
        times.start.push(start(&measure.tcptrace, "1h", "start")?.0);
        times.report.push(start(&measure.tcptrace, "1ms", "stuck")?.0);
    }
    Ok(times)
}

/// Milliseconds from start to end of a program whose output nobody wants.
fn timed(program: &Path, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(milliseconds(began.elapsed()))
}

/// Starts tcptrace. Returns how many milliseconds it took until the first record of `event` was out.
fn start(tcptrace: &Path, threshold: &str, event: &str) -> Result<(f64, Killed)> {
    let mut command = Command::new(tcptrace);
    command.args(["--stuck", threshold, "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let wanted = format!("{{\"v\":1,\"event\":\"{event}\"");
    let began = Instant::now();
    let mut tracer = Killed(command.stderr(Stdio::null()).spawn().context("cannot run tcptrace")?);
    let lines = helper::lines(tracer.0.stdout.take().context("it was piped")?);
    while !helper::next(&lines, event)?.starts_with(&wanted) {}
    let took = milliseconds(began.elapsed());
    thread::spawn(move || lines.iter().for_each(drop)); // or it would wait for its reader
    Ok((took, tracer))
}

/// Runs the benchmark of owner resolution, and checks that it found the owners.
fn passes(owners: &Path, times: &mut Times) -> Result<()> {
    let output = Command::new(owners).arg(PASSES.to_string()).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run the benchmark of owner resolution")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [walk_ns, gather_ns, stuck, held] = numbers[..] else { bail!("no pass: {line:?}") };
        ensure!(stuck >= SOCKETS as f64 && held >= SOCKETS as f64, "{held} of {stuck} sockets have an owner");
        times.walk.push(walk_ns / 1e6);
        times.gather.push(gather_ns / 1e6);
        times.resolution.push((walk_ns + gather_ns) / 1e6);
    }
    ensure!(output.status.success(), "the benchmark of owner resolution failed ({})", output.status);
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn figures(rounds: &[f64]) -> Figures {
    rounds.iter().copied().collect()
}

impl Owned {
    fn ss_ms(&self) -> f64 {
        let ss = self.times.rivals.iter().find(|(name, _)| name.starts_with("ss "));
        ss.map_or(f64::NAN, |(_, rounds)| figures(rounds).median())
    }

    /// What tcptrace is held to here.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let Self { times, quiet_start, idle_peak, .. } = self;
        let faster = |rounds: &[f64]| self.ss_ms() / figures(rounds).median();
        vec![
            Goal::at_most("start to `start` record", figures(quiet_start).median(), 50.0, " ms"),
            Goal::at_most("start to first report of 15,000", figures(&times.report).median(), 100.0, " ms"),
            Goal::at_least("--once as JSON, times as fast as ss -tnp", faster(&times.once[0]), 3.0, ""),
            Goal::at_least("--once as text, times as fast as ss -tnp", faster(&times.once[1]), 3.0, ""),
            Goal::at_most("--once as JSON, 15,000 stuck", figures(&times.once[0]).median(), 100.0, " ms"),
            Goal::at_most("--once as text, 15,000 stuck", figures(&times.once[1]).median(), 100.0, " ms"),
            Goal::at_most("--once, 15,000 open", figures(&times.once[2]).median(), 100.0, " ms"),
            Goal::at_least("owners alone, times as fast as ss -tnp", faster(&times.resolution), 10.0, ""),
            Goal::at_most("memory, idle (peak)", figures(idle_peak).median() / 1024.0, 20.0, " MB"),
        ]
    }
}

impl fmt::Display for Owned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { times, quiet_start, idle, idle_peak, rounds } = self;
        writeln!(
            formatter,
            "Owners of {SOCKETS} sockets in CLOSE_WAIT, held by one process; {rounds} rounds, medians \
             (lowest–highest)\n"
        )?;
        let mut rows = Vec::new();
        let mut row = |what: &str, taken: &[f64], compared: bool| {
            let ratio = self.ss_ms() / figures(taken).median();
            let ratio = if compared && ratio.is_finite() { format!("{ratio:.1}") } else { "-".to_owned() };
            rows.push(vec![what.to_owned(), figures(taken).show(1), ratio]);
        };
        row("owners alone: walk and evidence", &times.resolution, true);
        row("  of that the walk", &times.walk, false);
        row("  of that the evidence", &times.gather, false);
        ONCE.iter().zip(&times.once).for_each(|((name, _), taken)| row(name, taken, true));
        times.rivals.iter().for_each(|(name, taken)| row(name, taken, true));
        row("tcptrace --stuck 30s --json to its `start`, no such sockets", quiet_start, false);
        row("tcptrace --stuck 1h --json to its `start`, among them", &times.start, false);
        row("tcptrace --stuck 1ms --json to its first `stuck`", &times.report, false);
        write!(formatter, "{}", table(&["what", "ms", "× as fast as ss"], &rows))?;
        let megabytes = |kib: &[f64]| figures(kib).median() / 1024.0;
        writeln!(
            formatter,
            "\nMemory of tcptrace --stuck 30s --json after its start: {:.1} MB, {:.1} MB at its peak.",
            megabytes(idle),
            megabytes(idle_peak)
        )
    }
}
