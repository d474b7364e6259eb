//! Checks the dependencies against deny.toml with cargo-deny: licences, bans and sources, and advisories where their
//! database can be fetched.

use std::process::Command;

use anyhow::Result;

use crate::shell::{self, say};

/// The version that is installed where there is none.
const VERSION: &str = "0.20.2";

/// What was not checked, and what to do about it.
pub(crate) const NO_ADVISORIES: &str = "NOT CHECKED: advisories, because their database cannot be fetched. Run \
    `cargo deny check advisories` where the network allows it";

/// Checks what Cargo.lock names, and installs cargo-deny first if it is missing. Returns whether advisories were
/// checked too.
///
/// # Errors
/// A dependency is not allowed, or cargo-deny cannot be installed.
pub(crate) fn check() -> Result<bool> {
    if shell::output(deny().arg("--version")).is_none() {
        say(format_args!("installing cargo-deny {VERSION}: it checks the dependencies against deny.toml"));
        shell::run(shell::cargo().args([
            "install",
            "cargo-deny",
            "--version",
            VERSION,
            "--locked",
            "--force",
        ]))?;
    }
    let mut check = deny();
    check.arg("check");
    // `check` exits with 1 for a vulnerable dependency and for a database that it cannot fetch.
    let has_database = shell::run(deny().args(["fetch", "db"])).is_ok();
    if !has_database {
        check.args(["licenses", "bans", "sources"]);
    }
    shell::run(&mut check)?;
    Ok(has_database)
}

fn deny() -> Command {
    let mut cargo = shell::cargo();
    cargo.arg("deny");
    cargo
}
