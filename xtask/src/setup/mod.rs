//! `cargo xtask setup`: installs what a command needs and the machine lacks. Every command runs it
//! first.
//!
//! # How a run goes
//! Each requirement looks at the machine and is quick where it is met. Where it is not,
//! [`Installer`] says what it installs and why, installs it, and goes on. The machine has rustup;
//! on one with apt all else comes from Debian's packages, crates.io and `PyPI`.
//!
//! 1. [`bpf`]: a rustc that compiles for BPF, and a bpf-linker that fits it
//! 2. [`PROGRAMS`]: programs that tests and guests need, from Debian's packages
//! 3. [`tools`]: what only tests run, unpacked in `target/tools` and not installed
//!
//! # To add a program that tests run
//! Add a line to [`PROGRAMS`], or to [`tools::TOOLS`] if its package would start a service.

mod bpf;
mod installer;
mod tools;

use std::process::ExitCode;

use anyhow::Result;

use crate::shell::{self, say};
use installer::{Installer, Package};

/// What a command does besides building tcptrace, which every one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Runs the kernel tests on this machine.
    Test,
    /// Runs them in guests.
    Guests,
}
use Purpose::{Guests, Test};

/// Programs and files: what has to be there, for which purposes, and the package that has it.
const PROGRAMS: [(&[&str], &[Purpose], Package<'_>); 5] = [
    (
        &["ss", "ip"],
        &[Test, Guests],
        ("iproute2", "`ss` and `ip`: the kernel tests compare tcptrace with ss"),
    ),
    (&["jq"], &[Test], ("jq", "docs/pipelines.md has recipes for it, which are tested")),
    (
        &["systemd-cat", "/usr/lib/systemd/systemd-journald"],
        &[Test],
        ("systemd", "journald: docs/pipelines.md is tested with it"),
    ),
    (&["qemu-system-x86_64"], &[Guests], ("qemu-system-x86", "boots the guests' kernels")),
    (
        &["/usr/share/keyrings/debian-archive-keyring.gpg"],
        &[Guests],
        ("debian-archive-keyring", "checks the signatures of the guests' kernels"),
    ),
];

/// Installs what is missing for building tcptrace and for these purposes.
pub(crate) fn prepare(purposes: &[Purpose]) -> Result<()> {
    provide(&mut Installer::default(), purposes)
}

/// Reports what is missing for building and testing; the exit status says whether anything is.
pub(crate) fn check() -> Result<ExitCode> {
    let mut installer = Installer::only_reporting();
    provide(&mut installer, &[Test])?;
    if installer.is_missing_some {
        say(format_args!("`cargo xtask setup` installs it"));
        return Ok(ExitCode::FAILURE);
    }
    say(format_args!("nothing is missing"));
    Ok(ExitCode::SUCCESS)
}

fn provide(installer: &mut Installer, purposes: &[Purpose]) -> Result<()> {
    bpf::provide(installer)?;
    installer
        .install_packages(&missing_packages(purposes, |program| shell::find_program(program).is_some()))?;
    if purposes.contains(&Test) {
        tools::provide(installer)?;
    }
    Ok(())
}

/// The packages of [`PROGRAMS`] that are needed, because something in them is not there.
fn missing_packages(purposes: &[Purpose], is_there: impl Fn(&str) -> bool) -> Vec<Package<'static>> {
    let is_needed = |of: &[Purpose]| of.iter().any(|purpose| purposes.contains(purpose));
    let missing = PROGRAMS
        .into_iter()
        .filter(|(programs, of, _)| is_needed(of) && programs.iter().any(|program| !is_there(program)));
    missing.map(|(.., package)| package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_installs_only_what_it_needs() {
        let names = |purposes: &[Purpose], there: &[&str]| -> Vec<_> {
            let packages = missing_packages(purposes, |program| there.contains(&program));
            packages.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&[], &[]), [""; 0]);
        assert_eq!(names(&[Test], &["ss", "jq"]), ["iproute2", "systemd"]);
        assert_eq!(names(&[Test], &["ss", "ip"]), ["jq", "systemd"]);
        assert_eq!(names(&[Guests], &["ss", "ip", "qemu-system-x86_64"]), ["debian-archive-keyring"]);
        assert_eq!(names(&[Test, Guests], &[]).len(), PROGRAMS.len());
    }
}
