//! Makes a guest's only file system: xtask as the first process, the test programs, tcptrace, the
//! tools that the tests use, and the shared libraries of all of them. Guests share it, but for the
//! modules and the job.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use cpio::newc::{self, ModeFileType};
use fs_err::{self as fs, File};

use super::guest::{JOB, Job, MODULES, PROGRAMS};
use crate::{
    compile::{Executable, KernelTests},
    environment::{self, Environment},
    shell::{self, read_output},
};

/// Tools of the host that guests have too: for the tests, and `ip` for the guest itself.
const TOOLS: [&str; 3] = ["ss", "ip", "sh"];
/// Directories that are mounted on or written to.
const DIRECTORIES: [&str; 7] = ["proc", "sys", "dev", "tmp", "run", "root", "lib64"];
/// Where the tests look for their own programs.
const HELPERS_VARIABLE: &str = "TCPTRACE_TEST_BINS";
/// Where the tests look for tools that are too large for a guest; empty, because none is there.
const TOOLS_VARIABLE: &str = "TCPTRACE_TEST_TOOLS";
/// More than the guest's one processor, because tests wait a lot; few, because they wait for each
/// other's work.
const THREADS: &str = "2";
/// How many seconds a test waits before it fails: emulation makes all about ten times slower.
const PATIENCE: (&str, &str) = ("TCPTRACE_PATIENCE", "150");

/// The job of a guest. `without`: features that the tracer has to do without there, whatever the
/// user says.
pub(super) fn make_job(
    programs: &[&str],
    modules: &[PathBuf],
    arguments: &[String],
    ours: &Environment,
    without: Option<&str>,
) -> Job {
    let threads = if without.is_some() { environment::ONE_THREAD } else { THREADS };
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut environment: Environment = [(environment::THREADS_VARIABLE, threads), PATIENCE].map(owned).into();
    environment.extend(ours.clone());
    // Where they are in the guest.
    let places = [
        (environment::BINARY_VARIABLE, "/bin/tcptrace"),
        (HELPERS_VARIABLE, "/helpers"),
        (TOOLS_VARIABLE, ""),
    ];
    let without = without.map(|without| (environment::WITHOUT_VARIABLE, without));
    environment.extend(places.into_iter().chain(without).map(owned));
    Job {
        programs: programs.iter().map(|&program| program.to_owned()).collect(),
        modules: modules.iter().map(|module| file_name(module)).collect(),
        arguments: arguments.to_owned(),
        environment,
    }
}

/// Writes what all guests share: with those of the tests' programs that `programs` names.
pub(super) fn build_shared(tests: &KernelTests, programs: &[&str], tcptrace: &Path, to: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    // What is running, though cargo may have built xtask anew in the meantime; `self` would be ldd
    // and strip.
    files.insert("xtask".to_owned(), PathBuf::from(format!("/proc/{}/exe", std::process::id())));
    files.insert("bin/tcptrace".to_owned(), tcptrace.to_owned());
    for tool in TOOLS {
        let path =
            shell::find_program(tool).with_context(|| format!("there is no {tool} to run in the guests"))?;
        files.insert(format!("bin/{tool}"), path);
    }
    let is_to_run = |program: &&Executable| programs.contains(&program.name.as_str());
    for Executable { name, path, .. } in tests.programs.iter().filter(is_to_run) {
        files.insert(format!("{}/{name}", &PROGRAMS[1..]), path.clone());
    }
    for Executable { name, path, .. } in &tests.helpers {
        files.insert(format!("helpers/{name}"), path.clone());
    }
    // ldd fails for a program without libraries.
    let list = |path: &PathBuf| read_output(shell::command("ldd").arg(path)).unwrap_or_default();
    let libraries = files.values().map(|path| parse_ldd(&list(path)));
    for library in libraries.collect::<Result<Vec<_>>>()?.concat() {
        files.insert(library.trim_start_matches('/').to_owned(), library.into());
    }
    let mut archive = BufWriter::new(File::create(to)?);
    for directory in list_directories(files.keys().map(String::as_str)) {
        add_directory(&mut archive, directory)?;
    }
    let stripped = to.with_extension("stripped");
    for (path, from) in &files {
        // Nine tenths of what cargo builds for tests are debug information. Without binutils the
        // guests need more memory, that is all.
        let has_debug = ["xtask", "programs/", "helpers/"].iter().any(|ours| path.starts_with(ours));
        let mut strip = shell::command("strip");
        strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(from);
        let is_stripped = has_debug && read_output(&mut strip).is_ok();
        add_file(&mut archive, path, &fs::read(if is_stripped { &stripped } else { from })?)?;
    }
    let _there_was_no_strip = fs::remove_file(&stripped);
    Ok(newc::trailer(archive)?.flush()?)
}

