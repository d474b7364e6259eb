//! Times who finds the holder of thousands of stuck sockets: tcptrace, `ss` and `lsof`; and
//! tcptrace's start.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    figures::{Figures, Goal, show, table, to_figure},
    helper::{self, Killed},
    proc,
};
use crate::{
    compile::Programs,
    shell::{self, read_output, say},
};

/// Sockets in `CLOSE_WAIT` that one process holds.
const SOCKETS: u32 = 15_000;
/// Passes of the benchmark of owner resolution alone, in each round.
const PASSES: &str = "3";

/// Runs of tcptrace: all sockets are stuck, as JSON and as text; none is stuck for an hour.
const JSON: &str = "tcptrace --stuck 0s --once --json";
const TEXT: &str = "tcptrace --stuck 0s --once";
const NONE_STUCK: &str = "tcptrace --stuck 1h --once";
/// Tools to compare with, and their Debian packages.
const SS: &str = "ss -tnp";
const LSOF: &str = "lsof -nP -iTCP";
const RIVALS: [(&str, &str); 2] = [(SS, "iproute2"), (LSOF, "lsof")];

/// Rows with no program of their own.
const OWNERS: &str = "owners alone: walk and evidence";
const WALK: &str = "  of that the walk";
const EVIDENCE: &str = "  of that the evidence";
const QUIET_START: &str = "tcptrace --stuck 30s --json to its `start`, no such sockets";
const START: &str = "tcptrace --stuck 1h --json to its `start`, among them";
const REPORT: &str = "tcptrace --stuck 1ms --json to its first `stuck`";
/// All rows, and whether each is compared with ss.
const ROWS: [(&str, bool); 11] = [
    (OWNERS, true),
    (WALK, false),
    (EVIDENCE, false),
    (JSON, true),
    (TEXT, true),
    (NONE_STUCK, true),
    (SS, true),
    (LSOF, true),
    (QUIET_START, false),
    (START, false),
    (REPORT, false),
];

/// The result of all rounds.
#[derive(Default)]
pub(crate) struct Owned {
    /// Milliseconds of each row, one a round.
    times: BTreeMap<&'static str, Figures>,
    /// Memory of tcptrace after its start, and at its peak, MB.
    memory: Figures,
    peak: Figures,
    rounds: usize,
    /// A line for each tool that is not compared with.
    pub(crate) missing: Vec<String>,
}

/// Runs all rounds.
pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<Owned> {
    say(format_args!("owners: {rounds} rounds"));
    let mut owned = Owned { rounds, ..Owned::default() };
    for _ in 0..rounds {
        let tracer = owned.time_start(QUIET_START, &programs.tcptrace, "30s", "start")?;
        let memory = proc::read_memory(tracer.0.id()).context("tcptrace has ended")?;
        owned.memory.add(to_figure(memory.resident) / 1024.0);
        owned.peak.add(to_figure(memory.peak) / 1024.0);
    }
    let server = helper::start(&programs.helpers, "leaky-server", &[&SOCKETS.to_string()])?;
    let namespace = format!("/proc/{}/ns/net", server.0.id());
    let namespace = File::open(namespace).context("the server has ended")?;
    // `ss` and `lsof` see their own namespace; the thread that is in it starts them.
    let in_namespace = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        owned.measure_here(programs, rounds)
    };
    thread::scope(|scope| scope.spawn(in_namespace).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(owned)
}

/// The command of a line, in which `tcptrace` is the one that was built; none if it is not there.
fn command(tcptrace: &Path, line: &str) -> Option<Command> {
    let mut words = line.split(' ');
    let program = match words.next()? {
        "tcptrace" => tcptrace.to_owned(),
        rival => shell::find_program(rival)?,
    };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    Some(command)
}

fn elapsed_ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

impl Owned {
    fn add(&mut self, row: &'static str, ms: f64) {
        self.times.entry(row).or_default().add(ms);
    }

