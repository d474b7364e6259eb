//! Checks the dependencies against deny.toml with cargo-deny: licences, bans and sources, and
//! advisories if their database can be fetched.

use anyhow::Result;

use crate::shell::{self, say};

/// The version that is installed where there is none.
const VERSION: &str = "0.20.2";
/// What was not checked, and what to do about it.
pub(crate) const NO_ADVISORIES: &str = "NOT CHECKED: advisories, because their database cannot be fetched. Run \
                                        `cargo deny check advisories` where the network allows it";

/// Checks what Cargo.lock names, and installs cargo-deny first if it is missing. Returns whether
/// advisories were checked too.
pub(crate) fn check() -> Result<bool> {
    if shell::quietly(shell::cargo().args(["deny", "--version"])).is_err() {
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
    // `check` exits with 1 for a vulnerable dependency and for a database that it cannot fetch.
    let has_database = shell::run(shell::cargo().args(["deny", "fetch", "db"])).is_ok();
    let offline: &[&str] = if has_database { &[] } else { &["licenses", "bans", "sources"] };
    shell::run(shell::cargo().args(["deny", "check"]).args(offline))?;
    Ok(has_database)
}
