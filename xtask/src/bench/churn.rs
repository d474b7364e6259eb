//! Short connections as fast as they can be made, untraced and traced in each way.
//!
//! The kernel's cost per transition is taken in rounds of its own, with `BPF_ENABLE_STATS`: measuring costs some 20 ns a
//! program too, and would be in the rates. A rate is compared with that of an untraced run just before it.

use std::{fmt, path::Path, thread};

use anyhow::{Context as _, Result};

use super::{
    Measure,
    figures::Figures,
    goals::Goal,
    helper,
    table::table,
    tracer::{Command, Ready, Seen, Tracer},
};
use crate::shell::{self, say};

/// In one connection over loopback, of both its ends.
const TRANSITIONS: f64 = 10.0;

/// The rows that goals are about.
const EMPTY: &str = "empty program";
const STUCK: &str = "tcptrace --stuck 30s";
const UNCONCERNED: &str = "tcptrace --stuck 30s --state closing";
/// The same but for what each connect leaves behind, which does concern it: who that was.
const UNNOTED: &str = "tcptrace --stuck 30s --state closing --without storage";
const JSON: &str = "tcptrace --json";

/// The tools that this is compared with, and where Debian has them.
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
    pub(crate) fn new(quick: bool) -> Self {
        match quick {
            true => Self { rounds: 3, rounds_with_statistics: 5, connections: 8_000 },
            false => Self { rounds: 7, rounds_with_statistics: 7, connections: 20_000 },
        }
    }
}

/// A way to trace, and what came of it.
struct Row {
    name: String,
    /// None: untraced.
    command: Option<Command>,
    with_statistics: Vec<Seen>,
    /// With a load on all CPUs, and with one CPU left over.
    crowded: Vec<Turn>,
    roomy: Vec<Turn>,
}

/// One turn of a row.
struct Turn {
    connections: f64,
    seconds: f64,
    /// The rate as a part of the untraced one.
    ratio: f64,
    seen: Option<Seen>,
}

/// What the churn has shown.
pub(crate) struct Churned {
    rows: Vec<Row>,
    /// A line for each tool that is not compared with.
    pub(crate) missing: Vec<String>,
    cpus: usize,
    rounds: usize,
    ticks_per_s: f64,
}

/// Runs all rounds.
pub(crate) fn run(measure: &Measure, plan: Plan) -> Result<Churned> {
    let helpers = &measure.helpers;
    let (mut rows, rivals, mut missing) = rows(&measure.tcptrace, helpers);
    for row in rivals {
        // One that cannot work on this kernel is left out, not the end of everything.
        match load(helpers, row.command.as_ref(), 100, 1) {
            Ok(_) => rows.push(row),
            Err(error) => missing.push(format!("not compared with {}: {error:#}", row.name)),
        }
    }
    let cpus = thread::available_parallelism().context("nobody says how many CPUs there are")?.get();
    let one_fewer = (cpus - 1).max(1);
    for round in 0..plan.rounds_with_statistics {
        say(format_args!("churn: kernel time, round {} of {}", round + 1, plan.rounds_with_statistics));
        let _measuring = helper::start(helpers, "bpf-stats", &[])?;
        for row in in_turn(&mut rows, round) {
            if let Some(command) = &row.command {
                let (_, _, seen) = load(helpers, Some(command), plan.connections, cpus)?;
                row.with_statistics.extend(seen);
            }
        }
    }
    for round in 0..plan.rounds {
        say(format_args!("churn: rates, round {} of {}", round + 1, plan.rounds));
        for row in in_turn(&mut rows, round) {
            for (threads, turns) in [(cpus, &mut row.crowded), (one_fewer, &mut row.roomy)] {
                let (connections, seconds, _) = load(helpers, None, plan.connections, threads)?;
                let untraced = connections / seconds;
                let (connections, seconds, seen) =
                    load(helpers, row.command.as_ref(), plan.connections, threads)?;
                turns.push(Turn { connections, seconds, ratio: connections / seconds / untraced, seen });
            }
        }
    }
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    Ok(Churned { rows, missing, cpus, rounds: plan.rounds, ticks_per_s })
}

/// All rows, each round beginning with another one: what one leaves behind falls on each of the others.
fn in_turn(rows: &mut [Row], round: usize) -> impl Iterator<Item = &mut Row> {
    let first = round % rows.len();
    let (before, from) = rows.split_at_mut(first);
    from.iter_mut().chain(before)
}

