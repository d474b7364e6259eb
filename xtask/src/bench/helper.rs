//! Runs the small programs of the package `tests` that the benchmarks use.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// How long anything is waited for: long, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A child process that is killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    /// Starts a program.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("cannot run `{}`", shell::show_command(command)))?))
    }

    /// The lines of stdout, which was piped.
    pub(crate) fn stdout(&mut self) -> Result<Receiver<String>> {
        Ok(read_lines(self.0.stdout.take().context("stdout is not piped")?))
    }

    /// The lines of stderr, which was piped.
    pub(crate) fn stderr(&mut self) -> Result<Receiver<String>> {
        Ok(read_lines(self.0.stderr.take().context("stderr is not piped")?))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // std does not signal a process that has been waited for.
        let _gone_already = self.0.kill();
        let _gone_already = self.0.wait();
    }
}

fn read_lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(source).split(b'\n').map_while(std::io::Result::ok);
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// The next line; `what` names it in errors.
pub(crate) fn next_line(lines: &Receiver<String>, what: &str) -> Result<String> {
    lines.recv_timeout(PATIENCE).with_context(|| format!("{what} did not come"))
}

/// Starts a helper and waits until it says that it is ready. It ends when its stdin is closed,
/// even if xtask was killed.
pub(crate) fn start(helpers: &Path, name: &str, arguments: &[&str]) -> Result<Killed> {
    let mut command = shell::command(helpers.join(name));
    let mut helper = Killed::spawn(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let said = next_line(&helper.stdout()?, name)?;
    ensure!(said == "ready", "{name} said {said:?}");
    Ok(helper)
}

/// Makes so many connections in so many threads, and returns how many were made in how many
/// seconds.
pub(crate) fn churn(helpers: &Path, connections: u32, threads: usize) -> Result<(f64, f64)> {
    let mut churn = shell::command(helpers.join("churn"));
    let said = shell::read_output(churn.args([connections.to_string(), threads.to_string()]))?;
    let numbers =
        said.split_once(' ').and_then(|(made, took)| Some((made.parse().ok()?, took.parse().ok()?)));
    numbers.with_context(|| format!("churn said {said:?}"))
}
