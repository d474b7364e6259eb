//! Builds the BPF object of `tcptrace-ebpf`, which `tcptrace/src/host/bpf/object.rs` embeds.
//!
//! Two toolchains can build it: rustup's nightly with rust-src, which most people have, or a rustc
//! with a prebuilt `core` for BPF, linked as the rustup toolchain `bpf`, which `cargo xtask setup`
//! makes on Debian. `TCPTRACE_BPF_TOOLCHAIN` names another one.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

const OVERRIDE: &str = "TCPTRACE_BPF_TOOLCHAIN";
const PREBUILT: &str = "bpf";

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    println!("cargo:rerun-if-changed=../tcptrace-ebpf/src");
    println!("cargo:rerun-if-changed=../tcptrace-common/src");
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?)
        .join("../tcptrace-ebpf")
        .into_os_string()
        .into_string()
        .ok()
        .context("the path of the checkout is not UTF-8")?;
    let package = Package { name: "tcptrace-ebpf", root_dir: &root, ..Package::default() };
    let named = env::var(OVERRIDE).ok();
    let toolchain = match &named {
        Some(name) => Toolchain::Custom(name),
        None if has_core_sources("nightly") => Toolchain::Nightly,
        None if sysroot(PREBUILT).is_some() => Toolchain::Custom(PREBUILT),
        None => bail!(
            "no toolchain here can compile for BPF (nightly with rust-src, or one named `{PREBUILT}`); \
             run `cargo xtask setup`, which installs one"
        ),
    };
    if matches!(toolchain, Toolchain::Custom(name) if !has_core_sources(name)) {
        // A crate name in place of `1`: aya-build then takes the prebuilt core, and only the crate
        // that needs an unstable feature gets it.
        // SAFETY: this program has one thread.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf") };
    }
    // aya-build shows each line of the inner cargo as a warning, so the inner cargo is kept quiet.
    // SAFETY: as above.
    unsafe {
        env::set_var("CARGO_TERM_QUIET", "true");
        env::set_var("RUSTUP_LOG", "warn");
    }
    build_ebpf([package], toolchain)
}

/// Returns the folder of a rustup toolchain, if it is installed.
fn sysroot(toolchain: &str) -> Option<String> {
    let output =
        Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().to_owned())
}

/// Whether a toolchain can build `core` itself (rustup component rust-src).
fn has_core_sources(toolchain: &str) -> bool {
    sysroot(toolchain).is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core").is_dir())
}
