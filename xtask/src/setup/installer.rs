//! Says what is missing and why it is needed, and installs it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, say};

/// A Debian package: its name, and why it is needed.
pub(super) type Package<'a> = (&'a str, &'a str);

/// Installs what is missing, or only reports it.
#[derive(Debug, Default)]
pub(super) struct Installer {
    pub(super) only_reports: bool,
    pub(super) is_missing_some: bool,
    has_new_lists: bool,
}

impl Installer {
    /// Reports what is missing and installs nothing.
    pub(super) fn only_reporting() -> Self {
        Self { only_reports: true, ..Self::default() }
    }

    /// Says what is installed and why, and does it; or only reports that it is missing.
    pub(super) fn install(
        &mut self,
        what: &str,
        install: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.is_missing_some = true;
        if self.only_reports {
            say(format_args!("missing: {what}"));
            return Ok(());
        }
        say(format_args!("installing {what}"));
        install(self).with_context(|| format!("cannot install {what}"))
    }

    /// Installs those Debian packages that are not installed.
    pub(super) fn install_packages(&mut self, packages: &[Package<'_>]) -> Result<()> {
        let mut missing = packages.to_vec();
        missing.retain(|(name, _)| !is_installed(name));
        if missing.is_empty() {
            return Ok(());
        }
        self.install(&list_packages(&missing), |installer| {
            installer.update_lists()?;
            let mut install = apt_get()?;
            install.args(["install", "--yes", "--no-install-recommends"]);
            shell::run(install.args(missing.iter().map(|(name, _)| name)))
        })
    }

    /// Fetches new package lists, once: old ones name versions that have gone.
    pub(super) fn update_lists(&mut self) -> Result<()> {
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

/// The packages, a line for each that says why it is needed.
pub(super) fn list_packages(packages: &[Package<'_>]) -> String {
    let lines: Vec<_> = packages.iter().map(|(name, why)| format!("\n  {name}: {why}")).collect();
    format!("Debian packages:{}", lines.concat())
}

pub(super) fn has_apt() -> bool {
    shell::find_program("apt-get").is_some()
}

/// Whether a package is installed as a whole, not only its configuration.
fn is_installed(package: &str) -> bool {
    let mut query = shell::command("dpkg-query");
    shell::read_output(query.args(["--show", "--showformat", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn apt_get() -> Result<Command> {
    let mut command =
        shell::as_root("apt-get", &[("DEBIAN_FRONTEND".into(), "noninteractive".into())].into())?;
    // A fresh machine may be updating itself at this moment.
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_installs_nothing() -> Result<()> {
        let mut installer = Installer::only_reporting();
        installer.install_packages(&[("no-such-package", "a test")])?;
        installer.install("nothing", |_| bail!("it was to be reported only"))?;
        assert!(installer.is_missing_some);
        Ok(())
    }
}