/// Makes connections, traced or not. Returns how many, in how many seconds, and what the tracer did.
fn load(
    helpers: &Path,
    command: Option<&Command>,
    connections: u32,
    threads: usize,
) -> Result<(f64, f64, Option<Seen>)> {
    let Some(command) = command else {
        let (made, seconds) = helper::churn(helpers, connections, threads)?;
        return Ok((made, seconds, None));
    };
    let tracer = Tracer::start(helpers, command)?;
    let (made, seconds) = helper::churn(helpers, connections, threads)?;
    Ok((made, seconds, Some(tracer.finish(command)?)))
}

/// The rows that there always are; those of other tools; and a line for each of these that is not here.
fn rows(tcptrace: &Path, helpers: &Path) -> (Vec<Row>, Vec<Row>, Vec<String>) {
    let row = |name: &str, command| Row {
        name: name.to_owned(),
        command,
        with_statistics: Vec::new(),
        crowded: Vec::new(),
        roomy: Vec::new(),
    };
    let empty =
        Command { program: helpers.join("empty-program"), arguments: Vec::new(), ready: Ready::FirstLine };
    let ours = [STUCK, UNCONCERNED, UNNOTED, "tcptrace", JSON, "tcptrace --stuck 30s --transitions --json"];
    let ours = ours.map(|line| {
        let ready = if line.ends_with("--json") { Ready::FirstLine } else { Ready::StderrLine };
        let arguments = line.split(' ').skip(1).map(Into::into).collect();
        row(line, Some(Command { program: tcptrace.to_owned(), arguments, ready }))
    });
    let ours = [row("untraced", None), row(EMPTY, Some(empty))].into_iter().chain(ours).collect();
    let (mut rivals, mut missing) = (Vec::new(), Vec::new());
    for (name, package, arguments) in RIVALS {
        let arguments = arguments.iter().map(Into::into).collect();
        match shell::find(name) {
            Some(program) => {
                rivals.push(row(name, Some(Command { program, arguments, ready: Ready::WhenItSees })));
            }
            None => missing.push(format!("not compared with {name}: apt install {package}")),
        }
    }
    (ours, rivals, missing)
}

impl Row {
    fn ns_per_transition(&self) -> Figures {
        let measured = self.with_statistics.iter().filter(|seen| seen.runs.events > 0);
        measured.map(|seen| seen.runs.ns as f64 / seen.runs.events as f64).collect()
    }

    /// CPU time per transition that was made, microseconds.
    fn cpu_us(&self, ticks_per_s: f64, ticks: impl Fn(&Seen) -> u64) -> Figures {
        let each = self.crowded.iter().filter_map(|turn| {
            let seconds = ticks(turn.seen.as_ref()?) as f64 / ticks_per_s;
            Some(seconds * 1e6 / (turn.connections * TRANSITIONS))
        });
        each.collect()
    }

    /// Of all rounds together: what it says itself, or what is missing among the lines it wrote.
    fn lost(&self) -> f64 {
        let each = self.crowded.iter().chain(&self.roomy).filter_map(|turn| {
            let seen = turn.seen.as_ref()?;
            let missing = (turn.connections * TRANSITIONS - seen.lines as f64).max(0.0);
            Some(seen.lost.map_or(missing, |lost| lost as f64))
        });
        each.collect::<Figures>().sum()
    }

    fn writes(&self) -> bool {
        self.crowded.iter().filter_map(|turn| turn.seen.as_ref()).any(|seen| seen.lines > 100)
    }

    fn percent(turns: &[Turn]) -> Figures {
        turns.iter().map(|turn| 100.0 * turn.ratio).collect()
    }
}

impl Churned {
    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn floor_ns(&self) -> f64 {
        self.row(EMPTY).map_or(f64::NAN, |row| row.ns_per_transition().median())
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let ns = row.ns_per_transition();
        let ratio = ns.median() / self.floor_ns();
        let is_traced = row.command.is_some();
        let rates: Figures = row.crowded.iter().map(|turn| turn.connections / turn.seconds).collect();
        let delivered = row.crowded.iter().filter_map(|turn| Some(turn.seen?.lines as f64 / turn.seconds));
        let delivered: Figures = delivered.collect();
        let (user, system) = (
            row.cpu_us(self.ticks_per_s, |seen| seen.cpu.user),
            row.cpu_us(self.ticks_per_s, |seen| seen.cpu.system),
        );
        let peak = row.crowded.iter().chain(&row.roomy).filter_map(|turn| Some(turn.seen?.peak_kib));
        let peak = peak.max().unwrap_or(0) as f64 / 1024.0;
        let when = |shown: bool, text: String| if shown { text } else { "-".to_owned() };
        vec![
            row.name.clone(),
            ns.show_median(0),
            when(ratio.is_finite(), format!("{ratio:.2}")),
            rates.show_median(0),
            Row::percent(&row.crowded).show(1),
            Row::percent(&row.roomy).show(1),
            when(row.writes(), delivered.show_median(0)),
            when(is_traced && row.name != EMPTY, format!("{:.0}", row.lost())),
            user.show_median(2),
            system.show_median(2),
            when(is_traced && row.name != EMPTY, format!("{peak:.1}")),
        ]
    }

