//! Asks Debian's archives for packages, with an apt that is set up for this alone: the machine's own package lists,
//! sources and packages stay as they are, and root is not needed. apt checks the signatures.
//!
//! Where the archives are is taken from the machine's own sources.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::list::{Archive, Kernel};
use crate::shell;

/// Whose signatures are accepted.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Archive {
    /// The variable with which a user names the archive, where the machine's sources don't.
    const fn variable(self) -> &'static str {
        match self {
            Self::Main => "TCPTRACE_DEBIAN_MIRROR",
            Self::Security => "TCPTRACE_DEBIAN_SECURITY_MIRROR",
        }
    }

    /// What the archive calls itself in its indexes.
    const fn name(self) -> &'static str {
        match self {
            Self::Main => "Debian",
            Self::Security => "Debian-Security",
        }
    }

    /// Its address: what the user says, or what the machine's own apt uses.
    fn address(self) -> Result<String> {
        if let Some(address) = env::var(self.variable()).ok().filter(|address| !address.is_empty()) {
            return Ok(address);
        }
        let mut apt = shell::command("apt-get");
        apt.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(LABEL)", "Created-By: Packages"]);
        let targets =
            shell::output(&mut apt).context("`apt-get indextargets` fails; kernels come with apt")?;
        find_address(self, &targets).map(str::to_owned).with_context(|| {
            format!(
                "apt's sources don't say where the archive {} is: give its address in {}",
                self.name(),
                self.variable()
            )
        })
    }
}

/// The address of an archive in lines of `ADDRESS RELEASE LABEL`.
fn find_address(archive: Archive, targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (address, release, label) = (words.next()?, words.next()?, words.next()?);
        // Before the first `apt-get update` nothing is known of the label.
        let is_it = if label.starts_with('$') {
            let is_security = release.ends_with("-security");
            let directory = address.trim_end_matches('/').rsplit('/').next()?;
            is_security == (archive == Archive::Security) && directory.starts_with("debian")
        } else {
            label == archive.name()
        };
        is_it.then_some(address)
    })
}

/// A suite of an archive, with an apt of its own.
#[derive(Debug)]
pub(crate) struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// Sets up apt for the suite of `kernel` in a directory of `cache`.
    pub(crate) fn open(kernel: &Kernel, cache: &Path) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("there is no {KEYRING} to check Debian's signatures with: install debian-archive-keyring");
        }
        let directory = cache.join("apt").join(kernel.suite);
        for inside in ["lists/partial", "cache/archives/partial", "empty"] {
            let inside = directory.join(inside);
            fs::create_dir_all(&inside).with_context(|| format!("cannot make {}", inside.display()))?;
        }
        let address = kernel.archive.address()?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("status", String::new())?;
        write("sources.list", source(kernel, &address))?;
        write("apt.conf", configuration(&directory.display().to_string()))?;
        Ok(Self { directory })
    }

    /// Fetches the index of the suite and tells which kernel packages it has.
    pub(crate) fn packages(&self) -> Result<BTreeSet<String>> {
        quietly(self.apt("apt-get").arg("update"))?;
        let names = quietly(self.apt("apt-cache").args(["pkgnames", "linux-"]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads packages into a directory.
    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        quietly(self.apt("apt-get").arg("download").args(packages).current_dir(into)).map(drop)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = shell::command(program);
        apt.env("LC_ALL", "C").arg("--config-file").arg(self.directory.join("apt.conf")).arg("-qq");
        apt
    }
}

fn source(kernel: &Kernel, address: &str) -> String {
    let old = if kernel.past_support { " check-valid-until=no" } else { "" };
    format!("deb [arch=amd64 signed-by={KEYRING}{old}] {address} {} main\n", kernel.suite)
}

/// Read after the machine's own, which knows about proxies and the like.
fn configuration(directory: &str) -> String {
    format!(
        "Dir::Etc::SourceList \"{directory}/sources.list\";\n\
         Dir::Etc::SourceParts \"{directory}/empty\";\n\
         Dir::Etc::PreferencesParts \"{directory}/empty\";\n\
         Dir::State \"{directory}\";\n\
         Dir::State::Lists \"{directory}/lists\";\n\
         Dir::State::status \"{directory}/status\";\n\
         Dir::Cache \"{directory}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         // What apt's own user may not write to is written by the user who runs this.\n\
         APT::Sandbox::User \"\";\n\
         // Without this an index that cannot be fetched is a warning.\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Post-Invoke;\n"
    )
}

/// Runs a command; what it prints is the result, what it complains of is in the error.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let output =
        command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        bail!("{} failed ({}): {complaint}", command.get_program().display(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::list::KERNELS, *};

    #[test]
    fn the_archives_are_found_in_apts_sources() {
        let targets = "\
            http://other.example/apt/ stable Other\n\
            http://mirror.example/debian/ bookworm Debian\n\
            http://mirror.example/debian/ bookworm-updates Debian\n\
            http://mirror.example/sec/ bookworm-security Debian-Security\n";
        assert_eq!(find_address(Archive::Main, targets), Some("http://mirror.example/debian/"));
        assert_eq!(find_address(Archive::Security, targets), Some("http://mirror.example/sec/"));
        assert_eq!(find_address(Archive::Security, "http://other.example/apt/ stable Other"), None);
    }

    #[test]
    fn the_archives_are_found_before_there_are_indexes() {
        let targets = "\
            http://other.example/apt/ stable $(LABEL)\n\
            http://mirror.example/debian-security/ bookworm-security $(LABEL)\n\
            http://mirror.example/debian/ bookworm $(LABEL)\n";
        assert_eq!(find_address(Archive::Main, targets), Some("http://mirror.example/debian/"));
        assert_eq!(find_address(Archive::Security, targets), Some("http://mirror.example/debian-security/"));
    }

    #[test]
    fn every_source_is_signed_and_only_the_unsupported_may_be_old() {
        for kernel in KERNELS {
            let source = source(&kernel, "http://mirror.example/debian");
            assert!(source.contains("signed-by=/"), "{source}");
            assert_eq!(source.contains("check-valid-until=no"), kernel.past_support, "{source}");
        }
    }
}
