//! A tracer under load: started, waited for until it sees transitions, measured, ended.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{
    helper::{self, Killed, PATIENCE, next_line},
    proc::{self, Cpu, Memory, Runs},
};
use crate::shell;

/// Time after the load for tracers that read their buffers only now and then.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// How a tracer shows that it sees transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// By its first line on stdout.
    StdoutLine,
    /// By its first line on stderr.
    StderrLine,
    /// It doesn't: connections are made until it writes something.
    AnyOutput,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    program: PathBuf,
    arguments: Vec<String>,
    ready: Ready,
}

impl Command {
    pub(crate) fn new(program: PathBuf, arguments: &[&str], ready: Ready) -> Self {
        Self { program, arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), ready }
    }
}

/// What a tracer did while a load ran.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// Of its BPF programs.
    pub(crate) runs: Runs,
    /// Its own CPU time.
    pub(crate) cpu: Cpu,
    /// The most memory that it ever had, KiB.
    pub(crate) peak_kib: u64,
    /// The number of lines that it wrote.
    pub(crate) lines: u64,
    /// What it reports as lost; none if it doesn't count losses.
    pub(crate) lost: Option<u64>,
    /// Tcptrace's last record.
    pub(crate) summary: Option<Summary>,
}

/// The fields of the record `summary` that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Summary {
    /// Transitions that reached the tracker.
    pub(crate) transitions: u64,
    /// Transitions that did not.
    pub(crate) lost: u64,
    /// Records not written.
    pub(crate) dropped: u64,
    /// Walks of all sockets after a loss.
    pub(crate) resyncs: u64,
}

/// A tracer that is running, and the program that counts its lines.
pub(crate) struct Tracer {
    process: Killed,
    _counter: Killed,
    name: String,
    ready: Ready,
    counter_lines: Receiver<String>,
    stderr: Receiver<String>,
    /// What it had used when it was ready.
    runs: Runs,
    cpu: Cpu,
}

impl Tracer {
    /// Starts a tracer, and waits until it sees transitions.
    pub(crate) fn start(helpers: &Path, what: &Command) -> Result<Self> {
        let mut command = shell::command(&what.program);
        command.args(&what.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = shell::show_command(&command);
        let mut process = Killed::spawn(&mut command)?;
        let stdout = process.0.stdout.take().context("stdout is not piped")?;
        let mut counter = shell::command(helpers.join("line-counter"));
        let mut counter = Killed::spawn(counter.stdin(stdout).stdout(Stdio::piped()))?;
        let (counter_lines, stderr) = (counter.stdout()?, process.stderr()?);
        match what.ready {
            Ready::StdoutLine => {
                let first = next_line(&counter_lines, &name)?;
                ensure!(!first.is_empty(), "`{name}` does not run here: {}", join_lines(&stderr));
            }
            Ready::StderrLine => drop(next_line(&stderr, &name)?),
            Ready::AnyOutput => {
                let end = Instant::now() + PATIENCE;
                while counter_lines.recv_timeout(Duration::from_millis(50)).is_err() {
                    ensure!(Instant::now() < end, "`{name}` sees nothing: {}", join_lines(&stderr));
                    helper::churn(helpers, 50, 1)?;
                }
            }
        }
        let pid = process.0.id();
        let (runs, cpu) = (proc::read_runs(pid), proc::read_cpu(pid)?);
        Ok(Self { process, _counter: counter, name, ready: what.ready, counter_lines, stderr, runs, cpu })
    }

    /// Its memory.
    pub(crate) fn read_memory(&self) -> Result<Memory> {
        proc::read_memory(self.process.0.id()).with_context(|| format!("`{}` has ended", self.name))
    }

    /// Ends a tracer as Ctrl-C does.
    pub(crate) fn finish(mut self) -> Result<Measured> {
        thread::sleep(SETTLE_TIME);
        let runs = proc::read_runs(self.process.0.id()).since(self.runs);
        let peak_kib = self.read_memory()?.peak;
        let pid = Pid::from_child(&self.process.0);
        kill_process(pid, Signal::INT)?;
        // What it used up to its very end can be read until it has been waited for.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let cpu = proc::read_cpu(self.process.0.id())?;
        self.process.0.wait()?;
        if self.ready == Ready::StderrLine {
            next_line(&self.counter_lines, "the first line")?;
        }
        let lines = next_line(&self.counter_lines, "the number of lines")?;
        let last = next_line(&self.counter_lines, "the last line")?;
        let summary: Option<Summary> = serde_json::from_str(&last).ok();
        let counted = summary.map(|summary| summary.lost + summary.dropped);
        Ok(Measured {
            runs,
            cpu: Cpu { user: cpu.user - self.cpu.user, system: cpu.system - self.cpu.system },
            peak_kib,
            lines: lines.parse().with_context(|| format!("no number of lines: {lines:?}"))?,
            lost: counted.or_else(|| parse_lost(&join_lines(&self.stderr))),
            summary,
        })
    }
}

/// All lines until stderr is closed.
fn join_lines(stderr: &Receiver<String>) -> String {
    stderr.iter().collect::<Vec<_>>().join("; ")
}

/// Losses in tcptrace's last line of text: `9 transitions seen, 2 lost, 1 not written (reader too
/// slow) in 3.0s`.
fn parse_lost(stderr: &str) -> Option<u64> {
    let (_, summary) = stderr.rsplit_once(" seen")?;
    let counts = summary.split(", ").filter_map(|part| {
        let (count, rest) = part.split_once(' ')?;
        (rest.starts_with("lost") || rest.starts_with("not written")).then(|| count.parse::<u64>().ok())?
    });
    Some(counts.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_from_the_last_line_of_text() {
        let text = "watching; tcptrace: 9 transitions seen, 2 lost, 1 not written (reader too slow) in 3.0s";
        assert_eq!(parse_lost(text), Some(3));
        assert_eq!(parse_lost("tcptrace: 9 transitions seen, 1 stuck, 1 cleared in 3.0s"), Some(0));
        assert_eq!(parse_lost("lost 5 events"), None);
    }
}
