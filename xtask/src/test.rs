//! `cargo xtask test`: runs the unit tests as the user and the kernel tests as root, and adds up.
//!
//! A kernel test program is turned into a command by [`here`] and counted by [`count`]. The other places to run the
//! same programs in are guests with other kernels: `matrix.rs`.

use std::{
    env,
    ffi::OsString,
    io,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    compile::{self, Profile},
    matrix,
    places::{self, Place},
    results::{Results, Tally, Totals, forward},
    setup::{self, Scope, Tools},
    shell::{self, say},
};

/// The packages whose tests need neither root nor a kernel. tcptrace-ebpf has none: it runs nowhere but in a kernel.
const UNIT_TESTED: [&str; 3] = ["tcptrace-common", "tcptrace", "xtask"];
/// With this the kernel tests find the program they test.
const BINARY_VARIABLE: &str = "TCPTRACE_BIN";

/// With this they have the tracer do without a kernel feature (`tests/src/tracer.rs`).
pub(crate) const WITHOUT_VARIABLE: &str = "TCPTRACE_TEST_WITHOUT";
/// In how many threads libtest runs tests.
pub(crate) const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
/// Without BTF transitions tell no network namespace: tests that run at the same time would see each other's.
pub(crate) const ONE_THREAD: &str = "1";

/// Which tests, and how.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only the unit tests and doctests, which need no root
    #[arg(long, conflicts_with_all = ["here", "kernels", "kernel"])]
    unit: bool,
    /// Only the kernel tests, under the kernel that is running
    #[arg(long, conflicts_with_all = ["kernels", "kernel"])]
    here: bool,
    /// Only the kernel tests, under all the kernels there are guests for
    #[arg(long)]
    kernels: bool,
    /// Only the kernel tests, under this kernel, such as 6.1, or 6.1-nobtf to have BTF turned off; may be repeated
    #[arg(long, value_name = "VERSION", conflicts_with = "kernels")]
    kernel: Vec<String>,
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
    let outcome = if options.kernels || !options.kernel.is_empty() {
        let tools = setup::run(Scope::Guests)?;
        let arguments: Vec<_> = options.arguments().cloned().collect();
        matrix::run(&tools, &options.kernel, &arguments)?
    } else {
        let tools = setup::run(if options.unit { Scope::Build } else { Scope::Test })?;
        run_with(&tools, options)?
    };
    show_nowhere(&outcome.places);
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
    /// Where the kernel tests ran.
    pub(crate) places: Vec<Place>,
}

/// Prints the tests that ran under none of the kernels.
pub(crate) fn show_nowhere(places: &[Place]) {
    let nowhere = places::ran_nowhere(places);
    if !nowhere.is_empty() {
        println!("\nran under no kernel at all:");
        nowhere.iter().for_each(|test| println!("  {test}"));
    }
}

