//! Makes short connections as fast as possible, untraced and traced in each way.
//!
//! The kernel's cost per transition is taken in rounds of its own, with `BPF_ENABLE_STATS`:
//! measuring costs some 20 ns a program, which would be in the rates. A rate is compared with that
//! of an untraced run just before it.

use std::{fmt, path::Path, thread};

use anyhow::{Context as _, Result};

use super::{
    figures::{Figures, Goal, show, table, to_figure},
    helper,
    tracer::{Command, Measured, Ready, Tracer},
};
use crate::{
    compile::Programs,
    shell::{self, say},
};

/// Transitions of one connection over loopback, both ends together.
const TRANSITIONS: f64 = 10.0;

/// The rows that goals are about.
const EMPTY: &str = "empty program";
const STUCK: &str = "tcptrace --stuck 30s";
const UNCONCERNED: &str = "tcptrace --stuck 30s --state closing";
/// As [`UNCONCERNED`], without the note of who connected that each connect leaves, which does
/// concern it.
const UNNOTED: &str = "tcptrace --stuck 30s --state closing --without storage";
const JSON: &str = "tcptrace --json";

/// The ways in which tcptrace runs.
const OURS: [&str; 6] =
    [STUCK, UNCONCERNED, UNNOTED, "tcptrace", JSON, "tcptrace --stuck 30s --transitions --json"];

/// Tools to compare with: name, Debian package and arguments.
const RIVALS: [(&str, &str, &[&str]); 2] = [
    ("tcpstates", "libbpf-tools", &[]),
    (
        "bpftrace",
        "bpftrace",
        &[
            "-q",
            "-e",
            "tracepoint:sock:inet_sock_set_state { printf(\"%d %s %d %d -> %d %d\\n\", pid, comm, args->sport, \
             args->dport, args->oldstate, args->newstate); }",
        ],
    ),
];

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each row has its turn, for the rates.
    pub(crate) rounds: usize,
    rounds_with_statistics: usize,
    connections: u32,
}

impl Plan {
    pub(crate) fn new(is_quick: bool) -> Self {
        if is_quick {
            Self { rounds: 3, rounds_with_statistics: 5, connections: 8_000 }
        } else {
            Self { rounds: 7, rounds_with_statistics: 7, connections: 20_000 }
        }
    }
}

/// A way to trace, and what was measured.
struct Row {
    name: String,
    /// The tracer; `None` for an untraced run.
    command: Option<Command>,
    /// Kernel time per transition.
    kernel_ns: Figures,
    /// With a load on all CPUs.
    crowded: Vec<Turn>,
    /// With one CPU left over.
    roomy: Vec<Turn>,
}

/// One turn of a row.
struct Turn {
    connections: f64,
    seconds: f64,
    /// The rate, in per cent of the untraced one.
    percent: f64,
    measured: Option<Measured>,
}

/// The result of the churn.
pub(crate) struct Churned {
    rows: Vec<Row>,
    /// A line for each tool that is not compared with.
    pub(crate) missing: Vec<String>,
    cpus: usize,
    rounds: usize,
    ticks_per_s: f64,
}

/// Runs all rounds.
pub(crate) fn run(programs: &Programs, plan: Plan) -> Result<Churned> {
    let (helpers, mut rows, mut missing) = (&programs.helpers, own_rows(programs), Vec::new());
    for (name, package, arguments) in RIVALS {
        let Some(program) = shell::find_program(name) else {
            missing.push(format!("not compared with {name}: apt install {package}"));
            continue;
        };
        let command = Command::new(program, arguments, Ready::AnyOutput);
        // A tool that cannot work on this kernel is left out.
        match make_load(helpers, Some(&command), 100, 1) {
            Ok(_) => rows.push(Row::new(name, Some(command))),
            Err(error) => missing.push(format!("not compared with {name}: {error:#}")),
        }
    }
    let cpus = thread::available_parallelism().context("the number of CPUs is unknown")?.get();
    for round in 0..plan.rounds_with_statistics {
        say(format_args!("churn: kernel time, round {} of {}", round + 1, plan.rounds_with_statistics));
        let _statistics = helper::start(helpers, "bpf-stats", &[])?;
        rotate(&mut rows, round, |row| {
            let Some(command) = &row.command else { return Ok(()) };
            let runs = make_load(helpers, Some(command), plan.connections, cpus)?.2.map(|seen| seen.runs);
            let runs = runs.filter(|runs| runs.events > 0);
            if let Some(runs) = runs {
                row.kernel_ns.add(to_figure(runs.ns) / to_figure(runs.events));
            }
            Ok(())
        })?;
    }
    for round in 0..plan.rounds {
        say(format_args!("churn: rates, round {} of {}", round + 1, plan.rounds));
        rotate(&mut rows, round, |row| {
            for (threads, turns) in [(cpus, &mut row.crowded), ((cpus - 1).max(1), &mut row.roomy)] {
                let (connections, seconds, _) = make_load(helpers, None, plan.connections, threads)?;
                let untraced = connections / seconds;
                let (connections, seconds, measured) =
                    make_load(helpers, row.command.as_ref(), plan.connections, threads)?;
                let percent = 100.0 * connections / seconds / untraced;
                turns.push(Turn { connections, seconds, percent, measured });
            }
            Ok(())
        })?;
    }
    let ticks_per_s = to_figure(rustix::param::clock_ticks_per_second());
    Ok(Churned { rows, missing, cpus, rounds: plan.rounds, ticks_per_s })
}

