//! Keeps the kernels that were fetched, outside the checkout: one directory for each label and version, with the
//! unpacked kernel, the modules that the tests need, and a list of SHA-256 sums that is checked before each use.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Error, Result, bail};

use super::{
    archive::{Suite, quietly},
    list::{Kernel, candidates, choose, compare},
    modules, vmlinux,
};
use crate::shell::{self, say};

/// The variable that says where the kernels are kept, in place of the user's own cache directory.
const DIRECTORY_VARIABLE: &str = "TCPTRACE_KERNEL_CACHE";
/// To be raised when what is kept of a kernel changes.
const FORMAT: u32 = 1;
/// The list of sums, in the form of sha256sum(1).
const SUMS: &str = "SHA256SUMS";

/// A kernel that is there, and whole.
#[derive(Debug)]
pub(crate) struct Cached {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// What the user should know about it.
    pub(crate) warning: Option<String>,
}

impl Cached {
    /// The kernel proper, an ELF file.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The modules, in the order of loading.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        let directory = self.directory.join("modules");
        let list =
            || fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
        let mut modules: Vec<_> = list().with_context(|| format!("cannot list {}", directory.display()))?;
        modules.sort();
        Ok(modules)
    }
}

/// Fetches what is not there yet. A kernel that cannot be had has the reason in its place.
pub(crate) fn provide(kernels: &[Kernel]) -> Result<Vec<Result<Cached>>> {
    let cache = directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("cannot make the lock of the kernel cache")?;
    // Another run may be fetching at this moment.
    lock.lock().context("cannot lock the kernel cache")?;
    let suites: BTreeSet<_> = kernels.iter().map(|kernel| kernel.suite).collect();
    let fetched = thread::scope(|scope| {
        let cache = &cache;
        let start = |suite| scope.spawn(move || provide_suite(kernels, suite, cache));
        let threads: Vec<_> = suites.into_iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect::<Vec<_>>()
    });
    let mut fetched = fetched;
    let mut take = |kernel: &Kernel| {
        let at = fetched.iter().position(|(label, _)| *label == kernel.label);
        at.map_or_else(|| Err(Error::msg("it was not looked for")), |at| fetched.swap_remove(at).1)
    };
    Ok(kernels.iter().map(&mut take).collect())
}

fn directory() -> Result<PathBuf> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || {
        named("XDG_CACHE_HOME")
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .map(|caches| caches.join("tcptrace/kernels"))
    };
    named(DIRECTORY_VARIABLE)
        .or_else(caches)
        .with_context(|| format!("no home to keep kernels in: name a directory in {DIRECTORY_VARIABLE}"))
}

fn provide_suite(
    kernels: &[Kernel],
    suite: &'static str,
    cache: &Path,
) -> Vec<(&'static str, Result<Cached>)> {
    let mut asked: Option<Result<(Suite, BTreeSet<String>)>> = None;
    let of_suite = kernels.iter().filter(|kernel| kernel.suite == suite);
    of_suite
        .map(|kernel| {
            let asked = asked.get_or_insert_with(|| {
                let suite = Suite::open(kernel, cache)?;
                let packages = suite.packages()?;
                Ok((suite, packages))
            });
            let cached = match asked {
                Ok((suite, packages)) => current(kernel, suite, packages, cache),
                Err(error) => last(kernel, error, cache),
            };
            (kernel.label, cached)
        })
        .collect()
}

/// The newest kernel of its line.
fn current(kernel: &Kernel, suite: &Suite, packages: &BTreeSet<String>, cache: &Path) -> Result<Cached> {
    let candidate = choose(kernel, candidates(packages))?;
    let versions = cache.join(kernel.label);
    let directory = versions.join(&candidate.version);
    match check(&directory) {
        Ok(()) => return Ok(Cached { directory, warning: None }),
        Err(error) if directory.exists() => {
            say(format_args!("kernel {}: fetching it anew: {error:#}", kernel.label))
        }
        Err(_) => say(format_args!("kernel {}: fetching {}", kernel.label, candidate.version)),
    }
    fetch(suite, &candidate.packages, &versions.join(".new"), &directory)
        .with_context(|| format!("cannot fetch {}", candidate.packages.join(" and ")))?;
    remove_all_but(&versions, &candidate.version)?;
    Ok(Cached { directory, warning: None })
}

/// The newest kernel that was fetched before, where the archive cannot be asked.
fn last(kernel: &Kernel, why: &Error, cache: &Path) -> Result<Cached> {
    let entries = fs::read_dir(cache.join(kernel.label)).into_iter().flatten().flatten();
    let mut versions: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    versions.sort_by(|one, other| compare(other, one));
    for version in versions {
        let directory = cache.join(kernel.label).join(&version);
        if check(&directory).is_ok() {
            let warning =
                format!("fetched earlier; whether there is a newer one could not be asked: {why:#}");
            return Ok(Cached { directory, warning: Some(warning) });
        }
    }
    bail!("its suite {} cannot be reached, and none was fetched earlier: {why:#}", kernel.suite)
}

