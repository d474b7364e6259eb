//! Makes a guest's first file system, which is its only one: xtask as the first process, the test programs, tcptrace,
//! the tools the tests use, and the shared libraries of all of them. All guests share it but for the modules and the job.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{archive::quietly, cpio, guest};
use crate::{cargo_json::Executable, compile::KernelTests, shell, test};

/// Tools of the host that guests have too: for the tests, and `ip` for the guest itself.
const TOOLS: [&str; 3] = ["ss", "ip", "sh"];
/// Directories that are mounted on or written to.
const DIRECTORIES: [&str; 8] = ["proc", "sys", "dev", "tmp", "run", "root", "modules", "lib64"];
/// Where the tests look for their own programs.
const HELPERS_VARIABLE: &str = "TCPTRACE_TEST_BINS";
/// Where the tests look for tools that are too large for a guest; empty, because none is there.
const TOOLS_VARIABLE: &str = "TCPTRACE_TEST_TOOLS";
/// More than the guest's one processor, because tests wait a lot; few, because they wait for each other's work.
const THREADS: &str = "2";
/// How long a test waits before it fails, seconds.
const PATIENCE_VARIABLE: &str = "TCPTRACE_PATIENCE";
/// Emulation makes all about ten times slower.
const PATIENCE: &str = "150";
/// The file for a program without what only debuggers read.
const STRIPPED: &str = "stripped";

/// What guests run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The tests, and the programs they need.
    pub(crate) tests: &'a KernelTests,
    /// The names of those tests' programs that are to run.
    pub(crate) programs: Vec<&'a str>,
    /// The tracer.
    pub(crate) tcptrace: &'a Path,
    /// Arguments for every test program.
    pub(crate) arguments: Vec<String>,
    /// What the tests get from our environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Job<'_> {
    /// What a guest reads. `without`: features that the tracer has to do without there, whatever the user says.
    pub(crate) fn to_json(&self, without: Option<&str>) -> String {
        let threads = if without.is_some() { test::ONE_THREAD } else { THREADS };
        let defaults = [(test::THREADS_VARIABLE, threads), (PATIENCE_VARIABLE, PATIENCE)];
        let mut environment: BTreeMap<_, _> =
            defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let ours = self.environment.iter().map(|(name, value)| (name.display(), value.display()));
        environment.extend(ours.map(|(name, value)| (name.to_string(), value.to_string())));
        // Where they are in the guest.
        environment.insert("TCPTRACE_BIN".into(), "/bin/tcptrace".into());
        environment.insert(HELPERS_VARIABLE.into(), "/helpers".into());
        environment.insert(TOOLS_VARIABLE.into(), String::new());
        if let Some(without) = without {
            environment.insert(test::WITHOUT_VARIABLE.into(), without.into());
        }
        let features = environment.get(test::WITHOUT_VARIABLE).filter(|features| !features.is_empty());
        let features = features.map(|features| ["--without", features]).into_iter().flatten();
        let features: Vec<_> = features.collect();
        json!({
            "programs": self.programs,
            "arguments": self.arguments,
            "features": features,
            "environment": environment,
        })
        .to_string()
    }
}

