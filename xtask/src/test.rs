//! `cargo xtask test`: runs the unit tests as the user and the kernel tests as root, and adds up.
//!
//! A test program is turned into a command by [`here`] and counted by [`count`]; another place to run the same
//! programs in, such as a guest with another kernel, is another function like `here`.

use std::{
    env,
    ffi::OsString,
    io,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    compile::{self, Profile},
    results::{Totals, forward},
    setup::{self, Scope, Tools},
    shell::{self, say},
};

/// The packages whose tests need neither root nor a kernel. tcptrace-ebpf has none: it runs nowhere but in a kernel.
const UNIT_TESTED: [&str; 3] = ["tcptrace-common", "tcptrace", "xtask"];
/// With this the kernel tests find the program they test.
const BINARY_VARIABLE: &str = "TCPTRACE_BIN";

/// Which tests, and how.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only the unit tests and doctests, which need no root
    #[arg(long, conflicts_with = "kernel")]
    unit: bool,
    /// Only the kernel tests
    #[arg(long)]
    kernel: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Arguments for libtest, such as --nocapture or --test-threads=1
    #[arg(last = true, value_name = "LIBTEST ARGS")]
    libtest: Vec<String>,
}

impl Options {
    fn arguments(&self) -> impl Iterator<Item = &String> {
        self.filter.iter().chain(&self.libtest)
    }
}

/// Runs the tests that the options select; the line with the totals is the last thing printed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let tools = setup::run(if options.unit { Scope::Build } else { Scope::Test })?;
    let outcome = run_with(&tools, options)?;
    println!("{}", outcome.totals);
    Ok(if outcome.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of a test run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The numbers.
    pub(crate) totals: Totals,
    /// Whether all is well: no test failed, and those that were asked for did run.
    pub(crate) good: bool,
}

/// [`run`] without printing the totals, and with what it needs already there.
pub(crate) fn run_with(tools: &Tools, options: &Options) -> Result<Outcome> {
    let mut totals = Totals::default();
    if !options.kernel {
        totals += unit_tests(tools, options)?;
    }
    let mut kernel = Totals::default();
    if !options.unit {
        kernel = kernel_tests(tools, options)?;
        totals += kernel;
    }
    // A filter may well select unit tests only; that no test at all has its name is a mistake.
    let ran = if options.unit || options.filter.is_some() { totals } else { kernel };
    let some_ran = ran.passed + ran.failed > 0;
    if !some_ran {
        say(format_args!(
            "no {}test ran",
            if options.unit || options.filter.is_some() { "" } else { "kernel " }
        ));
    }
    Ok(Outcome { totals, good: some_ran && totals.failed == 0 })
}

fn unit_tests(tools: &Tools, options: &Options) -> Result<Totals> {
    say(format_args!("unit tests of {}", UNIT_TESTED.join(", ")));
    let mut cargo = shell::cargo();
    cargo.envs(tools.environment.iter().map(|(name, value)| (name, value)));
    cargo.args(["test", "--no-fail-fast"]);
    cargo.args(UNIT_TESTED.iter().flat_map(|package| ["--package", package]));
    cargo.arg("--").args(options.arguments());
    count(&mut cargo)
}

fn kernel_tests(tools: &Tools, options: &Options) -> Result<Totals> {
    let tcptrace = compile::tcptrace(tools, Profile::Release)?;
    let programs = compile::kernel_tests(tools)?;
    if programs.is_empty() {
        bail!("the package tests has no tests; kernel tests belong in tests/tests/*.rs");
    }
    let mut totals = Totals::default();
    for program in programs {
        say(format_args!("kernel tests as root: {}", program.name));
        let mut command = here(&program.path, &tcptrace)?;
        totals += count(command.args(options.arguments()))?;
    }
    Ok(totals)
}

/// The command that runs a test program as root on this machine's kernel.
fn here(program: &Path, tcptrace: &Path) -> Result<Command> {
    let mut command = shell::as_root(program.as_os_str(), &environment(tcptrace, env::vars_os()))?;
    // Where `cargo test` runs them.
    command.current_dir(shell::workspace_root().join("tests"));
    Ok(command)
}

/// What the tests get from our environment; sudo passes nothing on by itself.
fn environment(
    tcptrace: &Path,
    ours: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let is_wanted = |name: &OsString| {
        let name = name.to_string_lossy();
        let passed_on = ["TCPTRACE_", "RUST_TEST_", "RUST_BACKTRACE"];
        name != BINARY_VARIABLE && passed_on.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut environment: Vec<_> = ours.filter(|(name, _)| is_wanted(name)).collect();
    environment.push((BINARY_VARIABLE.into(), tcptrace.into()));
    environment
}

/// Runs a command that runs tests, lets the user see what they print, and counts.
fn count(command: &mut Command) -> Result<Totals> {
    let context = format!("cannot run {}", command.get_program().display());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(context)?;
    let stdout = child.stdout.take().context("the tests have no stdout")?;
    let mut totals = forward(stdout, io::stdout()).context("cannot pass on what the tests print")?;
    let status = child.wait().context("cannot wait for the tests")?;
    if !status.success() && totals.failed == 0 {
        // It doesn't compile, or died halfway: one failure, that no result line tells of.
        say(format_args!("`{}` failed ({status}) without reporting a failed test", shell::show(command)));
        totals.failed += 1;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Totals> {
        count(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn tests_that_die_count_as_failed() -> Result<()> {
        assert_eq!(sh("kill -9 $$")?, Totals { failed: 1, ..Totals::default() });
        assert_eq!(sh("exit 101")?, Totals { failed: 1, ..Totals::default() });
        assert_eq!(sh("true")?, Totals::default());
        Ok(())
    }

    #[test]
    fn the_tests_get_the_binary_and_what_concerns_them() {
        let ours =
            [("TCPTRACE_BIN", "/old"), ("TCPTRACE_SLOW", "1"), ("RUST_BACKTRACE", "1"), ("HOME", "/root")];
        let ours = ours.map(|(name, value)| (name.into(), value.into()));
        let names: Vec<_> = environment(Path::new("/t/tcptrace"), ours.into_iter())
            .into_iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect();
        assert_eq!(names, ["TCPTRACE_SLOW=1", "RUST_BACKTRACE=1", "TCPTRACE_BIN=/t/tcptrace"]);
    }
}
