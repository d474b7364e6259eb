//! Runs other programs: finds them, runs them as the right user, and shows what is run.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Error, Result, bail, ensure};

use crate::environment::Environment;

/// A directory of root's tools, which the PATH of other users may lack.
const SYSTEM_DIRECTORY: &str = "/usr/sbin";

/// Writes a line about progress to stderr.
pub(crate) fn say(message: fmt::Arguments<'_>) {
    eprintln!("xtask: {message}");
}

/// The root of the checkout that this program works on.
pub(crate) fn workspace_root() -> PathBuf {
    // At run time cargo says it; a moved checkout would make the value of compile time wrong.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).join("..")
}

/// Looks for a program on PATH and where root's tools are. Rustup puts what `cargo install`
/// installs on the PATH of `cargo xtask`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from(SYSTEM_DIRECTORY)]);
    directories.map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// A command that runs in the root of the checkout.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    command
}

/// The cargo that runs xtask, so that `cargo +TOOLCHAIN xtask` uses one toolchain throughout.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command that runs as root with `environment` added, through sudo where needed.
pub(crate) fn as_root(program: impl AsRef<OsStr>, environment: &Environment) -> Result<Command> {
    let program = program.as_ref();
    if rustix::process::geteuid().is_root() {
        let mut direct = command(program);
        direct.envs(environment);
        return Ok(direct);
    }
    let Some(sudo) = find_program("sudo") else {
        bail!(
            "{} has to run as root, and there is no sudo here: install sudo, or run cargo xtask as root",
            program.display()
        );
    };
    let mut wrapped = command(sudo);
    // `env` sets the variables, because sudo may be configured not to pass them on.
    wrapped.args(["--", "env"]);
    wrapped.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
    wrapped.arg(program);
    Ok(wrapped)
}

/// Replaces this process by `program` as root, with its own signals, terminal and status; returns
/// on failure.
pub(crate) fn become_root(program: &Path, arguments: &[OsString]) -> Error {
    let run = || {
        let mut command = as_root(program, &Environment::new())?;
        // The user's own directory, not the checkout's: arguments may be relative paths.
        command.current_dir(env::current_dir().context("the current directory is gone")?);
        Ok(Error::new(command.args(arguments).exec()).context(format!("cannot run {}", program.display())))
    };
    run().unwrap_or_else(|error| error)
}

/// Shows a command and runs it to its end; its stdout goes to our stderr, where progress belongs.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show_command(command);
    say(format_args!("$ {line}"));
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot duplicate stderr")?;
    if !io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let status = command.stdout(stderr).status().with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status}); its messages are above");
    Ok(())
}

/// Runs a command and returns what it prints; its error messages are in the error.
pub(crate) fn read_output(command: &mut Command) -> Result<String> {
    let line = show_command(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{line}`"))?;
    let messages = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    ensure!(output.status.success(), "`{line}` failed ({}): {messages}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command as one would type it, without quoting.
pub(crate) fn show_command(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// Runs `cargo xtask SUBCOMMAND` as root with these data as JSON, and returns its exit status.
pub(crate) fn run_self_as_root(subcommand: &str, data: &impl serde::Serialize) -> Result<ExitCode> {
    let this = env::current_exe().context("/proc is not mounted")?;
    let data = serde_json::to_string(data)?;
    let status = as_root(this, &Environment::new())?.args([subcommand, &data]).status();
    let is_good = status.context("cannot run the part that needs root")?.success();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_path() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn what_a_program_says_is_returned_or_in_the_error() {
        assert!(read_output(command("echo").arg("a")).is_ok_and(|said| said == "a"));
        let error = read_output(command("sh").args(["-c", "echo no space >&2; exit 3"]));
        assert!(error.is_err_and(|error| error.to_string().ends_with("(exit status: 3): no space")));
    }
}