    /// What tcptrace is held to here.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let ratio =
            |name| self.row(name).map_or(f64::NAN, |row| row.ns_per_transition().median() / self.floor_ns());
        let rates = |name| {
            let percent = |turns: fn(&Row) -> &[Turn]| {
                self.row(name).map_or(f64::NAN, |row| Row::percent(turns(row)).median())
            };
            [percent(|row| &row.crowded), percent(|row| &row.roomy)]
        };
        let ([full_crowded, full_roomy], [stuck_crowded, stuck_roomy]) = (rates(JSON), rates(STUCK));
        // An untraced run, compared with the untraced one before it, would be 100 % on a quiet machine.
        let noise = self.rows.iter().filter(|row| row.command.is_none());
        let noise = noise.flat_map(|row| row.crowded.iter().chain(&row.roomy)).map(|turn| 100.0 * turn.ratio);
        let noise = noise.collect::<Figures>().deviation(100.0);
        let json = self.row(JSON);
        let user = json.map(|row| row.cpu_us(self.ticks_per_s, |seen| seen.cpu.user).median());
        vec![
            Goal::at_most("kernel time of the full stream, × the empty program", ratio(JSON), 3.5, ""),
            Goal::at_most("kernel time of --stuck where nothing is stuck, ×", ratio(UNCONCERNED), 1.3, ""),
            Goal::at_most("  of transitions that do not concern it, ×", ratio(UNNOTED), 1.3, ""),
            Goal::at_least("connections/s, full stream, load on all CPUs", full_crowded, 95.0, " %")
                .unless_noise_is(noise),
            Goal::at_least("connections/s, full stream, one CPU left", full_roomy, 95.0, " %")
                .unless_noise_is(noise),
            Goal::at_least("connections/s, --stuck, load on all CPUs", stuck_crowded, 99.0, " %")
                .unless_noise_is(noise),
            Goal::at_least("connections/s, --stuck, one CPU left", stuck_roomy, 99.0, " %")
                .unless_noise_is(noise),
            Goal::at_most("lost, full stream as JSON", json.map_or(f64::NAN, Row::lost), 0.0, ""),
            Goal::at_most("user CPU per event to JSON", user.unwrap_or(f64::NAN), 1.0, " µs"),
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
        let heading = [
            "tracer",
            "kernel ns",
            "× empty",
            "connections/s",
            &all,
            &fewer,
            "events/s",
            "lost",
            "user µs",
            "system µs",
            "peak MB",
        ];
        let rows: Vec<_> = self.rows.iter().map(|row| self.cells(row)).collect();
        write!(formatter, "{}", table(&heading, &rows))?;
        writeln!(
            formatter,
            "\nkernel ns: of its programs on the tracepoint, per transition, in rounds of their own. user, system: CPU \
             time of the tracer per transition. lost: in all rounds; of tools that count none, the lines missing."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row { name: name.to_owned(), command: None, with_statistics: vec![], crowded: vec![], roomy: vec![] }
    }

    #[test]
    fn each_round_begins_with_the_next_row() {
        let mut rows = ["a", "b", "c"].map(row);
        let mut order = |round| in_turn(&mut rows, round).map(|row| row.name.clone()).collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
    }

    #[test]
    fn lines_are_missed_only_where_the_tracer_counts_no_losses() {
        let seen = |lines, lost| {
            let (runs, cpu) = Default::default();
            Some(Seen { runs, cpu, peak_kib: 0, lines, lost, summary: None })
        };
        let turn = |seen| Turn { connections: 10.0, seconds: 1.0, ratio: 1.0, seen };
        let lost = |seen| Row { crowded: vec![turn(seen)], ..row("") }.lost();
        assert_eq!(lost(seen(90, None)), 10.0);
        assert_eq!(lost(seen(101, None)), 0.0);
        assert_eq!(lost(seen(0, Some(3))), 3.0);
        assert_eq!(lost(None), 0.0);
    }
}
