//! `cargo xtask install`: puts tcptrace where all users and sudo find it.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{
    compile::{self, Profile},
    environment::Environment,
    setup,
    shell::{self, say},
};

/// Builds the release and installs it under `prefix`.
pub(crate) fn run(prefix: &Path) -> Result<()> {
    let prefix =
        std::path::absolute(prefix).with_context(|| format!("no usable prefix: {}", prefix.display()))?;
    setup::prepare(&[])?;
    let built = compile::build_tcptrace(Profile::Release)?;
    let installed = prefix.join("bin/tcptrace");
    let mut install = shell::as_root("install", &Environment::new())?;
    shell::run(install.args(["-D", "--mode=0755"]).arg(&built).arg(&installed))?;
    say(format_args!("installed {}", installed.display()));
    match found_as_root() {
        Some(found) if Path::new(&found) == installed => say(format_args!("run it with `sudo tcptrace`")),
        Some(found) => say(format_args!(
            "`sudo tcptrace` still runs {found}: remove that, or run `sudo {}`",
            installed.display()
        )),
        None => say(format_args!(
            "sudo does not look there (its secure_path): run `sudo {}`, or install with `--prefix /usr`",
            installed.display()
        )),
    }
    Ok(())
}

/// The tcptrace that root finds; sudo has its own PATH.
fn found_as_root() -> Option<String> {
    let mut shell = shell::as_root("sh", &Environment::new()).ok()?;
    shell::read_output(shell.args(["-c", "command -v tcptrace"])).ok()
}