/// [`run`] without printing the totals, and with what it needs already there.
pub(crate) fn run_with(tools: &Tools, options: &Options) -> Result<Outcome> {
    let mut totals = Totals::default();
    if !options.here {
        totals += unit_tests(tools, options)?;
    }
    let mut kernel = Totals::default();
    let mut places = Vec::new();
    if !options.unit {
        let programs = kernel_tests(tools, options)?;
        programs.iter().for_each(|(_, results)| kernel += results.totals);
        totals += kernel;
        places
            .push(Place::new("here", programs.iter().map(|(name, results)| (name.as_str(), &results.tests))));
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
    Ok(Outcome { totals, good: some_ran && totals.failed == 0, places })
}

fn unit_tests(tools: &Tools, options: &Options) -> Result<Totals> {
    say(format_args!("unit tests of {}", UNIT_TESTED.join(", ")));
    let mut cargo = shell::cargo();
    cargo.envs(tools.environment.iter().map(|(name, value)| (name, value)));
    cargo.args(["test", "--no-fail-fast"]);
    cargo.args(UNIT_TESTED.iter().flat_map(|package| ["--package", package]));
    cargo.arg("--").args(options.arguments());
    Ok(count(&mut cargo)?.totals)
}

fn kernel_tests(tools: &Tools, options: &Options) -> Result<Vec<(String, Results)>> {
    let tcptrace = compile::tcptrace(tools, Profile::Release)?;
    let programs = compile::kernel_tests(tools)?.programs.into_iter();
    programs
        .map(|program| {
            say(format_args!("kernel tests as root: {}", program.name));
            let mut command = here(&program.path, &tcptrace)?;
            // There they say what they cannot run.
            command.stderr(Stdio::piped());
            Ok((program.name, count(command.args(options.arguments()))?))
        })
        .collect()
}

/// The command that runs a test program as root on this machine's kernel.
fn here(program: &Path, tcptrace: &Path) -> Result<Command> {
    let mut command = shell::as_root(program.as_os_str(), &environment(tcptrace, env::vars_os()))?;
    // Where `cargo test` runs them.
    command.current_dir(shell::workspace_root().join("tests"));
    Ok(command)
}

/// What the tests get from our environment; sudo passes nothing on by itself.
pub(crate) fn environment(
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
    let is_set = |wanted: &str| environment.iter().any(|(name, value)| name == wanted && !value.is_empty());
    if is_set(WITHOUT_VARIABLE) && !is_set(THREADS_VARIABLE) {
        environment.push((THREADS_VARIABLE.into(), ONE_THREAD.into()));
    }
    environment
}

/// Runs a command that runs tests, lets the user see what they print, and counts. Its stderr is read if it is a pipe.
fn count(command: &mut Command) -> Result<Results> {
    let context = format!("cannot run {}", command.get_program().display());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(context)?;
    let stdout = child.stdout.take().context("the tests have no stdout")?;
    let stderr = child.stderr.take();
    let tally = Mutex::new(Tally::default());
    let take = |line: &str| tally.lock().unwrap_or_else(PoisonError::into_inner).line(line);
    let passed_on = thread::scope(|scope| {
        let stderr = stderr.map(|stderr| scope.spawn(|| forward(stderr, io::stderr(), take)));
        let stdout = forward(stdout, io::stdout(), take);
        let stderr = stderr.map_or(Ok(Ok(())), thread::ScopedJoinHandle::join);
        stdout.and(stderr.unwrap_or_else(|_| Err(io::Error::other("the thread that reads stderr died"))))
    });
    passed_on.context("cannot pass on what the tests print")?;
    let mut results = tally.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    let status = child.wait().context("cannot wait for the tests")?;
    if !status.success() && results.totals.failed == 0 {
        // It doesn't compile, or died halfway: one failure, that no result line tells of.
        say(format_args!("`{}` failed ({status}) without reporting a failed test", shell::show(command)));
        results.totals.failed += 1;
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Totals> {
        Ok(count(Command::new("sh").args(["-c", script]).stderr(Stdio::piped()))?.totals)
    }

    #[test]
    fn tests_that_die_count_as_failed() -> Result<()> {
        assert_eq!(sh("kill -9 $$")?, Totals { failed: 1, ..Totals::default() });
        assert_eq!(sh("exit 101")?, Totals { failed: 1, ..Totals::default() });
        assert_eq!(sh("true")?, Totals::default());
        Ok(())
    }

    #[test]
    fn what_tests_say_on_stderr_is_read() -> Result<()> {
        // Without a line of results: it would reach our own stdout, and be counted there.
        assert_eq!(sh("echo '@@NOTRUN a needs b' >&2")?, Totals { not_run: 1, ..Totals::default() });
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
        let ours = [("TCPTRACE_TEST_WITHOUT".into(), "btf".into())];
        let environment = environment(Path::new("/t/tcptrace"), ours.into_iter());
        assert!(environment.contains(&("RUST_TEST_THREADS".into(), "1".into())));
    }
}
