//! The compiler for BPF and its linker.
//!
//! Two toolchains of rustup compile for BPF: nightly with rust-src, which builds `core` itself,
//! and `bpf`, which is a link to a rustc that has `core` for BPF, as Debian's has. One that is
//! there is used; `tcptrace/build.rs` looks for them in the same order. Where there is none,
//! Debian's comes first: one tested version that stays the same for a release, with an LLVM to
//! match.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use fs_err as fs;

use super::installer::{Installer, Package, has_apt};
use crate::{shell, version::version_key};

/// The variable with which a user names the toolchain for BPF; `tcptrace/build.rs` obeys it.
const OVERRIDE: &str = "TCPTRACE_BPF_TOOLCHAIN";
/// rustup's name for Debian's rustc.
const LINKED: &str = "bpf";
/// The oldest rustc that compiles the workspace (`rust-version` in Cargo.toml).
const OLDEST_RUSTC: [u64; 2] = [1, 95];
/// The LLVM of Debian's rustc, for `setup --check` before that is there.
const EXPECTED_LLVM: u64 = 22;
/// What is installed where there is no bpf-linker.
const LINKER_VERSION: &str = "0.13.0";

const RUSTC: Package<'_> = ("rustc-web", "a rustc as new as the libraries here ask for, beside rustup's own");
const CORE: Package<'_> = ("libstd-rust-web-dev-bpf", "that rustc's `core`, compiled for BPF");
const CARGO: Package<'_> = ("cargo-web", "a cargo for that rustc; rustup has none to lend");

/// Provides the compiler and the linker.
pub(super) fn provide(installer: &mut Installer) -> Result<()> {
    ensure!(
        shell::find_program("rustup").is_some(),
        "there is no rustup, which manages Rust's compilers: install it"
    );
    let llvm = provide_compiler(installer)?;
    provide_linker(installer, llvm)
}

/// Provides a compiler and returns the version of its LLVM.
fn provide_compiler(installer: &mut Installer) -> Result<u64> {
    let named = env::var(OVERRIDE).ok();
    let toolchains = named.as_deref().map_or(vec!["nightly", LINKED], |name| vec![name]);
    let find = || toolchains.iter().find_map(|toolchain| usable_llvm(toolchain));
    if let Some(llvm) = find() {
        return Ok(llvm);
    }
    ensure!(
        named.is_none(),
        "{OVERRIDE} names a toolchain that isn't there or can't compile for BPF: unset the variable, or name a \
         nightly with rust-src or a rustc with `core` for BPF"
    );
    if is_offered(installer)? {
        installer.install_packages(&[RUSTC, CORE])?;
        installer
            .install(&format!("the rustup toolchain `{LINKED}`, a link to Debian's rustc in /usr"), |_| {
                shell::run(&mut rustup_command(&["toolchain", "link", LINKED, "/usr"]))
            })?;
        // `cargo` is the one in /usr, or that of stable, beta or nightly.
        if !installer.only_reports
            && shell::read_output(&mut rustup_command(&["run", LINKED, "cargo", "-V"])).is_err()
        {
            installer.install_packages(&[CARGO])?;
        }
    } else if shell::read_output(&mut rustup_command(&["run", "nightly", "rustc", "-V"])).is_ok() {
        installer.install("rustup's rust-src for nightly: `core` is built from it for BPF", |_| {
            shell::run(&mut rustup_command(&["component", "add", "rust-src", "--toolchain", "nightly"]))
        })?;
    } else {
        installer.install("rustup's nightly with rust-src: it builds `core` for BPF", |_| {
            let install =
                ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
            shell::run(&mut rustup_command(&install))
        })?;
    }
    find()
        .or(installer.only_reports.then_some(EXPECTED_LLVM))
        .context("the compiler was installed and cannot be used")
}

fn rustup_command(arguments: &[&str]) -> Command {
    let mut rustup = shell::command("rustup");
    rustup.args(arguments);
    rustup
}

