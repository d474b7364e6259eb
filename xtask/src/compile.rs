//! Builds with cargo, as the user, and says where the results are.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::Message;
use serde::{Deserialize, Serialize};

use crate::shell;

/// How tcptrace is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As it is installed.
    Release,
    /// With debug assertions.
    Debug,
}

/// A program that cargo built.
#[derive(Debug)]
pub(crate) struct Executable {
    /// The name of its target.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Whether it has libtest's main function.
    is_test: bool,
}

/// Builds tcptrace; the result is the path of the program.
pub(crate) fn build_tcptrace(profile: Profile) -> Result<PathBuf> {
    let release: &[&str] = if profile == Profile::Release { &["--release"] } else { &[] };
    take_program(run_cargo(&[&["build", "--package", "tcptrace"], release].concat())?, "tcptrace")
}

/// The kernel tests, compiled.
#[derive(Debug)]
pub(crate) struct KernelTests {
    pub(crate) programs: Vec<Executable>,
    /// The programs that they run.
    pub(crate) helpers: Vec<Executable>,
}

/// Builds the kernel tests, and the programs they run.
pub(crate) fn build_kernel_tests() -> Result<KernelTests> {
    let all = run_cargo(&["test", "--package", "tests", "--lib", "--test", "*", "--no-run"])?;
    let (programs, helpers) = all.into_iter().partition(|program| program.is_test);
    Ok(KernelTests { programs, helpers })
}

/// The programs that the benchmarks run as root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Programs {
    pub(crate) tcptrace: PathBuf,
    /// The directory with the programs of the package `tests`.
    pub(crate) helpers: PathBuf,
    /// The benchmark of owner resolution.
    pub(crate) owners: PathBuf,
}

/// Builds all that is measured, optimised: the benchmark of the pipeline, and the other programs.
pub(crate) fn build_benchmarks() -> Result<(PathBuf, Programs)> {
    let bench = |name| {
        take_program(run_cargo(&["bench", "--package", "tcptrace", "--bench", name, "--no-run"])?, name)
    };
    let (tcptrace, helpers) = (build_tcptrace(Profile::Release)?, build_helpers()?);
    Ok((bench("pipeline")?, Programs { tcptrace, helpers, owners: bench("owners")? }))
}

/// Builds the programs of the package `tests`, optimised; the result is the directory they are in.
pub(crate) fn build_helpers() -> Result<PathBuf> {
    let mut churn =
        take_program(run_cargo(&["build", "--package", "tests", "--bins", "--release"])?, "churn")?;
    churn.pop();
    Ok(churn)
}

fn take_program(programs: Vec<Executable>, name: &str) -> Result<PathBuf> {
    let program = programs.into_iter().find(|program| program.name == name);
    Ok(program.with_context(|| format!("cargo built no program {name}"))?.path)
}

/// Runs cargo and returns the programs it built or found fresh. Compiler messages go to stderr.
fn run_cargo(arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = shell::cargo();
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "`{}` failed; its messages are above", shell::show_command(&cargo));
    let mut programs = Vec::new();
    for message in Message::parse_stream(&*output.stdout) {
        if let Message::CompilerArtifact(artifact) = message.context("cannot read cargo's output")?
            && let Some(path) = artifact.executable
        {
            let is_test = artifact.profile.test;
            programs.push(Executable { name: artifact.target.name, path: path.into(), is_test });
        }
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}