/// Writes what all guests share; files on the way go to the directory `scratch`.
pub(crate) fn build(job: &Job<'_>, scratch: &Path, to: &Path) -> Result<()> {
    let output = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut image = Image {
        archive: cpio::Archive::new(BufWriter::new(output)),
        scratch: scratch.to_owned(),
        libraries: BTreeSet::new(),
    };
    for directory in DIRECTORIES {
        image.archive.directory(directory)?;
    }
    // What is running, though cargo may have built xtask anew in the meantime; `self` would be ldd and strip.
    image.program(&PathBuf::from(format!("/proc/{}/exe", std::process::id())), "xtask", true)?;
    image.program(job.tcptrace, "bin/tcptrace", false)?;
    for tool in TOOLS {
        let path = shell::find(tool).with_context(|| format!("there is no {tool} to run in the guests"))?;
        image.program(&path, &format!("bin/{tool}"), false)?;
    }
    let is_to_run = |program: &&Executable| job.programs.contains(&program.name.as_str());
    for Executable { name, path, .. } in job.tests.programs.iter().filter(is_to_run) {
        image.program(path, &format!("programs/{name}"), true)?;
    }
    for Executable { name, path, .. } in &job.tests.helpers {
        image.program(path, &format!("helpers/{name}"), true)?;
    }
    for library in std::mem::take(&mut image.libraries) {
        image.add(&library, &library.display().to_string())?;
    }
    let _there_was_no_strip = fs::remove_file(scratch.join(STRIPPED));
    image.archive.finish().with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

/// Writes a guest's own: `shared` with the modules of its kernel, and what is to be done there.
pub(crate) fn of_guest(shared: &Path, modules: &[PathBuf], job: &str, to: &Path) -> Result<()> {
    fs::copy(shared, to).with_context(|| format!("cannot copy {} to {}", shared.display(), to.display()))?;
    let output = File::options().append(true).open(to);
    let mut archive = cpio::Archive::new(output.with_context(|| format!("cannot write {}", to.display()))?);
    archive.file(guest::JOB.trim_start_matches('/'), job.as_bytes())?;
    for module in modules {
        let content = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        let name = module.file_name().unwrap_or_default().display();
        let directory = guest::MODULES.trim_start_matches('/');
        archive.file(&format!("{directory}/{name}"), &content)?;
    }
    let mut output = archive.finish()?;
    output.flush().with_context(|| format!("cannot write {}", to.display()))
}

struct Image {
    archive: cpio::Archive<BufWriter<File>>,
    scratch: PathBuf,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// Adds a program and remembers its libraries. What was built for debugging goes in without what only a debugger
    /// reads: nine tenths of it.
    fn program(&mut self, from: &Path, to: &str, debug: bool) -> Result<()> {
        // It fails for a program without libraries.
        let list = quietly(shell::command("ldd").arg(from)).unwrap_or_default();
        self.libraries.extend(libraries(&list).with_context(|| from.display().to_string())?);
        let stripped = self.scratch.join(STRIPPED);
        let mut strip = shell::command("strip");
        strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(from);
        // Without binutils the guests need more memory, that is all.
        let is_stripped = debug && quietly(&mut strip).is_ok();
        self.add(if is_stripped { &stripped } else { from }, to)
    }

    fn add(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let written = self.archive.file(to.trim_start_matches('/'), &content);
        written.with_context(|| format!("cannot put {} into the guests' file system", from.display()))
    }
}

/// The libraries in what ldd(1) prints, and the program that loads them.
fn libraries(list: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in list.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a shared library is missing: {line}");
        }
        let path = line.rsplit("=>").next().unwrap_or_default().trim();
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(path.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_where_ldd_says() -> Result<()> {
        let list = "\tlinux-vdso.so.1 (0x7ffc)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f00)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f01)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(list)?, expected);
        assert!(libraries("\tstatically linked\n")?.is_empty());
        assert!(libraries("\tlibmnl.so.0 => not found\n").is_err());
        Ok(())
    }

    #[test]
    fn the_job_names_the_guests_own_paths() -> Result<()> {
        let program = Executable { name: "stuck".into(), path: "/t/stuck-1f".into(), is_test: true };
        let tests = KernelTests { programs: vec![program], helpers: Vec::new() };
        let environment =
            [("TCPTRACE_BIN", "/t/tcptrace"), ("RUST_BACKTRACE", "1"), ("TCPTRACE_PATIENCE", "9")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into();
        let job = Job {
            tests: &tests,
            programs: vec!["stuck"],
            tcptrace: Path::new("/t/tcptrace"),
            arguments: vec!["leak".into()],
            environment,
        };
        let expected = json!({
            "programs": ["stuck"],
            "arguments": ["leak"],
            "features": [],
            "environment": {
                "RUST_BACKTRACE": "1",
                "RUST_TEST_THREADS": "2",
                "TCPTRACE_BIN": "/bin/tcptrace",
                "TCPTRACE_PATIENCE": "9",
                "TCPTRACE_TEST_BINS": "/helpers",
                "TCPTRACE_TEST_TOOLS": "",
            },
        });
        let written = |without| serde_json::from_str::<serde_json::Value>(&job.to_json(without));
        assert_eq!(written(None)?, expected);
        let without_btf = written(Some("btf"))?;
        assert_eq!(without_btf["features"], json!(["--without", "btf"]));
        assert_eq!(without_btf["environment"]["TCPTRACE_TEST_WITHOUT"], "btf");
        assert_eq!(without_btf["environment"]["RUST_TEST_THREADS"], "1");
        Ok(())
    }
}
