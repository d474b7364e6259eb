//! Fetches the kernels, and keeps them outside the checkout: a directory for each version, with
//! the boot image and the modules that the tests need.
//!
//! An apt that is set up for this alone fetches them and checks Debian's signatures. The machine's
//! own package lists, sources and packages stay as they are, and root is not needed. Where the
//! archives cannot be reached, apt keeps its older lists, and what was fetched before is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use fs_err::{self as fs, File};

use super::kernels::{Archive, Kernel};
use crate::shell::{self, read_output, say};

/// The variable that names the directory of the kernels, in place of the user's own cache
/// directory.
const DIRECTORY_VARIABLE: &str = "TCPTRACE_KERNEL_CACHE";
/// Modules that the tests use and that no kernel has built in, in the order of loading: `ss` asks
/// `tcp_diag`, and veth joins two namespaces.
const MODULES: [&str; 3] = ["inet_diag.ko", "tcp_diag.ko", "veth.ko"];
/// Whose signatures are accepted.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Takes the files of these names out of all packages here, and removes the packages.
const UNPACK: &str = r#"set -e
for package in *.deb; do dpkg-deb --extract "$package" tree; rm "$package"; done
for name in "$@"; do find tree -type f -name "$name*" -exec mv -t . {} +; done
rm -r tree"#;

/// A kernel that is there, and whole.
#[derive(Debug)]
pub(super) struct Cached {
    /// The image for boot loaders.
    pub(super) image: PathBuf,
    /// The modules, in the order of loading.
    pub(super) modules: Vec<PathBuf>,
}

impl Cached {
    fn find_in(directory: &Path) -> Result<Self> {
        let files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let find = |name: &str| {
            let is_it = |path: &&PathBuf| {
                path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
            };
            files
                .iter()
                .find(is_it)
                .cloned()
                .with_context(|| format!("{} has no {name}", directory.display()))
        };
        Ok(Self { image: find("vmlinuz")?, modules: MODULES.into_iter().map(find).collect::<Result<_>>()? })
    }
}

/// Provides the kernels by label, each newly fetched if it is not there, or the reason why it
/// cannot be had.
pub(super) fn provide_kernels(kernels: &[Kernel]) -> Result<BTreeMap<&'static str, Result<Cached>>> {
    let cache = cache_directory()?;
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("lock"))?;
    // Another run may be fetching at this moment.
    lock.lock().context("cannot lock the kernel cache")?;
    set_up_apt(kernels, &cache)?;
    if let Err(error) = read_output(apt_command("apt-get", &cache).arg("update")) {
        say(format_args!("whether there are newer kernels is unknown: {error:#}"));
    }
    let names = read_output(apt_command("apt-cache", &cache).args(["pkgnames", "linux-"]))?;
    let names = names.lines().map(str::to_owned).collect();
    Ok(kernels.iter().map(|kernel| (kernel.label, provide_kernel(kernel, &names, &cache))).collect())
}

fn cache_directory() -> Result<PathBuf> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
    named(DIRECTORY_VARIABLE)
        .or_else(|| cache.map(|cache| cache.join("tcptrace/kernels")))
        .with_context(|| format!("no home to keep kernels in: name a directory in {DIRECTORY_VARIABLE}"))
}

/// The newest kernel of its line.
fn provide_kernel(kernel: &Kernel, names: &BTreeSet<String>, cache: &Path) -> Result<Cached> {
    let (version, packages) = kernel.choose(names)?;
    let directory = cache.join(format!("linux-{version}"));
    if let Ok(cached) = Cached::find_in(&directory) {
        return Ok(cached);
    }
    say(format_args!("kernel {}: fetching {version}", kernel.label));
    let new = cache.join("new");
    let _not_there = fs::remove_dir_all(&new);
    fs::create_dir_all(&new)?;
    read_output(apt_command("apt-get", cache).arg("download").args(&packages).current_dir(&new))?;
    let mut unpack = shell::command("sh");
    read_output(unpack.args(["-c", UNPACK, "sh", "vmlinuz"]).args(MODULES).current_dir(&new))?;
    Cached::find_in(&new).with_context(|| format!("in {}", packages.join(" and ")))?;
    // What is there under the kernel's name is whole. Older ones of its line are of no more use.
    for older in fs::read_dir(cache)? {
        let older = older?;
        if older.file_name().to_string_lossy().starts_with(&format!("linux-{}", kernel.line)) {
            fs::remove_dir_all(older.path())?;
        }
    }
    fs::rename(&new, &directory)?;
    Cached::find_in(&directory)
}

