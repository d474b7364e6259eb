//! `cargo xtask setup`: installs what a command needs and the machine lacks. Every command runs it
//! first.
//!
//! # How a run goes
//! Each requirement looks at the machine and is quick where it is met. Where it is not, [`Setup`]
//! says what it installs and why, installs it, and goes on. The machine has rustup; on one with
//! apt all else comes from Debian's packages, crates.io and `PyPI`.
//!
//! 1. [`bpf`]: a rustc that compiles for BPF, and a bpf-linker that fits it
//! 2. [`PROGRAMS`]: programs that tests and guests need, from Debian's packages
//! 3. [`tools`]: what only tests run, unpacked in `target/tools` and not installed
//!
//! # To add a program that tests run
//! Add a line to [`PROGRAMS`], or to [`tools::TOOLS`] if its package would start a service.

mod bpf;
mod tools;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, say};

/// What a command does; the later ones include the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Builds tcptrace.
    Build,
    /// Tests it too.
    Test,
    /// Tests it under other kernels too.
    Guests,
}

/// A Debian package: its name, and why it is needed.
type Package<'a> = (&'a str, &'a str);

/// Programs and files: what has to be there, for which commands, and the package that has it.
const PROGRAMS: [(&[&str], Scope, Package<'_>); 5] = [
    (&["ss", "ip"], Scope::Test, ("iproute2", "`ss` and `ip`: the kernel tests compare tcptrace with ss")),
    (&["jq"], Scope::Test, ("jq", "docs/pipelines.md has recipes for it, which are tested")),
    (
        &["systemd-cat", "/usr/lib/systemd/systemd-journald"],
        Scope::Test,
        ("systemd", "journald: docs/pipelines.md is tested with it"),
    ),
    (&["qemu-system-x86_64"], Scope::Guests, ("qemu-system-x86", "boots the guests' kernels")),
    (
        &["/usr/share/keyrings/debian-archive-keyring.gpg"],
        Scope::Guests,
        ("debian-archive-keyring", "checks the signatures of the guests' kernels"),
    ),
];

/// Installs what is missing for commands of this scope.
pub(crate) fn prepare(scope: Scope) -> Result<()> {
    Setup::default().run(scope)
}

/// Reports what is missing for building and testing; the exit status says whether anything is.
pub(crate) fn check() -> Result<ExitCode> {
    let mut setup = Setup { only_reports: true, ..Setup::default() };
    setup.run(Scope::Test)?;
    if setup.is_missing_some {
        say(format_args!("`cargo xtask setup` installs it"));
        return Ok(ExitCode::FAILURE);
    }
    say(format_args!("nothing is missing"));
    Ok(ExitCode::SUCCESS)
}

/// A run of set-up.
#[derive(Debug, Default)]
struct Setup {
    only_reports: bool,
    is_missing_some: bool,
    has_new_lists: bool,
}

impl Setup {
    fn run(&mut self, scope: Scope) -> Result<()> {
        bpf::provide(self)?;
        self.packages(&missing_packages(scope, |program| shell::find(program).is_some()))?;
        if scope >= Scope::Test {
            tools::provide(self)?;
        }
        Ok(())
    }

    /// Says what is installed and why, and does it; or only reports that it is missing.
    fn install(&mut self, what: &str, install: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.is_missing_some = true;
        if self.only_reports {
            say(format_args!("missing: {what}"));
            return Ok(());
        }
        say(format_args!("installing {what}"));
        install(self).with_context(|| format!("cannot install {what}"))
    }

    /// Installs those Debian packages that are not installed.
    fn packages(&mut self, packages: &[Package<'_>]) -> Result<()> {
        let mut missing = packages.to_vec();
        missing.retain(|(name, _)| !is_installed(name));
        if missing.is_empty() {
            return Ok(());
        }
        self.install(&list(&missing), |setup| {
            setup.update_lists()?;
            let mut install = apt_get()?;
            install.args(["install", "--yes", "--no-install-recommends"]);
            shell::run(install.args(missing.iter().map(|(name, _)| name)))
        })
    }

    /// Fetches new package lists, once: old ones name versions that have gone.
    fn update_lists(&mut self) -> Result<()> {
        if !has_apt() {
            bail!("there is no apt here: install by hand what these packages hold");
        }
        if !self.has_new_lists && !self.only_reports {
            self.has_new_lists = true;
            say(format_args!("renewing apt's package lists"));
            if let Err(error) = shell::run(apt_get()?.arg("update")) {
                say(format_args!("{error:#}; going on with the package lists that are there"));
            }
        }
        Ok(())
    }
}

/// The packages of [`PROGRAMS`] that are needed, because something in them is not there.
fn missing_packages(scope: Scope, is_there: impl Fn(&str) -> bool) -> Vec<Package<'static>> {
    let is_missing = |programs: &[&str]| programs.iter().any(|program| !is_there(program));
    let missing = PROGRAMS.into_iter().filter(|(programs, of, _)| *of <= scope && is_missing(programs));
    missing.map(|(.., package)| package).collect()
}

/// The packages, a line for each that says why it is needed.
fn list(packages: &[Package<'_>]) -> String {
    let lines: Vec<_> = packages.iter().map(|(name, why)| format!("\n  {name}: {why}")).collect();
    format!("Debian packages:{}", lines.concat())
}

fn has_apt() -> bool {
    shell::find("apt-get").is_some()
}

/// Whether a package is installed as a whole, not only its configuration.
fn is_installed(package: &str) -> bool {
    let mut query = shell::command("dpkg-query");
    shell::quietly(query.args(["--show", "--showformat", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn apt_get() -> Result<Command> {
    let mut command =
        shell::as_root("apt-get", &[("DEBIAN_FRONTEND".into(), "noninteractive".into())].into())?;
    // A fresh machine may be updating itself at this moment.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

/// The numbers in a version, by which versions are compared.
pub(crate) fn version_key(version: &str) -> Vec<u64> {
    let numbers = version.split(|character: char| !character.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_installs_only_what_it_needs() {
        let names = |scope, there: &[&str]| -> Vec<_> {
            let packages = missing_packages(scope, |program| there.contains(&program));
            packages.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(Scope::Build, &[]), [""; 0]);
        assert_eq!(names(Scope::Test, &["ss", "jq"]), ["iproute2", "systemd"]);
        assert_eq!(names(Scope::Test, &["ss", "ip"]), ["jq", "systemd"]);
        assert_eq!(names(Scope::Guests, &["ss", "ip", "jq", "qemu-system-x86_64"]).len(), 2);
    }

    #[test]
    fn a_report_installs_nothing() -> Result<()> {
        let mut setup = Setup { only_reports: true, ..Setup::default() };
        setup.packages(&[("no-such-package", "a test")])?;
        setup.install("nothing", |_| bail!("it was to be reported only"))?;
        assert!(setup.is_missing_some);
        Ok(())
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let sorted =
            ["5.10.0-9", "5.10.0-46", "6.1", "6.1.0-56", "6.12.95+deb12", "6.12.117+deb12", "7.3.4+deb13"];
        assert!(sorted.is_sorted_by_key(|version| version_key(version)));
    }
}
