//! Building with cargo, as the user. Knows where the results are; runs none of them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Error, Result, bail};

use crate::{
    cargo_json::{self, Executable},
    setup::Tools,
    shell,
};

/// How tcptrace is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As it is installed.
    Release,
    /// With debug assertions.
    Debug,
}

impl Profile {
    /// From the flag `--debug`.
    pub(crate) fn new(debug: bool) -> Self {
        if debug { Self::Debug } else { Self::Release }
    }
}

/// Builds tcptrace; the result is the path of the program.
pub(crate) fn tcptrace(tools: &Tools, profile: Profile) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--package", "tcptrace"];
    if profile == Profile::Release {
        arguments.push("--release");
    }
    let programs = programs(tools, &arguments)?;
    let tcptrace = programs.into_iter().find(|program| program.name == "tcptrace");
    Ok(tcptrace.context("cargo built the package tcptrace, but no program of that name")?.path)
}

/// The kernel tests, compiled.
#[derive(Debug)]
pub(crate) struct KernelTests {
    /// The test programs: there is at least one.
    pub(crate) programs: Vec<Executable>,
    /// The programs that they run.
    pub(crate) helpers: Vec<Executable>,
}

/// Builds the kernel tests, and the programs they run.
pub(crate) fn kernel_tests(tools: &Tools) -> Result<KernelTests> {
    let all = programs(tools, &["test", "--package", "tests", "--lib", "--test", "*", "--no-run"])?;
    let (programs, helpers): (Vec<_>, _) = all.into_iter().partition(|program| program.is_test);
    if programs.is_empty() {
        bail!("the package tests has no tests; kernel tests belong in tests/tests/*.rs");
    }
    Ok(KernelTests { programs, helpers })
}

/// The benchmarks, compiled.
#[derive(Debug)]
pub(crate) struct Benchmarks {
    /// Of the code between ring and output.
    pub(crate) pipeline: PathBuf,
    /// Of owner resolution.
    pub(crate) owners: PathBuf,
    /// The directory with the programs that make the load and read the output.
    pub(crate) helpers: PathBuf,
}

/// Builds the benchmarks, and the programs of the package `tests`, optimised.
pub(crate) fn benchmarks(tools: &Tools) -> Result<Benchmarks> {
    let benches = programs(tools, &["bench", "--package", "tcptrace", "--benches", "--no-run"])?;
    let bench = |name: &str| {
        let found = benches.iter().find(|program| program.name == name);
        Ok::<_, Error>(found.with_context(|| format!("cargo built no benchmark {name}"))?.path.clone())
    };
    Ok(Benchmarks { pipeline: bench("pipeline")?, owners: bench("owners")?, helpers: helpers(tools)? })
}

/// Builds the programs of the package `tests`, optimised, and says in which directory they are.
pub(crate) fn helpers(tools: &Tools) -> Result<PathBuf> {
    let helpers = programs(tools, &["build", "--package", "tests", "--bins", "--release"])?;
    let helpers = helpers.first().and_then(|program| program.path.parent()).map(Path::to_path_buf);
    helpers.context("cargo built the package tests, but no program")
}

/// Has cargo build something and tell which programs that made. What is wrong with the code goes to stderr.
fn programs(tools: &Tools, arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = shell::cargo();
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    cargo.envs(tools.environment.iter().map(|(name, value)| (name, value)));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("`{}` failed; its messages are above", shell::show(&cargo));
    }
    cargo_json::executables(&String::from_utf8_lossy(&output.stdout))
}
