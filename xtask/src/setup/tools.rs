//! What the tests of the documents run: fetched, and kept in `target/tools` instead of being
//! installed.
//!
//! The tests look here (`tests/src/pipeline.rs`).

use std::{
    env,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use fs_err as fs;

use super::installer::{Installer, Package, has_apt, list_packages};
use crate::shell;

/// A program that tests run.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    source: Source,
    /// Runs it from `$unpacked`, the folder in which its packages are unpacked.
    run: &'static str,
    version_option: &'static str,
}

/// Where a tool comes from.
#[derive(Debug)]
enum Source {
    /// Debian packages that are not installed, because they would start a service.
    Debian(&'static [Package<'static>]),
    /// A package of `PyPI` that has the program in it, and why it is needed.
    PyPi(&'static str, &'static str),
}

pub(super) const TOOLS: [Tool; 3] = [
    Tool {
        name: "rsyslogd",
        source: Source::Debian(&[
            ("rsyslog", "docs/pipelines.md is tested with it; unpacked, not installed"),
            ("libestr0", "a library of rsyslog"),
            ("libfastjson4", "a library of rsyslog"),
            ("liblognorm5", "a library of rsyslog"),
        ]),
        // With its own libraries and modules.
        run: r#"modules=$(dirname "$(find "$unpacked/usr/lib" -name mmjsonparse.so)")
export RSYSLOG_MODDIR="$modules" LD_LIBRARY_PATH="${modules%/*}"
exec "$unpacked/usr/sbin/rsyslogd" "$@""#,
        version_option: "-v",
    },
    Tool {
        name: "promtool",
        source: Source::Debian(&[(
            "prometheus",
            "promtool: the alert rules in docs are tested with it; unpacked, not installed",
        )]),
        run: r#"exec "$unpacked/usr/bin/promtool" "$@""#,
        version_option: "--version",
    },
    Tool {
        name: "duckdb",
        source: Source::PyPi("duckdb-cli==1.5.6", "docs/pipelines.md is tested with it"),
        run: r#"exec "$unpacked/duckdb_cli/duckdb" "$@""#,
        version_option: "--version",
    },
];

/// Provides all tools.
pub(super) fn provide(installer: &mut Installer) -> Result<()> {
    let directory = tools_directory()?;
    for tool in &TOOLS {
        // The host's rsyslogd may not be allowed to read the tests' files.
        let is_usable = tool.name != "rsyslogd" || !has_apt();
        let is_there = directory.join("bin").join(tool.name).is_file();
        if is_there || (is_usable && shell::find_program(tool.name).is_some()) {
            continue;
        }
        let what = match &tool.source {
            Source::Debian(packages) => list_packages(packages),
            Source::PyPi(package, why) => {
                if shell::read_output(pip_command().arg("--version")).is_err() {
                    installer.install_packages(&[(
                        "python3-pip",
                        "fetches DuckDB, with which docs/pipelines.md is tested",
                    )])?;
                }
                format!("{package} from PyPI: {why}")
            }
        };
        installer.install(&format!("in target/tools, {what}"), |installer| {
            unpack_tool(installer, tool, &directory)
        })?;
    }
    Ok(())
}

/// Fetches a tool and unpacks it, and writes the script that runs it.
fn unpack_tool(installer: &mut Installer, tool: &Tool, directory: &Path) -> Result<()> {
    let Tool { name, source, run, version_option } = tool;
    let (bin, to) = (directory.join("bin"), directory.join("unpacked").join(name));
    let _not_there = fs::remove_dir_all(&to);
    fs::create_dir_all(&to)?;
    fs::create_dir_all(&bin)?;
    match source {
        Source::Debian(packages) => {
            installer.update_lists()?;
            let mut download = shell::command("apt-get");
            download.arg("download").args(packages.iter().map(|(name, _)| name));
            shell::run(download.current_dir(&to))?;
            for archive in fs::read_dir(&to)?.collect::<Result<Vec<_>, _>>()? {
                let archive = archive.path();
                shell::run(shell::command("dpkg-deb").arg("--extract").args([&archive, &to]))?;
                fs::remove_file(archive)?;
            }
            // Half of promtool's package, and nobody runs it.
            let _not_there = fs::remove_file(to.join("usr/bin/prometheus"));
        }
        Source::PyPi(package, _) => {
            let mut pip = pip_command();
            pip.args(["install", "--no-deps", "--quiet", "--disable-pip-version-check", "--target"]);
            shell::run(pip.arg(&to).arg(package))?;
        }
    }
    // The script gets its name last: what is there under that name works.
    let script = bin.join(format!("{name}.new"));
    let unpacked = format!(r#"unpacked=$(dirname "$(readlink -f "$0")")/../unpacked/{name}"#);
    fs::write(&script, format!("#!/bin/sh\n{unpacked}\n{run}\n"))?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    shell::read_output(shell::command(&script).arg(version_option))
        .context("it was fetched, and does not run")?;
    Ok(fs::rename(&script, bin.join(name))?)
}

fn pip_command() -> Command {
    let mut python = shell::command("python3");
    python.args(["-m", "pip"]);
    python
}

/// `tools` in the target directory that cargo built xtask in, beside `debug` and `release`.
fn tools_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("/proc is not mounted")?;
    let target = program.parent().and_then(Path::parent).context("xtask is in no target directory")?;
    Ok(target.join("tools"))
}
