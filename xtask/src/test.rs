//! `cargo xtask test`: runs the unit tests as the user and the kernel tests as root, and adds up.
//!
//! Guests with other kernels run the same kernel tests ([`matrix`]).

use std::{
    env,
    io::Write as _,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    compile::{self, Profile},
    environment, matrix,
    results::{self, Outcome, Place, Results, Totals},
    setup::{self, Purpose},
    shell::{self, say},
};

/// The packages whose tests need neither root nor a kernel. tcptrace-ebpf has none: it runs only
/// in a kernel.
const UNIT_TESTED: [&str; 3] = ["tcptrace-common", "tcptrace", "xtask"];
/// The tests to run, and how.
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
    /// Only the kernel tests, under this kernel, such as 6.1, or 6.1-nobtf to have BTF turned off;
    /// may be repeated
    #[arg(long, value_name = "VERSION", conflicts_with = "kernels")]
    kernel: Vec<String>,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Arguments for libtest, such as --nocapture or --test-threads=1
    #[arg(last = true, value_name = "LIBTEST ARGS")]
    libtest: Vec<String>,
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        self.filter.iter().chain(&self.libtest).cloned().collect()
    }
}

/// Runs the tests that the options select; the line with the totals is the last thing printed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let outcome = if options.kernels || !options.kernel.is_empty() {
        setup::prepare(&[Purpose::Guests])?;
        matrix::run(&options.kernel, &options.arguments())?
    } else {
        setup::prepare(if options.unit { &[] } else { &[Purpose::Test] })?;
        run_here(options)?
    };
    show_unrun(&outcome.places);
    println!("{}", outcome.totals);
    Ok(if outcome.totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the tests that ran under none of the kernels, and returns how many there are.
pub(crate) fn show_unrun(places: &[Place]) -> usize {
    let unrun = results::list_unrun(places);
    if !unrun.is_empty() {
        println!("\nran under no kernel at all:\n  {}", unrun.join("\n  "));
    }
    unrun.len()
}

/// Runs the tests on this machine.
pub(crate) fn run_here(options: &Options) -> Result<Outcome> {
    let arguments = options.arguments();
    let mut outcome = Outcome::default();
    if !options.here {
        say(format_args!("unit tests of {}", UNIT_TESTED.join(", ")));
        let mut cargo = shell::cargo();
        cargo.args(["test", "--no-fail-fast"]);
        cargo.args(UNIT_TESTED.iter().flat_map(|package| ["--package", package]));
        // What cargo says about building goes to the user, uncounted.
        outcome.totals += run_tests("cargo test", cargo.arg("--").args(&arguments))?.totals;
    }
    let mut kernel_totals = Totals::default();
    if !options.unit {
        let programs = run_kernel_tests(&arguments)?;
        for program in &programs {
            kernel_totals += program.totals;
        }
        outcome.totals += kernel_totals;
        outcome.places.push(Place { name: "here".into(), programs });
    }
    // A filter may well select unit tests only; that no test at all has its name is a mistake.
    let is_any = options.unit || options.filter.is_some();
    let (ran, what) = if is_any { (outcome.totals, "test") } else { (kernel_totals, "kernel test") };
    if ran.passed + ran.failed == 0 {
        say(format_args!("no {what} ran, which counts as a failure"));
        outcome.totals.failed += 1;
    }
    Ok(outcome)
}

fn run_kernel_tests(arguments: &[String]) -> Result<Vec<Results>> {
    let mut environment = environment::for_tests(env::vars_os());
    environment.insert(
        environment::BINARY_VARIABLE.to_owned(),
        compile::build_tcptrace(Profile::Release)?.display().to_string(),
    );
    let programs = compile::build_kernel_tests()?.programs.into_iter();
    let run = |program: compile::Executable| {
        say(format_args!("kernel tests as root: {}", program.name));
        results::run_with_retries(arguments, |arguments| {
            let mut command = shell::as_root(&program.path, &environment)?;
            // Where `cargo test` runs them. On stderr they say which of them do not run.
            command.current_dir(shell::workspace_root().join("tests")).stderr(Stdio::piped());
            run_tests(&program.name, command.args(arguments))
        })
    };
    programs.map(run).collect()
}

/// Runs a test program, shows the user what it prints, and counts. Its stderr is read if it is a
/// pipe.
fn run_tests(name: &str, command: &mut Command) -> Result<Results> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let tally = results::read_tests(&mut child, |line| {
        // A reader that has gone does not stop the tests.
        let _gone = writeln!(std::io::stdout(), "{line}");
    });
    let status = child.wait().context("cannot wait for the tests")?;
    let failed = (!status.success()).then(|| status.to_string());
    let results = tally.finish(name, failed.as_deref());
    results.trouble.iter().for_each(|trouble| say(format_args!("{trouble}")));
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_say_on_stderr_is_read() -> Result<()> {
        // Without a line of results: it would reach our own stdout, and be counted there.
        let mut command = Command::new("sh");
        command.args(["-c", "echo '@@NOTRUN a needs b' >&2; kill -9 $$"]).stderr(Stdio::piped());
        let Results { totals, trouble, .. } = run_tests("sh", &mut command)?;
        assert_eq!(totals, Totals { failed: 1, not_run: 1, ..Totals::default() });
        assert!(trouble.is_some_and(|trouble| trouble.contains("signal: 9")));
        Ok(())
    }
}
