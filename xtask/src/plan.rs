//! What is to be done so that this machine can build and test tcptrace: decides, from the facts alone.
//!
//! `facts.rs` finds the facts, `setup.rs` does what is decided here.

use std::{fmt, path::PathBuf};

use anyhow::{Result, bail};

use crate::{
    facts::{Compiler, Facts, LINKED_TOOLCHAIN, Llvm, Rustup, TOOLCHAIN_OVERRIDE},
    packages::{EXPECTED_LLVM, Need, PACKAGES, Package},
    setup::Scope,
    tools::DUCKDB_VERSION,
};

/// The version of bpf-linker that is installed where there is none.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions which that can be built with.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// The compiler to build the BPF programs with; `tcptrace/build.rs` chooses in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The one the user names.
    Named,
    /// rustup's nightly, which builds `core` itself.
    Nightly,
    /// Debian's, linked into rustup.
    Linked,
    /// The one on PATH; there is no rustup.
    Path,
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => {
                write!(formatter, "building for BPF with the toolchain that {TOOLCHAIN_OVERRIDE} names")
            }
            Self::Nightly => write!(formatter, "building for BPF with rustup's nightly and its rust-src"),
            Self::Linked => {
                write!(formatter, "building for BPF with the linked rustup toolchain `{LINKED_TOOLCHAIN}`")
            }
            Self::Path => write!(formatter, "building for BPF with the rustc on PATH"),
        }
    }
}