/// Measures all rows, each round beginning with the next one, so that each row runs after each
/// other one.
fn rotate(rows: &mut [Row], round: usize, measure: impl FnMut(&mut Row) -> Result<()>) -> Result<()> {
    let (before, from) = rows.split_at_mut(round % rows.len());
    from.iter_mut().chain(before).try_for_each(measure)
}

/// Makes connections, traced or not. Returns how many, in how many seconds, and what the tracer
/// did.
fn make_load(
    helpers: &Path,
    command: Option<&Command>,
    connections: u32,
    threads: usize,
) -> Result<(f64, f64, Option<Measured>)> {
    let tracer = command.map(|command| Tracer::start(helpers, command)).transpose()?;
    let (made, seconds) = helper::churn(helpers, connections, threads)?;
    Ok((made, seconds, tracer.map(Tracer::finish).transpose()?))
}

/// The rows that need no other tool.
fn own_rows(programs: &Programs) -> Vec<Row> {
    let empty = Command::new(programs.helpers.join("empty-program"), &[], Ready::StdoutLine);
    let ours = OURS.map(|line| {
        let ready = if line.ends_with("--json") { Ready::StdoutLine } else { Ready::StderrLine };
        let arguments: Vec<_> = line.split(' ').skip(1).collect();
        Row::new(line, Some(Command::new(programs.tcptrace.clone(), &arguments, ready)))
    });
    [Row::new("untraced", None), Row::new(EMPTY, Some(empty))].into_iter().chain(ours).collect()
}

impl Row {
    fn new(name: &str, command: Option<Command>) -> Self {
        let name = name.to_owned();
        Self { name, command, kernel_ns: Figures::default(), crowded: Vec::new(), roomy: Vec::new() }
    }

    fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.crowded.iter().chain(&self.roomy)
    }

    /// The losses of all rounds: as the tracer counts them, or else the lines that are missing.
    fn lost(&self) -> f64 {
        let each = self.turns().filter_map(|turn| {
            let measured = turn.measured.as_ref()?;
            let missing = (turn.connections * TRANSITIONS - to_figure(measured.lines)).max(0.0);
            Some(measured.lost.map_or(missing, to_figure))
        });
        each.sum()
    }
}

/// A figure of the turns in which there was one.
fn figures(turns: &[Turn], figure: impl Fn(&Turn, Measured) -> f64) -> Figures {
    turns.iter().filter_map(|turn| Some(figure(turn, turn.measured?))).collect()
}

fn percent(turns: &[Turn]) -> Figures {
    turns.iter().map(|turn| turn.percent).collect()
}

impl Churned {
    /// A figure of a row; not a number if there is no such row.
    fn figure(&self, name: &str, figure: impl Fn(&Row) -> f64) -> f64 {
        self.rows.iter().find(|row| row.name == name).map_or(f64::NAN, figure)
    }

    /// Kernel time, as a multiple of the empty program's.
    fn kernel_ratio(&self, row: &Row) -> f64 {
        row.kernel_ns.median() / self.figure(EMPTY, |row| row.kernel_ns.median())
    }

