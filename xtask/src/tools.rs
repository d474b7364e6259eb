//! What the tests of the documents run, and is not installed for them: fetched, and kept in
//! `target/tools`.
//!
//! `plan.rs` decides when they are needed. The tests look for them there (`tests/src/pipeline.rs`).

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The version of DuckDB's command line, as PyPI has it.
pub(crate) const DUCKDB_VERSION: &str = "1.5.6";

/// Runs rsyslogd with its own libraries and modules, wherever they were unpacked.
const RSYSLOGD: &str = r#"#!/bin/sh
unpacked=$(dirname "$(readlink -f "$0")")/../rsyslog
modules=$(dirname "$(find "$unpacked/usr/lib" -name mmjsonparse.so)")
export RSYSLOG_MODDIR="$modules" LD_LIBRARY_PATH="${modules%/*}"
exec "$unpacked/usr/sbin/rsyslogd" "$@"
"#;

/// Runs DuckDB's program, without the Python around it.
const DUCKDB: &str = r#"#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/../duckdb/duckdb_cli/duckdb" "$@"
"#;

/// Runs Prometheus's promtool, without the server.
const PROMTOOL: &str = r#"#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/../prometheus/usr/bin/promtool" "$@"
"#;

/// Whether a tool is there.
pub(crate) fn has(name: &str) -> bool {
    directory().is_ok_and(|directory| directory.join("bin").join(name).is_file())
}

/// Fetches Debian's packages of rsyslog and unpacks them. Installing it would start it as the host's own logger.
///
/// # Errors
/// apt offers one of them no more, perhaps because its lists are old.
pub(crate) fn unpack_rsyslog(packages: &[(String, &'static str)]) -> Result<()> {
    let directory = directory()?;
    unpack(&directory, "rsyslog", packages)?;
    provide(&directory, "rsyslogd", RSYSLOGD, "-v")
}

/// Fetches Debian's package of Prometheus and unpacks it. Installing it would start the server.
///
/// # Errors
/// As [`unpack_rsyslog`].
pub(crate) fn unpack_promtool(packages: &[(String, &'static str)]) -> Result<()> {
    let directory = directory()?;
    unpack(&directory, "prometheus", packages)?;
    // The server is half of it, and nobody runs it.
    let server = directory.join("prometheus/usr/bin/prometheus");
    fs::remove_file(&server).with_context(|| format!("cannot remove {}", server.display()))?;
    provide(&directory, "promtool", PROMTOOL, "--version")
}

/// Unpacks Debian packages into a folder of this name.
fn unpack(directory: &Path, name: &str, packages: &[(String, &'static str)]) -> Result<()> {
    let (to, archives) = (directory.join(name), directory.join("archives"));
    for folder in [&to, &archives] {
        let _not_there = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut download = shell::command("apt-get");
    download.arg("download").args(packages.iter().map(|(name, _)| name)).current_dir(&archives);
    shell::run(&mut download)?;
    let files = fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))?;
    for file in files {
        let mut unpack = shell::command("dpkg-deb");
        shell::run(unpack.arg("--extract").arg(file?.path()).arg(&to))?;
    }
    fs::remove_dir_all(&archives).with_context(|| format!("cannot remove {}", archives.display()))
}

/// Fetches DuckDB's command line with pip.
///
/// # Errors
/// pip cannot get it.
pub(crate) fn install_duckdb() -> Result<()> {
    let directory = directory()?;
    let to = directory.join("duckdb");
    let _not_there = fs::remove_dir_all(&to);
    let mut pip = pip();
    pip.args(["install", "--no-deps", "--quiet", "--disable-pip-version-check", "--target"]).arg(to);
    shell::run(pip.arg(format!("duckdb-cli=={DUCKDB_VERSION}")))?;
    provide(&directory, "duckdb", DUCKDB, "--version")
}

/// Whether Python has pip.
pub(crate) fn has_pip() -> bool {
    shell::output(pip().arg("--version")).is_some()
}

fn pip() -> Command {
    let mut python = shell::command("python3");
    python.args(["-m", "pip"]);
    python
}

/// Writes the script with which a tool is run, if it does run.
fn provide(directory: &Path, name: &str, script: &str, version: &str) -> Result<()> {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    // It gets its name last: what is there under that name works.
    let (new, path) = (bin.join(format!("{name}.new")), bin.join(name));
    fs::write(&new, script).with_context(|| format!("cannot write {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", new.display()))?;
    if shell::output(shell::command(&new).arg(version)).is_none() {
        bail!("{} was fetched, and does not run", path.display());
    }
    fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// In the directory that cargo built xtask in, beside `debug` and `release`.
fn directory() -> Result<PathBuf> {
    let program = env::current_exe().context("/proc is not mounted")?;
    let target = program.parent().and_then(Path::parent).context("xtask is in no target directory")?;
    Ok(target.join("tools"))
}