/// Downloads and unpacks into `work`, and moves that to `to` when it is whole.
fn fetch(suite: &Suite, packages: &[String], work: &Path, to: &Path) -> Result<()> {
    let (debs, tree, new) = (work.join("debs"), work.join("tree"), work.join("kernel"));
    remove(work)?;
    for directory in [&debs, &tree, &new] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    suite.download(packages, &debs)?;
    for deb in fs::read_dir(&debs).with_context(|| format!("cannot list {}", debs.display()))? {
        let deb = deb.with_context(|| format!("cannot list {}", debs.display()))?.path();
        quietly(shell::command("dpkg-deb").arg("--extract").args([&deb, &tree]))?;
    }
    let modules = first(&tree, &["usr/lib/modules", "lib/modules"])?;
    let images = [modules.join("vmlinuz"), tree.join("boot").join(format!("vmlinuz-{}", name(&modules)))];
    let image = images.iter().find(|image| image.is_file()).context("there is no kernel in the package")?;
    vmlinux::extract(image, &new.join("vmlinux"))?;
    modules::collect(&modules, &new.join("modules"))?;
    fs::write(new.join("format"), format()).context("cannot write the cache's format")?;
    let files = quietly(shell::command("find").args([".", "-type", "f"]).current_dir(&new))?;
    let sums = quietly(shell::command("sha256sum").args(files.lines()).current_dir(&new))?;
    fs::write(new.join(SUMS), sums).context("cannot write the list of sums")?;
    remove(to)?;
    fs::rename(&new, to).with_context(|| format!("cannot move {} to {}", new.display(), to.display()))?;
    remove(work)
}

/// The one directory in the first of `candidates` that is there.
fn first(tree: &Path, candidates: &[&str]) -> Result<PathBuf> {
    let mut inside = candidates.iter().filter_map(|candidate| fs::read_dir(tree.join(candidate)).ok());
    let entry = inside
        .next()
        .and_then(|mut entries| entries.next())
        .context("there are no modules in the package")?;
    Ok(entry.context("cannot list the package's modules")?.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether what is in the directory is what was put there.
fn check(directory: &Path) -> Result<()> {
    if fs::read_to_string(directory.join("format")).is_ok_and(|found| found != format()) {
        bail!("it was kept for an older xtask");
    }
    quietly(shell::command("sha256sum").args(["--check", "--strict", "--quiet", SUMS]).current_dir(directory))
        .with_context(|| format!("{} is damaged", directory.display()))
        .map(drop)
}

/// What a directory holds.
fn format() -> String {
    format!("{FORMAT} vmlinux {}\n", modules::NEEDED.join(" "))
}

fn remove_all_but(directory: &Path, version: &str) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if name(&path) != version {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes when the test does.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _nothing_to_be_done = fs::remove_dir_all(&self.0);
        }
    }

    fn kernel(directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("vmlinux"), "kernel")?;
        fs::write(directory.join("format"), format())?;
        let sums = quietly(shell::command("sha256sum").args(["vmlinux", "format"]).current_dir(directory))?;
        Ok(fs::write(directory.join(SUMS), sums)?)
    }

    #[test]
    fn damage_is_noticed() -> Result<()> {
        let scratch = Scratch(env::temp_dir().join(format!("xtask-cache-{}", std::process::id())));
        let directory = scratch.0.join("6.1/6.1.0-1");
        kernel(&directory)?;
        check(&directory)?;
        fs::write(directory.join("vmlinux"), "kernal")?;
        assert!(check(&directory).is_err());
        fs::remove_file(directory.join("vmlinux"))?;
        assert!(check(&directory).is_err());
        assert!(check(&scratch.0).is_err());
        Ok(())
    }

    #[test]
    fn without_the_archive_the_newest_whole_one_is_taken() -> Result<()> {
        let scratch = Scratch(env::temp_dir().join(format!("xtask-last-{}", std::process::id())));
        let why = Error::msg("no network");
        let wanted = &super::super::list::KERNELS[1];
        assert!(last(wanted, &why, &scratch.0).is_err_and(|error| error.to_string().contains("no network")));
        for version in ["6.1.0-9", "6.1.0-10", "6.1.0-11"] {
            kernel(&scratch.0.join("6.1").join(version))?;
        }
        fs::remove_file(scratch.0.join("6.1/6.1.0-11/vmlinux"))?;
        let found = last(wanted, &why, &scratch.0)?;
        assert_eq!(name(&found.directory), "6.1.0-10");
        assert!(found.warning.is_some_and(|warning| warning.contains("no network")));
        Ok(())
    }
}