    /// CPU time per transition that was made, microseconds.
    fn cpu_us(&self, row: &Row, ticks: impl Fn(Measured) -> u64) -> Figures {
        figures(&row.crowded, |turn, measured| {
            let seconds = to_figure(ticks(measured)) / self.ticks_per_s;
            seconds * 1e6 / (turn.connections * TRANSITIONS)
        })
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let rates: Figures = row.crowded.iter().map(|turn| turn.connections / turn.seconds).collect();
        let events = figures(&row.crowded, |turn, measured| to_figure(measured.lines) / turn.seconds);
        let writes =
            row.crowded.iter().any(|turn| turn.measured.is_some_and(|measured| measured.lines > 100));
        let peak = row.turns().filter_map(|turn| Some(turn.measured?.peak_kib)).max().unwrap_or(0);
        let is_tracer = row.command.is_some() && row.name != EMPTY;
        let only_if =
            |shown: bool, figure: f64, decimals| show(if shown { figure } else { f64::NAN }, decimals);
        vec![
            row.name.clone(),
            row.kernel_ns.show_median(0),
            show(self.kernel_ratio(row), 2),
            rates.show_median(0),
            percent(&row.crowded).show(1),
            percent(&row.roomy).show(1),
            only_if(writes, events.median(), 0),
            only_if(is_tracer, row.lost(), 0),
            self.cpu_us(row, |measured| measured.cpu.user).show_median(2),
            self.cpu_us(row, |measured| measured.cpu.system).show_median(2),
            only_if(is_tracer, to_figure(peak) / 1024.0, 1),
        ]
    }

    /// The limits that tcptrace is held to here.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let ratio = |name| self.figure(name, |row| self.kernel_ratio(row));
        let crowded = |name| self.figure(name, |row| percent(&row.crowded).median());
        let roomy = |name| self.figure(name, |row| percent(&row.roomy).median());
        let user_us = |row: &Row| self.cpu_us(row, |measured| measured.cpu.user).median();
        // An untraced run, compared with the untraced one before it, would be 100 % on a quiet
        // machine.
        let untraced = self.rows.iter().filter(|row| row.command.is_none()).flat_map(Row::turns);
        let noise = untraced.map(|turn| turn.percent).collect::<Figures>().deviation(100.0);
        let rate = |what, percent, limit| Goal::at_least(what, percent, limit, " %").unless_noise_is(noise);
        vec![
            Goal::at_most("kernel time of the full stream, × the empty program", ratio(JSON), 3.5, ""),
            Goal::at_most("kernel time of --stuck where nothing is stuck, ×", ratio(UNCONCERNED), 1.3, ""),
            Goal::at_most("  of transitions that do not concern it, ×", ratio(UNNOTED), 1.3, ""),
            rate("connections/s, full stream, load on all CPUs", crowded(JSON), 95.0),
            rate("connections/s, full stream, one CPU left", roomy(JSON), 95.0),
            rate("connections/s, --stuck, load on all CPUs", crowded(STUCK), 99.0),
            rate("connections/s, --stuck, one CPU left", roomy(STUCK), 99.0),
            Goal::at_most("lost, full stream as JSON", self.figure(JSON, Row::lost), 0.0, ""),
            Goal::at_most("user CPU per event to JSON", self.figure(JSON, user_us), 1.0, " µs"),
        ]
    }
}

impl fmt::Display for Churned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.rows.iter().flat_map(|row| &row.crowded).map(|turn| turn.connections);
        writeln!(
            formatter,
            "Churn: {:.0} connections over loopback at a time, {TRANSITIONS} transitions each; {} rounds, medians \
             (lowest–highest)\n",
            connections.fold(0.0, f64::max),
            self.rounds,
        )?;
        let all = format!("% of untraced, {} threads", self.cpus);
        let fewer = format!("with {}", (self.cpus - 1).max(1));
        let heading = ["tracer", "kernel ns", "× empty", "connections/s", &all, &fewer];
        let more = ["events/s", "lost", "user µs", "system µs", "peak MB"];
        let rows: Vec<_> = self.rows.iter().map(|row| self.cells(row)).collect();
        writeln!(
            formatter,
            "{}\nkernel ns: of its programs on the tracepoint, per transition, in rounds of their own. user, system: \
             CPU time of the tracer per transition. lost: in all rounds; of tools that count none, the lines missing.",
            table(&[&heading[..], &more].concat(), &rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_the_next_row() -> Result<()> {
        let mut rows = ["a", "b", "c"].map(|name| Row::new(name, None));
        let mut order = String::new();
        for round in 0..4 {
            rotate(&mut rows, round, |row| {
                order += &row.name;
                Ok(())
            })?;
        }
        assert_eq!(order, "abcbcacababc");
        Ok(())
    }

    #[test]
    fn lines_are_missed_only_where_the_tracer_counts_no_losses() {
        let lost = |lines, lost| {
            let measured = Some(Measured { lines, lost, ..Measured::default() });
            let turn = Turn { connections: 10.0, seconds: 1.0, percent: 100.0, measured };
            show(Row { crowded: vec![turn], ..Row::new("", None) }.lost(), 0)
        };
        assert_eq!([lost(90, None), lost(101, None), lost(0, Some(3))], ["10", "0", "3"]);
    }
}