/// One thing to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Debian packages: each one's name, and why it is needed.
    Packages(Vec<(String, &'static str)>),
    /// The component rust-src of rustup's nightly.
    RustSource,
    /// rustup's nightly, with rust-src.
    Nightly,
    /// /usr as a rustup toolchain.
    Link,
    /// bpf-linker, built with this LLVM.
    Linker(Llvm),
    /// rsyslog for the tests, from these Debian packages.
    Rsyslog(Vec<(String, &'static str)>),
    /// promtool for the tests, from these Debian packages.
    Promtool(Vec<(String, &'static str)>),
    /// DuckDB for the tests.
    DuckDb,
}

impl Step {
    /// Whether there is another way when this fails.
    pub(crate) fn is_attempt(&self) -> bool {
        matches!(self, Self::RustSource | Self::Nightly)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(packages) => {
                write!(formatter, "Debian packages:")?;
                packages.iter().try_for_each(|(name, why)| write!(formatter, "\n  {name}: {why}"))
            }
            Self::RustSource => {
                write!(formatter, "rustup's rust-src for nightly: `core` is built from it for BPF")
            }
            Self::Nightly => {
                write!(formatter, "rustup's nightly with rust-src: only that builds `core` for BPF")
            }
            Self::Link => write!(
                formatter,
                "the rustup toolchain `{LINKED_TOOLCHAIN}`, a link to Debian's rustc in /usr"
            ),
            Self::Linker(llvm) => {
                write!(
                    formatter,
                    "bpf-linker {LINKER_VERSION} with LLVM {}: rustc links BPF programs with it",
                    llvm.major
                )
            }
            Self::Rsyslog(packages) | Self::Promtool(packages) => {
                write!(formatter, "in target/tools, Debian packages:")?;
                packages.iter().try_for_each(|(name, why)| write!(formatter, "\n  {name}: {why}"))
            }
            Self::DuckDb => write!(
                formatter,
                "in target/tools, duckdb-cli {DUCKDB_VERSION} from PyPI: docs/pipelines.md is tested with it"
            ),
        }
    }
}

/// How to build, and what that lacks.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The compiler.
    pub(crate) way: Way,
    /// What is missing, in the order in which it has to be installed.
    pub(crate) steps: Vec<Step>,
}

/// Decides; `failed` are the attempts that came to nothing, `scope` is what they are for.
pub(crate) fn plan(facts: &Facts, failed: &[Step], scope: Scope) -> Result<Plan> {
    let (way, rustc, mut steps) = compiler(facts, failed)?;
    let mut needs = Vec::new();
    if !facts.cc {
        needs.push(Need::Host);
    }
    if steps.contains(&Step::Link) || (way == Way::Path && !rustc.is_some_and(Compiler::suffices)) {
        needs.push(Need::Compiler);
    }
    if way == Way::Linked && !facts.rustup.as_ref().is_some_and(|rustup| rustup.cargo_for_linked) {
        needs.push(Need::Cargo);
    }
    let wanted = rustc.map_or(EXPECTED_LLVM, |rustc| rustc.llvm);
    let present = facts.linker.as_ref().is_some_and(|linker| linker.llvm.is_none_or(|llvm| llvm >= wanted));
    let llvm = if present { None } else { Some(linker_llvm(facts, wanted)?) };
    if facts.apt.is_some() && llvm.as_ref().is_some_and(|llvm| *llvm == debian_llvm(llvm.major)) {
        needs.push(Need::Linker);
    }
    if scope >= Scope::Test && !facts.test_tools {
        needs.push(Need::Tests);
    }
    let lacks_duckdb = scope >= Scope::Test && !facts.duckdb;
    if lacks_duckdb && !facts.pip {
        needs.push(Need::Pip);
    }
    if scope >= Scope::Guests && !facts.guest_tools {
        needs.push(Need::Guests);
    }
    let packages = packages(facts, &needs, llvm.as_ref().map_or(EXPECTED_LLVM, |llvm| llvm.major))?;
    if !packages.is_empty() {
        steps.insert(0, Step::Packages(packages));
    }
    steps.extend(llvm.map(Step::Linker));
    if scope >= Scope::Test && !facts.rsyslog {
        // Installed or not: it is unpacked with its libraries.
        steps.push(Step::Rsyslog(wanted_packages(facts, &[Need::Rsyslog], EXPECTED_LLVM)?));
    }
    if scope >= Scope::Test && !facts.promtool {
        steps.push(Step::Promtool(wanted_packages(facts, &[Need::Promtool], EXPECTED_LLVM)?));
    }
    if lacks_duckdb {
        steps.push(Step::DuckDb);
    }
    Ok(Plan { way, steps })
}

/// The compiler to use, what is known of it, and the steps that give it what it lacks.
fn compiler(facts: &Facts, failed: &[Step]) -> Result<(Way, Option<Compiler>, Vec<Step>)> {
    if let Some(named) = &facts.named {
        if named.rustc.is_some_and(Compiler::suffices) {
            return Ok((Way::Named, named.rustc, Vec::new()));
        }
        bail!(
            "{TOOLCHAIN_OVERRIDE} names the toolchain `{}`, which isn't there or can't compile for BPF: unset the \
             variable, or name a nightly with rust-src or a rustc with `core` for BPF",
            named.name
        );
    }
    let offered = facts.apt.as_ref().is_some_and(|apt| apt.offers_compiler);
    let untried = |step| !failed.contains(&step);
    match &facts.rustup {
        Some(Rustup { nightly: Some(nightly), .. }) if nightly.builds_core => {
            Ok((Way::Nightly, Some(*nightly), Vec::new()))
        }
        Some(Rustup { linked: Some(linked), .. }) if linked.suffices() => {
            Ok((Way::Linked, Some(*linked), Vec::new()))
        }
        // Before rust-src: what Debian has is one version, tested, and stays the same for a release.
        Some(_) if offered => Ok((Way::Linked, None, vec![Step::Link])),
        Some(Rustup { nightly: Some(nightly), .. }) if untried(Step::RustSource) => {
            Ok((Way::Nightly, Some(*nightly), vec![Step::RustSource]))
        }
        Some(Rustup { nightly: None, .. }) if untried(Step::Nightly) => {
            Ok((Way::Nightly, None, vec![Step::Nightly]))
        }
        Some(_) => bail!(
            "no compiler for BPF: rustup could not install nightly with rust-src (its messages are above), and apt \
             offers no rustc-web of version 1.95 or later. The BPF programs need the one or the other. \
             Try `rustup toolchain install nightly --component rust-src` where the network allows it"
        ),
        None => match facts.path_rustc {
            Some(rustc) if rustc.suffices() => Ok((Way::Path, Some(rustc), Vec::new())),
            _ if offered => Ok((Way::Path, None, Vec::new())),
            _ => bail!(
                "no compiler for BPF: there is no rustup, the rustc on PATH has no `core` for BPF, and apt offers no \
                 rustc-web of version 1.95 or later. Install rustup, then \
                 `rustup toolchain install nightly --component rust-src`"
            ),
        },
    }
}

/// The LLVM to build bpf-linker with: it reads what rustc's LLVM wrote, so it must not be older.
fn linker_llvm(facts: &Facts, wanted: u32) -> Result<Llvm> {
    let here = facts.llvms.iter().filter(|llvm| llvm.major >= wanted && LINKER_LLVMS.contains(&llvm.major));
    if let Some(llvm) = here.min_by_key(|llvm| llvm.major) {
        return Ok(llvm.clone());
    }
    let major = wanted.max(*LINKER_LLVMS.start());
    if facts.apt.is_some() && LINKER_LLVMS.contains(&major) {
        return Ok(debian_llvm(major));
    }
    let state = match &facts.linker {
        Some(linker) => format!("{} is built with an LLVM older than {wanted}", linker.path.display()),
        None => "there is no bpf-linker".to_owned(),
    };
    bail!(
        "{state}, with which rustc links BPF programs, and no LLVM {wanted} to build one with. Install a bpf-linker \
         for LLVM {wanted} or later (its releases have programs ready to run), or LLVM {wanted} with its development \
         files and set LLVM_PREFIX to the directory it is in"
    )
}

/// The LLVM of the package `llvm-MAJOR-dev`.
fn debian_llvm(major: u32) -> Llvm {
    Llvm { major, prefix: PathBuf::from(format!("/usr/lib/llvm-{major}")) }
}

/// The packages that are missing for `needs`.
fn packages(facts: &Facts, needs: &[Need], llvm: u32) -> Result<Vec<(String, &'static str)>> {
    let mut missing = wanted_packages(facts, needs, llvm)?;
    missing.retain(|(name, _)| !facts.apt.as_ref().is_some_and(|apt| apt.installed.contains(name)));
    Ok(missing)
}

/// The packages for `needs`.
fn wanted_packages(facts: &Facts, needs: &[Need], llvm: u32) -> Result<Vec<(String, &'static str)>> {
    let needed = || PACKAGES.iter().filter(|package| needs.contains(&package.need));
    if facts.apt.is_none() && !needs.is_empty() {
        let list: Vec<_> =
            needed().map(|package: &Package| format!("{} ({})", package.name(llvm), package.why)).collect();
        bail!(
            "there is no apt here to install what is missing; install what these Debian packages hold: {}",
            list.join(", ")
        );
    }
    Ok(needed().map(|package| (package.name(llvm), package.why)).collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
