//! Running other programs: finding them, as whom they run, and saying so.
//!
//! What is run, and why, is for the callers to know.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Error, Result, bail};

/// Where root's tools may be though they aren't on the PATH of other users.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Tells the user what is going on, on stderr.
pub(crate) fn say(message: fmt::Arguments<'_>) {
    eprintln!("xtask: {message}");
}

/// Whether this process is root already.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The root of the checkout this program is working on.
pub(crate) fn workspace_root() -> PathBuf {
    // At run time cargo says it; a moved checkout would make the value of compile time wrong.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
}

/// Looks for a program on PATH, where root's tools are, and where cargo and rustup install theirs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .chain(cargo_bin())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")))?;
    Some(env::var_os("CARGO_INSTALL_ROOT").map_or(home, PathBuf::from).join("bin"))
}

/// A command that runs in the root of the checkout, without what `cargo run` put into our environment.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    for (name, _) in env::vars_os() {
        if is_ours_alone(&name) {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        match without_cargo_directories(&path) {
            Some(path) => command.env("LD_LIBRARY_PATH", path),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// The cargo that is running us, so that `cargo +TOOLCHAIN xtask` uses one toolchain throughout.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A rustup command that isn't bent to the toolchain of the cargo that is running us.
pub(crate) fn rustup() -> Command {
    let mut rustup = command(find("rustup").unwrap_or_else(|| "rustup".into()));
    rustup.env_remove("RUSTUP_TOOLCHAIN");
    rustup
}

/// A command that runs as root with `environment` added, through sudo where needed.
pub(crate) fn as_root(program: &OsStr, environment: &[(OsString, OsString)]) -> Result<Command> {
    if is_root() {
        let mut direct = command(program);
        direct.envs(environment.iter().map(|(name, value)| (name, value)));
        return Ok(direct);
    }
    let Some(sudo) = find("sudo") else {
        bail!(
            "{} has to run as root, and there is no sudo here: install sudo, or run cargo xtask as root",
            program.display()
        );
    };
    let mut wrapped = command(sudo);
    wrapped.args(through_sudo(program, environment));
    Ok(wrapped)
}

/// sudo's arguments: `env` sets the variables, because sudo itself may be told not to let them pass.
fn through_sudo(program: &OsStr, environment: &[(OsString, OsString)]) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("--")];
    if !environment.is_empty() {
        arguments.push("env".into());
        arguments.extend(environment.iter().map(|(name, value)| {
            let mut assignment = name.clone();
            assignment.push("=");
            assignment.push(value);
            assignment
        }));
    }
    arguments.push(program.into());
    arguments
}

/// Becomes `program` as root, so that signals, terminal and exit status are its own; returns only on failure.
pub(crate) fn become_root(program: &Path, arguments: &[OsString]) -> Error {
    let command = as_root(program.as_os_str(), &[]).and_then(|mut command| {
        // The user's own directory, not the checkout's: arguments may be relative paths.
        command.current_dir(env::current_dir().context("the current directory is gone")?);
        Ok(command)
    });
    match command {
        Ok(mut command) => {
            let error = command.args(arguments).exec();
            Error::new(error).context(format!("cannot run {}", program.display()))
        }
        Err(error) => error,
    }
}

/// Runs a command to its end, showing it first; its stdout goes to our stderr, which is where progress belongs.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(format_args!("$ {}", show(command)));
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("cannot duplicate stderr")?;
    if !io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let status = command
        .stdout(stderr)
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("`{}` failed ({status}); its messages are above", show(command));
    }
    Ok(())
}

/// What a command prints on stdout, if it can be run and succeeds; what it says on stderr is dropped.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command as one would type it; for people, so without quoting.
pub(crate) fn show(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        // The paths are those that the user's shell has, or nearly.
        let is_telling = !name.to_string_lossy().ends_with("PATH");
        let value = value.filter(|_| is_telling)?;
        Some(format!("{}={}", name.display(), value.display()))
    });
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = [program].into_iter().chain(command.get_args());
    let words = words.map(|word| word.display().to_string());
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether a variable describes the package of xtask, which nothing that we start should take for its own.
fn is_ours_alone(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"].contains(&name.as_ref())
}

/// LD_LIBRARY_PATH without the directories that `cargo run` puts in front.
///
/// The linked rustc and bpf-linker are other builds than the rustc these directories belong to.
fn without_cargo_directories(path: &OsStr) -> Option<OsString> {
    let target = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let rustup = env::var_os("RUSTUP_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let added: Vec<_> = [target, rustup].into_iter().flatten().collect();
    let rest = env::split_paths(path).filter(|entry| !added.iter().any(|parent| entry.starts_with(parent)));
    env::join_paths(rest).ok().filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_gets_the_variables_through_env() {
        let environment = [("TCPTRACE_BIN".into(), "/t/tcptrace".into())];
        let arguments = through_sudo(OsStr::new("/t/close_wait"), &environment);
        assert_eq!(arguments, ["--", "env", "TCPTRACE_BIN=/t/tcptrace", "/t/close_wait"]);
    }

    #[test]
    fn sudo_gets_nothing_needless() {
        assert_eq!(through_sudo(OsStr::new("/t/tcptrace"), &[]), ["--", "/t/tcptrace"]);
    }

    #[test]
    fn the_package_of_xtask_is_not_passed_on() {
        assert!(is_ours_alone(OsStr::new("CARGO_PKG_NAME")));
        assert!(is_ours_alone(OsStr::new("CARGO_MANIFEST_DIR")));
        assert!(!is_ours_alone(OsStr::new("CARGO_TARGET_DIR")));
        assert!(!is_ours_alone(OsStr::new("RUSTFLAGS")));
    }

    #[test]
    fn the_users_library_path_stays() {
        assert_eq!(
            without_cargo_directories(OsStr::new("/opt/lib:/srv/lib")),
            Some("/opt/lib:/srv/lib".into())
        );
    }

    #[test]
    fn a_program_is_found_where_root_has_it() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