/// Sets up an apt with its own sources, lists and cache for the suites of these kernels.
fn set_up_apt(kernels: &[Kernel], cache: &Path) -> Result<()> {
    let directory = cache.join("apt");
    for inside in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(directory.join(inside))?;
    }
    let sources = kernels.iter().map(|kernel| Ok(source_line(kernel, &archive_address(kernel.archive)?)));
    let sources = sources.collect::<Result<BTreeSet<_>>>()?;
    fs::write(directory.join("sources.list"), sources.into_iter().collect::<String>())?;
    fs::write(directory.join("status"), "")?;
    Ok(fs::write(directory.join("apt.conf"), apt_configuration(&directory))?)
}

fn apt_command(program: &str, cache: &Path) -> Command {
    let mut apt = shell::command(program);
    apt.env("LC_ALL", "C").arg("--config-file").arg(cache.join("apt/apt.conf")).arg("-qq");
    apt
}

fn source_line(kernel: &Kernel, address: &str) -> String {
    let old = if kernel.is_past_support { " check-valid-until=no" } else { "" };
    format!("deb [arch=amd64 target=Packages signed-by={KEYRING}{old}] {address} {} main\n", kernel.suite)
}

/// The address of an archive: what the user names, or what the machine's own apt uses.
fn archive_address(archive: Archive) -> Result<String> {
    let Archive { directory, variable } = archive;
    if let Some(address) = env::var(variable).ok().filter(|address| !address.is_empty()) {
        return Ok(address);
    }
    let mut apt = shell::command("apt-get");
    let addresses =
        read_output(apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]))?;
    let is_it = |address: &&str| address.trim_end_matches('/').rsplit('/').next() == Some(directory);
    addresses.lines().find(is_it).map(str::to_owned).with_context(|| {
        format!(
            "apt's sources don't say where Debian's archive {directory} is: give its address in {variable}"
        )
    })
}

/// What apt reads after the machine's own configuration, which has proxies and the like.
fn apt_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{directory}";
Dir::State::Lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
// apt's own user may not write to the directories of the user who runs this.
APT::Sandbox::User "";
// Without this an index that cannot be fetched is a warning.
APT::Update::Error-Mode "any";
Acquire::Retries "2";
Acquire::Languages "none";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"#
    )
}

#[cfg(test)]
mod tests {
    use super::{super::kernels::GUESTS, *};

    #[test]
    fn a_kernel_is_there_if_all_of_it_is() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let files = ["vmlinuz-6.12", "veth.ko.xz", "tcp_diag.ko.xz", "inet_diag.ko.xz"];
        for file in files {
            assert!(Cached::find_in(directory.path()).is_err());
            fs::write(directory.path().join(file), "")?;
        }
        let cached = Cached::find_in(directory.path())?;
        assert_eq!(cached.image, directory.path().join(files[0]));
        let modules = [files[3], files[2], files[1]].map(|file| directory.path().join(file));
        assert_eq!(cached.modules, modules, "in the order of loading");
        Ok(())
    }

    #[test]
    fn every_source_is_signed_and_only_the_unsupported_may_be_old() {
        for kernel in GUESTS.map(|guest| guest.kernel) {
            let source = source_line(&kernel, "http://mirror.example/debian");
            assert!(source.contains("signed-by=/"), "{source}");
            assert_eq!(source.contains("check-valid-until=no"), kernel.is_past_support, "{source}");
        }
    }
}