/// Writes a guest's own: `shared` with the modules of its kernel, and its job.
pub(super) fn build_for_guest(shared: &Path, modules: &[PathBuf], job: &Job, to: &Path) -> Result<()> {
    fs::copy(shared, to)?;
    // Two archives, one after the other, are one to the kernel.
    let mut archive = BufWriter::new(File::options().append(true).open(to)?);
    add_file(&mut archive, &JOB[1..], &serde_json::to_vec(job)?)?;
    add_directory(&mut archive, &MODULES[1..])?;
    for module in modules {
        add_file(&mut archive, &format!("{}/{}", &MODULES[1..], file_name(module)), &fs::read(module)?)?;
    }
    Ok(newc::trailer(archive)?.flush()?)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

/// Adds a directory to a cpio archive of the kind that the kernel unpacks into its first file
/// system.
fn add_directory(archive: &mut impl Write, path: &str) -> io::Result<()> {
    let entry = newc::Builder::new(path).mode(0o755).set_mode_file_type(ModeFileType::Directory);
    entry.write(archive, 0).finish().map(drop)
}

fn add_file(archive: &mut impl Write, path: &str, content: &[u8]) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let entry = newc::Builder::new(path).mode(0o755).set_mode_file_type(ModeFileType::Regular);
    let mut file = entry.write(archive, size);
    file.write_all(content)?;
    file.finish().map(drop)
}

/// The directories that the files are in, and [`DIRECTORIES`], each after those it is in.
fn list_directories<'a>(files: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let parents = files.flat_map(|file| file.match_indices('/').map(|(at, _)| &file[..at]));
    parents.chain(DIRECTORIES).collect()
}

/// The libraries in what ldd(1) prints, and the program that loads them.
fn parse_ldd(list: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for line in list.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "a shared library is missing: {line}");
        let path = line.rsplit("=>").next().unwrap_or_default().trim();
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(path.to_owned());
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
        assert_eq!(parse_ldd(list)?, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tstatically linked\n")?.is_empty());
        assert!(parse_ldd("\tlibmnl.so.0 => not found\n").is_err());
        Ok(())
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let directories = list_directories(["usr/lib/x", "usr/y", "z"].into_iter());
        let of_files: Vec<_> = directories.into_iter().filter(|path| path.starts_with("usr")).collect();
        assert_eq!(of_files, ["usr", "usr/lib"]);
    }

    #[test]
    fn the_job_names_the_guests_own_paths() {
        let ours = [("TCPTRACE_BIN", "/t/tcptrace"), ("RUST_BACKTRACE", "1"), ("TCPTRACE_PATIENCE", "9")];
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let written =
            |without| make_job(&["stuck"], &["/k/veth.ko".into()], &["leak".into()], &ours, without);
        let expected = [
            ("RUST_BACKTRACE", "1"),
            ("RUST_TEST_THREADS", "2"),
            ("TCPTRACE_BIN", "/bin/tcptrace"),
            ("TCPTRACE_PATIENCE", "9"),
            ("TCPTRACE_TEST_BINS", "/helpers"),
            ("TCPTRACE_TEST_TOOLS", ""),
        ];
        let Job { modules, environment, .. } = written(None);
        assert_eq!(modules, ["veth.ko"]);
        assert_eq!(environment, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let without_btf = written(Some("btf")).environment;
        assert_eq!(without_btf["TCPTRACE_TEST_WITHOUT"], "btf");
        assert_eq!(without_btf["RUST_TEST_THREADS"], "1");
    }
}
