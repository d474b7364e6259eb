//! `cargo xtask setup`: installs what is missing, one step of the plan after the other.
//!
//! What is missing is decided in `plan.rs`; where nothing is, this only looks and is quick.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    facts::{LINKED_TOOLCHAIN, Llvm, TOOLCHAIN_OVERRIDE, gather},
    plan::{LINKER_VERSION, Step, Way, plan},
    shell::{self, say},
    tools,
};

/// What one is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Build tcptrace.
    Build,
    /// Build and test it.
    Test,
    /// Build and test it, under other kernels too.
    Guests,
}

/// What building needs, all there.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The compiler for BPF.
    pub(crate) way: Way,
    /// The variables with which cargo finds compiler and linker.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// Reports what is missing; the exit status says whether anything is.
pub(crate) fn check() -> Result<ExitCode> {
    let plan = plan(&gather(), &[], Scope::Test)?;
    if plan.steps.is_empty() {
        say(format_args!("nothing is missing: {}", plan.way));
        return Ok(ExitCode::SUCCESS);
    }
    for step in &plan.steps {
        say(format_args!("missing: {step}"));
    }
    say(format_args!("`cargo xtask setup` installs it"));
    Ok(ExitCode::FAILURE)
}

/// Installs what is missing.
pub(crate) fn run(scope: Scope) -> Result<Tools> {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    let mut updated = false;
    loop {
        let facts = gather();
        let decision = plan(&facts, &failed, scope);
        // Stale package lists may be all that keeps apt from offering a compiler.
        let would_use_rustup = decision.as_ref().map_or(true, |plan| plan.steps.iter().any(Step::is_attempt));
        let wants_apt = facts.lacks_compiler() && would_use_rustup;
        if wants_apt && !updated && facts.apt.as_ref().is_some_and(|apt| !apt.offers_compiler) {
            updated = true;
            if let Err(error) = apt_get(&["update"]) {
                say(format_args!("going on without: {error:#}"));
            }
            continue;
        }
        let plan = decision?;
        // One at a time: what is missing next may depend on what this one brings.
        let Some(step) = plan.steps.first().cloned() else {
            return Ok(Tools { way: plan.way, environment: environment(plan.way)? });
        };
        if done.contains(&step) {
            bail!("this was installed just now and still is not found: {step}");
        }
        say(format_args!("installing {step}"));
        match apply(&step) {
            Ok(()) => done.push(step),
            Err(error) if step.is_attempt() => {
                say(format_args!("{error:#}; looking for another way"));
                failed.push(step);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot install {step}")),
        }
    }
}

fn apply(step: &Step) -> Result<()> {
    match step {
        Step::Packages(packages) => install_packages(packages),
        Step::RustSource => {
            shell::run(shell::rustup().args(["component", "add", "rust-src", "--toolchain", "nightly"]))
        }
        Step::Nightly => shell::run(shell::rustup().args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])),
        Step::Link => shell::run(shell::rustup().args(["toolchain", "link", LINKED_TOOLCHAIN, "/usr"])),
        Step::Linker(llvm) => install_linker(llvm),
        Step::Rsyslog(packages) => with_new_lists(|| tools::unpack_rsyslog(packages)),
        Step::Promtool(packages) => with_new_lists(|| tools::unpack_promtool(packages)),
        Step::DuckDb => tools::install_duckdb(),
    }
}

fn install_packages(packages: &[(String, &'static str)]) -> Result<()> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.iter().map(|(name, _)| name.as_str()));
    if apt_get(&arguments).is_ok() {
        return Ok(());
    }
    say(format_args!("once more, with new package lists"));
    apt_get(&["update"])?;
    apt_get(&arguments)
}

/// Does it, and if it fails once more with new package lists: old ones name packages that are
/// gone.
fn with_new_lists(unpack: impl Fn() -> Result<()>) -> Result<()> {
    if unpack().is_ok() {
        return Ok(());
    }
    say(format_args!("once more, with new package lists"));
    apt_get(&["update"])?;
    unpack()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let environment = [("DEBIAN_FRONTEND".into(), "noninteractive".into())];
    let mut command = shell::as_root(OsStr::new("apt-get"), &environment)?;
    // A fresh machine may be updating itself at this moment.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    shell::run(&mut command)
}

fn install_linker(llvm: &Llvm) -> Result<()> {
    let features = format!("llvm-{}", llvm.major);
    let mut cargo = shell::cargo();
    cargo.env("LLVM_PREFIX", &llvm.prefix);
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &features]);
    shell::run(&mut cargo)
}

/// What cargo has to be told, beyond what it finds for itself.
fn environment(way: Way) -> Result<Vec<(OsString, OsString)>> {
    let mut environment = Vec::new();
    if way == Way::Path {
        // Any name will do: without rustup there is but one toolchain, and build.rs then doesn't look for others.
        environment.push((TOOLCHAIN_OVERRIDE.into(), "path".into()));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = env::split_paths(&path).collect();
    let known = directories.len();
    for program in ["rustup", "bpf-linker"].into_iter().filter_map(shell::find) {
        let directory = program.parent().map(Path::to_path_buf);
        directories.extend(directory.filter(|directory| !directories.contains(directory)));
    }
    if directories.len() > known {
        let path = env::join_paths(directories).context("PATH cannot be extended")?;
        environment.push(("PATH".into(), path));
    }
    Ok(environment)
}
