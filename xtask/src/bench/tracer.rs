//! A tracer under load: started, waited for until it sees transitions, measured, ended.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use super::{
    helper::{self, Killed, PATIENCE},
    proc::{self, Cpu, Runs},
};
use crate::shell;

/// After the load, so that a tracer which looks into its buffers now and then has done so.
const TO_FINISH: Duration = Duration::from_millis(300);

/// How a tracer tells that it sees transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// By its first line on stdout.
    FirstLine,
    /// By its first line on stderr.
    StderrLine,
    /// Not at all: connections are made until it writes something.
    WhenItSees,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) ready: Ready,
}

/// What a tracer did while a load ran.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Of its BPF programs.
    pub(crate) runs: Runs,
    /// Its own time.
    pub(crate) cpu: Cpu,
    /// The most memory that it ever had, KiB.
    pub(crate) peak_kib: u64,
    /// Lines written.
    pub(crate) lines: u64,
    /// What it says that it has lost, where it says so.
    pub(crate) lost: Option<u64>,
    /// What tcptrace's last record says.
    pub(crate) summary: Option<Summary>,
}

/// Of the record `summary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Transitions that reached the tracker.
    pub(crate) transitions: u64,
    /// Those that did not.
    pub(crate) lost: u64,
    /// Records not written.
    pub(crate) dropped: u64,
    /// Looks at all sockets after a loss.
    pub(crate) resyncs: u64,
}

/// A tracer that is running, and who reads what it writes.
pub(crate) struct Tracer {
    process: Killed,
    _counter: Killed,
    counted: Receiver<String>,
    stderr: Receiver<String>,
    runs: Runs,
    cpu: Cpu,
}

impl Tracer {
    /// Starts it, and waits until it sees transitions.
    pub(crate) fn start(helpers: &Path, what: &Command) -> Result<Self> {
        let mut command = shell::command(&what.program);
        command.args(&what.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = shell::show(&command);
        let mut process = Killed(command.spawn().with_context(|| format!("cannot run `{name}`"))?);
        let (stdout, stderr) = (process.0.stdout.take(), process.0.stderr.take());
        let mut counter = shell::command(helpers.join("line-counter"));
        counter.stdin(stdout.context("it was piped")?).stdout(Stdio::piped());
        let mut counter = Killed(counter.spawn().context("cannot run line-counter")?);
        let counted = helper::lines(counter.0.stdout.take().context("it was piped")?);
        let stderr = helper::lines(stderr.context("it was piped")?);
        match what.ready {
            Ready::FirstLine => {
                let first = helper::next(&counted, &name)?;
                if first.is_empty() {
                    bail!("`{name}` does not run here: {}", said(&stderr));
                }
            }
            Ready::StderrLine => {
                helper::next(&stderr, &name)?;
            }
            Ready::WhenItSees => {
                let end = Instant::now() + PATIENCE;
                while counted.recv_timeout(Duration::from_millis(50)).is_err() {
                    if Instant::now() > end {
                        bail!("`{name}` sees nothing: {}", said(&stderr));
                    }
                    helper::churn(helpers, 50, 1)?;
                }
            }
        }
        let pid = process.0.id();
        let (runs, cpu) = (proc::runs(pid), proc::cpu(pid).context("it has ended")?);
        Ok(Self { process, _counter: counter, counted, stderr, runs, cpu })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn finish(mut self, what: &Command) -> Result<Seen> {
        thread::sleep(TO_FINISH);
        let number = self.process.0.id();
        let runs = proc::runs(number).since(self.runs);
        let Some(peak_kib) = proc::memory(number, "VmHWM") else {
            bail!("{} has ended before its time: {}", what.program.display(), said(&self.stderr));
        };
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).context("a child has a pid")?;
        kill_process(pid, Signal::INT)?;
        // What it used up to its very end can be read until it has been waited for.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let cpu = proc::cpu(number).context("it has not been waited for")?;
        self.process.0.wait()?;
        if what.ready == Ready::StderrLine {
            let _first_line = helper::next(&self.counted, "the first line")?;
        }
        let lines = helper::next(&self.counted, "the number of lines")?;
        let last = helper::next(&self.counted, "the last line")?;
        Ok(Seen {
            runs,
            cpu: Cpu { user: cpu.user - self.cpu.user, system: cpu.system - self.cpu.system },
            peak_kib,
            lines: lines.parse().with_context(|| format!("no number of lines: {lines:?}"))?,
            lost: summary(&last)
                .map(|summary| summary.lost + summary.dropped)
                .or_else(|| lost_in_words(&said(&self.stderr))),
            summary: summary(&last),
        })
    }
}

/// All that came on stderr until it was closed.
fn said(stderr: &Receiver<String>) -> String {
    stderr.iter().collect::<Vec<_>>().join("; ")
}

/// The `summary` record of tcptrace.
fn summary(last: &str) -> Option<Summary> {
    let record: Value = serde_json::from_str(last).ok()?;
    let count = |name: &str| record[name].as_u64();
    Some(Summary {
        transitions: count("transitions")?,
        lost: count("lost")?,
        dropped: count("dropped")?,
        resyncs: count("resyncs")?,
    })
}

/// The same by its last words in text: `9 transitions seen, 2 lost, 1 not written (reader too slow) in 3.0s`.
fn lost_in_words(stderr: &str) -> Option<u64> {
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
    fn what_was_lost_is_read_from_the_last_record() {
        let last = r#"{"event":"summary","transitions":9,"lost":2,"dropped":3,"resyncs":1}"#;
        let expected = Summary { transitions: 9, lost: 2, dropped: 3, resyncs: 1 };
        assert_eq!(summary(last), Some(expected));
        assert_eq!(summary(r#"{"event":"transition"}"#), None);
        assert_eq!(summary("no JSON"), None);
    }

    #[test]
    fn what_was_lost_is_read_from_the_last_words() {
        let words = "watching; tcptrace: 9 transitions seen, 2 lost, 1 not written (reader too slow) in 3.0s";
        assert_eq!(lost_in_words(words), Some(3));
        assert_eq!(lost_in_words("tcptrace: 1 transition seen in 3.0s"), Some(0));
        assert_eq!(lost_in_words("tcptrace: 9 transitions seen, 1 stuck, 1 cleared in 3.0s"), Some(0));
        assert_eq!(lost_in_words("lost 5 events"), None);
    }
}