    fn measure_here(&mut self, programs: &Programs, rounds: usize) -> Result<()> {
        let mut commands = Vec::new();
        for line in [JSON, TEXT, NONE_STUCK].into_iter().chain(RIVALS.map(|(line, _)| line)) {
            let Some(mut command) = command(&programs.tcptrace, line) else { continue };
            if ![TEXT, NONE_STUCK].contains(&line) {
                // Once with a look at its output: a tool that finds nothing is quick. lsof shows
                // nine letters of a name.
                let output = command.output().with_context(|| format!("cannot run {line}"))?;
                let output = String::from_utf8_lossy(&output.stdout);
                let found = u32::try_from(output.lines().filter(|line| line.contains("leaky-ser")).count())?;
                ensure!(found >= SOCKETS, "`{line}` names the holder of {found} of {SOCKETS}");
            }
            command.stdout(Stdio::null()).stderr(Stdio::null());
            commands.push((line, command));
        }
        for (line, package) in RIVALS.into_iter().filter(|(line, _)| command(Path::new(""), line).is_none()) {
            let name = line.split(' ').next().unwrap_or(line);
            self.missing.push(format!("not compared with {name}: apt install {package}"));
        }
        for _ in 0..rounds {
            self.run_passes(&programs.owners)?;
            for (line, command) in &mut commands {
                let began = Instant::now();
                command.status().with_context(|| format!("cannot run {line}"))?;
                self.add(line, elapsed_ms(began));
            }
            self.time_start(START, &programs.tcptrace, "1h", "start")?;
            self.time_start(REPORT, &programs.tcptrace, "1ms", "stuck")?;
        }
        Ok(())
    }

    /// Starts tcptrace, and times it until the first record of `event` is out.
    fn time_start(
        &mut self,
        row: &'static str,
        tcptrace: &Path,
        threshold: &str,
        event: &str,
    ) -> Result<Killed> {
        let mut command = Command::new(tcptrace);
        command.args(["--stuck", threshold, "--json"]).stdin(Stdio::null());
        let wanted = format!("{{\"v\":1,\"event\":\"{event}\"");
        let began = Instant::now();
        let mut tracer = Killed::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let lines = tracer.stdout()?;
        while !helper::next_line(&lines, event)?.starts_with(&wanted) {}
        self.add(row, elapsed_ms(began));
        thread::spawn(move || lines.iter().for_each(drop)); // or it would wait for its reader
        Ok(tracer)
    }

    /// Runs the benchmark of owner resolution, and checks that it found the owners.
    fn run_passes(&mut self, owners: &Path) -> Result<()> {
        for line in read_output(Command::new(owners).arg(PASSES))?.lines() {
            let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
            let [walk_ns, gather_ns, stuck, held] = numbers[..] else { bail!("no pass: {line:?}") };
            ensure!(stuck.min(held) >= f64::from(SOCKETS), "{held} of {stuck} sockets have an owner");
            self.add(WALK, walk_ns / 1e6);
            self.add(EVIDENCE, gather_ns / 1e6);
            self.add(OWNERS, (walk_ns + gather_ns) / 1e6);
        }
        Ok(())
    }

    fn median_ms(&self, row: &str) -> f64 {
        self.times.get(row).map_or(f64::NAN, Figures::median)
    }

    /// How many times as fast as ss a row is.
    fn speedup(&self, row: &str) -> f64 {
        self.median_ms(SS) / self.median_ms(row)
    }

    /// The limits that tcptrace is held to here.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        vec![
            Goal::at_most("start to `start` record", self.median_ms(QUIET_START), 50.0, " ms"),
            Goal::at_most("start to first report of 15,000", self.median_ms(REPORT), 100.0, " ms"),
            Goal::at_least("--once as JSON, times as fast as ss -tnp", self.speedup(JSON), 3.0, ""),
            Goal::at_least("--once as text, times as fast as ss -tnp", self.speedup(TEXT), 3.0, ""),
            Goal::at_most("--once as JSON, 15,000 stuck", self.median_ms(JSON), 100.0, " ms"),
            Goal::at_most("--once as text, 15,000 stuck", self.median_ms(TEXT), 100.0, " ms"),
            Goal::at_most("--once, 15,000 open", self.median_ms(NONE_STUCK), 100.0, " ms"),
            Goal::at_least("owners alone, times as fast as ss -tnp", self.speedup(OWNERS), 10.0, ""),
            Goal::at_most("memory, idle (peak)", self.peak.median(), 20.0, " MB"),
        ]
    }
}

impl fmt::Display for Owned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { times, memory, peak, rounds, .. } = self;
        writeln!(
            formatter,
            "Owners of {SOCKETS} sockets in CLOSE_WAIT, held by one process; {rounds} rounds, medians \
             (lowest–highest)\n"
        )?;
        let rows = ROWS.into_iter().filter_map(|(row, is_compared)| {
            let name = if row == NONE_STUCK { format!("{row}: none is stuck") } else { row.to_owned() };
            let ratio = show(if is_compared { self.speedup(row) } else { f64::NAN }, 1);
            Some(vec![name, times.get(row)?.show(1), ratio])
        });
        writeln!(
            formatter,
            "{}\nMemory of tcptrace --stuck 30s --json after its start: {} MB, {} MB at its peak.",
            table(&["what", "ms", "× as fast as ss"], &rows.collect::<Vec<_>>()),
            memory.show_median(1),
            peak.show_median(1)
        )
    }
}