/// Whether apt offers a rustc that is new enough, with `core` for BPF.
fn is_offered(installer: &mut Installer) -> Result<bool> {
    if !has_apt() {
        return Ok(false);
    }
    installer.update_lists()?;
    let version = |(package, _): Package<'_>| {
        let mut show = shell::command("apt-cache");
        let shown = shell::read_output(show.args(["show", "--no-all-versions", package])).ok()?;
        shown.lines().find_map(|line| line.strip_prefix("Version: ")).map(version_key)
    };
    Ok(version(CORE).is_some() && version(RUSTC).is_some_and(|version| *version >= OLDEST_RUSTC[..]))
}

/// The version of a toolchain's LLVM, if the toolchain is there and compiles for BPF.
fn usable_llvm(toolchain: &str) -> Option<u64> {
    let rustc = |arguments: &[&str]| {
        shell::read_output(rustup_command(&["run", toolchain, "rustc"]).args(arguments)).ok()
    };
    let version = rustc(&["-vV"])?;
    let rustlib = Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib");
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let has_core = fs::read_dir(rustlib.join(target).join("lib")).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    let builds_core = version.contains("-nightly") && rustlib.join("src/rust/library/core").is_dir();
    parse_llvm(&version).filter(|_| has_core || builds_core)
}

/// Provides a bpf-linker. It reads the bitcode that rustc's LLVM wrote, so its own LLVM must not
/// be older.
fn provide_linker(installer: &mut Installer, wanted: u64) -> Result<()> {
    let fits = || linker_llvm().is_some_and(|llvm| llvm >= wanted);
    if fits() {
        return Ok(());
    }
    let prefix = if let Ok(prefix) = env::var("LLVM_PREFIX") {
        prefix
    } else {
        let (llvm, polly) = (format!("llvm-{wanted}-dev"), format!("libpolly-{wanted}-dev"));
        let library = "a library that LLVM uses";
        installer
            .install_packages(&[
                (&llvm, "the LLVM that bpf-linker is linked with"),
                (&polly, "a part of that LLVM"),
                ("libzstd-dev", library),
                ("zlib1g-dev", library),
            ])
            .with_context(|| {
                format!(
                    "bpf-linker needs LLVM {wanted}: set LLVM_PREFIX to the directory it is in, or install a \
                         bpf-linker that is built with it"
                )
            })?;
        format!("/usr/lib/llvm-{wanted}")
    };
    let version = shell::read_output(shell::command(format!("{prefix}/bin/llvm-config")).arg("--version"));
    let llvm = version.ok().and_then(|version| version_key(&version).first().copied()).unwrap_or(wanted);
    installer.install(
        &format!("bpf-linker {LINKER_VERSION} with LLVM {llvm}: rustc links BPF programs with it"),
        |_| {
            let mut cargo = shell::cargo();
            cargo.env("LLVM_PREFIX", &prefix);
            cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
            shell::run(cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]))
        },
    )?;
    ensure!(
        installer.only_reports || fits(),
        "bpf-linker was installed, and the one on PATH does not run or has an LLVM older than {wanted}"
    );
    Ok(())
}

/// The version of the LLVM of the bpf-linker on PATH; the highest if that is linked statically.
fn linker_llvm() -> Option<u64> {
    let path = shell::find_program("bpf-linker")?;
    // One that doesn't run, because its LLVM was upgraded away, counts as missing.
    shell::read_output(shell::command(&path).arg("--version")).ok()?;
    let libraries = shell::read_output(shell::command("ldd").arg(&path)).unwrap_or_default();
    Some(parse_ldd(&libraries).unwrap_or(u64::MAX))
}

fn parse_llvm(version: &str) -> Option<u64> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version_key(llvm).first().copied()
}

fn parse_ldd(libraries: &str) -> Option<u64> {
    version_key(libraries.split_once("libLLVM")?.1).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_and_of_a_linker_is_read() {
        assert_eq!(parse_llvm("rustc 1.96.0\nhost: x86_64\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(parse_llvm("rustc 1.96.0"), None);
        let llvm = |library: &str| parse_ldd(&format!("\t{library} => /usr/lib/{library} (0x7f)"));
        assert_eq!(llvm("libLLVM.so.22.1"), Some(22));
        assert_eq!(llvm("libLLVM-17.so.1"), Some(17));
        assert_eq!(llvm("libc.so.6"), None);
    }
}
