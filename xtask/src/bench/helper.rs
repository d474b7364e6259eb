//! The small programs of the package `tests` that the benchmarks use, while they run.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// How long anything is waited for: long, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A child process, killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has been waited for is not signalled: std sees to that.
        let _gone_already = self.0.kill();
        let _gone_already = self.0.wait();
    }
}

/// The lines that a process writes, as they come.
pub(crate) fn lines(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(source).split(b'\n').map_while(std::io::Result::ok);
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// The next line; `what` it is waited for.
pub(crate) fn next(lines: &Receiver<String>, what: &str) -> Result<String> {
    lines.recv_timeout(PATIENCE).map_err(|error| match error {
        RecvTimeoutError::Timeout => anyhow::anyhow!("waited in vain for {what}"),
        RecvTimeoutError::Disconnected => anyhow::anyhow!("no {what}: it ended"),
    })
}

/// A helper that is ready, and ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Killed,
    /// Its end is what ends the helper, even where we are killed.
    _stdin: Option<ChildStdin>,
}

/// Starts a helper and waits until it says that it is ready.
pub(crate) fn start(helpers: &Path, name: &str, arguments: &[&str]) -> Result<Running> {
    let mut command = shell::command(helpers.join(name));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let mut process = Killed(child);
    let (stdin, stdout) = (process.0.stdin.take(), process.0.stdout.take());
    let said = next(&lines(stdout.context("it was piped")?), name)?;
    if said != "ready" {
        bail!("{name} said {said:?}");
    }
    Ok(Running { process, _stdin: stdin })
}

/// Makes so many connections in so many threads. Returns how many were made, and in how many seconds.
pub(crate) fn churn(helpers: &Path, connections: u32, threads: usize) -> Result<(f64, f64)> {
    let mut churn = Command::new(helpers.join("churn"));
    let output = churn.arg(connections.to_string()).arg(threads.to_string()).stdin(Stdio::null());
    let output = output.stderr(Stdio::inherit()).output().context("cannot run churn")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = said.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(made)), Some(Ok(seconds))) if output.status.success() => Ok((made, seconds)),
        _ => bail!("churn failed ({}): {said}", output.status),
    }
}
