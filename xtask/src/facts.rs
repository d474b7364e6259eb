//! What this machine has of what building for BPF needs: looks, and changes nothing.
//!
//! What follows from these facts is decided in `plan.rs`.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    packages::{EXPECTED_LLVM, PACKAGES},
    shell, tools,
};

/// The variable with which a user names the toolchain for BPF; `tcptrace/build.rs` obeys it.
pub(crate) const TOOLCHAIN_OVERRIDE: &str = "TCPTRACE_BPF_TOOLCHAIN";
/// The rustup toolchain that is linked to Debian's rustc; `tcptrace/build.rs` looks for it.
pub(crate) const LINKED_TOOLCHAIN: &str = "bpf";
/// Where every distribution has it.
const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";
/// The oldest rustc that compiles the workspace (`rust-version` in Cargo.toml).
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// What is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The toolchain that the user names, if any.
    pub(crate) named: Option<Named>,
    /// rustup, if it is there.
    pub(crate) rustup: Option<Rustup>,
    /// The rustc on PATH, looked at only where rustup isn't there.
    pub(crate) path_rustc: Option<Compiler>,
    /// bpf-linker, if it is there.
    pub(crate) linker: Option<Linker>,
    /// Every LLVM that bpf-linker could be built with.
    pub(crate) llvms: Vec<Llvm>,
    /// apt, if it is there.
    pub(crate) apt: Option<Apt>,
    /// Whether `cc` is there.
    pub(crate) cc: bool,
    /// Whether `ss`, `ip`, `jq`, `systemd-cat` and journald are there.
    pub(crate) test_tools: bool,
    /// Whether there is an rsyslogd for the tests.
    pub(crate) rsyslog: bool,
    /// Whether promtool is there.
    pub(crate) promtool: bool,
    /// Whether DuckDB is there.
    pub(crate) duckdb: bool,
    /// Whether pip is there; looked at only where DuckDB isn't.
    pub(crate) pip: bool,
    /// Whether QEMU and what unpacks kernels are there.
    pub(crate) guest_tools: bool,
}

impl Facts {
    /// Whether no compiler for BPF is there, and none is named.
    pub(crate) fn lacks_compiler(&self) -> bool {
        let rustup = self.rustup.as_ref();
        let nightly = rustup.and_then(|rustup| rustup.nightly);
        let linked = rustup.and_then(|rustup| rustup.linked);
        let mut here = [nightly, linked, self.path_rustc].into_iter().flatten();
        self.named.is_none() && !here.any(Compiler::suffices)
    }
}

/// The toolchain of [`TOOLCHAIN_OVERRIDE`].
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its name.
    pub(crate) name: String,
    /// Its rustc, if that runs.
    pub(crate) rustc: Option<Compiler>,
}

/// What rustup has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rustup {
    /// The rustc of the toolchain `nightly`.
    pub(crate) nightly: Option<Compiler>,
    /// The rustc of the toolchain [`LINKED_TOOLCHAIN`].
    pub(crate) linked: Option<Compiler>,
    /// Whether `rustup run` of the linked toolchain finds a cargo: its own, or that of one of three channels.
    pub(crate) cargo_for_linked: bool,
}

/// What a rustc can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The version of its LLVM.
    pub(crate) llvm: u32,
    /// It has the sources of `core`, and as a nightly it may build that itself.
    pub(crate) builds_core: bool,
    /// It has `core` compiled for BPF.
    pub(crate) has_core: bool,
}

impl Compiler {
    /// Whether it can compile a BPF program.
    pub(crate) fn suffices(self) -> bool {
        self.builds_core || self.has_core
    }
}

/// An installed bpf-linker.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The version of its LLVM; nothing if that is linked statically.
    pub(crate) llvm: Option<u32>,
}

/// An installed LLVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Llvm {
    /// Its version.
    pub(crate) major: u32,
    /// The directory it is in.
    pub(crate) prefix: PathBuf,
}

/// What apt knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apt {
    /// Which of the packages we use are installed.
    pub(crate) installed: BTreeSet<String>,
    /// Whether the package lists offer a rustc for BPF that is new enough; looked at only where none is there.
    pub(crate) offers_compiler: bool,
}

/// Looks at the machine.
pub(crate) fn gather() -> Facts {
    let rustup = shell::find("rustup").map(|_| rustup());
    let named = env::var(TOOLCHAIN_OVERRIDE).ok().map(|name| {
        let rustc = if rustup.is_some() { toolchain_rustc(&name) } else { path_rustc() };
        Named { name, rustc }
    });
    let path_rustc = if rustup.is_none() { path_rustc() } else { None };
    let apt = shell::find("apt-get").map(|_| Apt { installed: installed_packages(), offers_compiler: false });
    let duckdb = tools::has("duckdb") || shell::find("duckdb").is_some();
    let mut facts = Facts {
        named,
        rustup,
        path_rustc,
        linker: linker(),
        llvms: llvms(),
        cc: shell::find("cc").is_some(),
        test_tools: ["ss", "ip", "jq", "systemd-cat"].into_iter().all(|tool| shell::find(tool).is_some())
            && Path::new(JOURNALD).is_file(),
        // Where there is apt it is unpacked for the tests: the host's own may be kept from reading their files.
        rsyslog: tools::has("rsyslogd") || (apt.is_none() && shell::find("rsyslogd").is_some()),
        promtool: tools::has("promtool") || shell::find("promtool").is_some(),
        duckdb,
        pip: !duckdb && tools::has_pip(),
        apt,
        guest_tools: ["qemu-system-x86_64", "lz4", "zstd", "xz"]
            .into_iter()
            .all(|tool| shell::find(tool).is_some()),
    };
    // apt takes a second to answer this, so it is asked only where that matters.
    let lacks_compiler = facts.lacks_compiler();
    if let Some(apt) = &mut facts.apt {
        apt.offers_compiler = lacks_compiler && offers_compiler();
    }
    facts
}

fn rustup() -> Rustup {
    let list = shell::output(shell::rustup().args(["toolchain", "list"])).unwrap_or_default();
    let listed = |channel| list.lines().any(|line| is_channel(line, channel));
    Rustup {
        nightly: if listed("nightly") { toolchain_rustc("nightly") } else { None },
        linked: if listed(LINKED_TOOLCHAIN) { toolchain_rustc(LINKED_TOOLCHAIN) } else { None },
        cargo_for_linked: Path::new("/usr/bin/cargo").is_file()
            || ["nightly", "beta", "stable"].into_iter().any(listed),
    }
}

/// Whether a line of `rustup toolchain list` is about `channel` itself, not about one of its dated versions.
fn is_channel(line: &str, channel: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    name.strip_prefix(channel).is_some_and(|rest| {
        let host = rest.strip_prefix('-').unwrap_or(rest);
        rest.is_empty()
            || (host.len() < rest.len() && !host.starts_with(|first: char| first.is_ascii_digit()))
    })
}

fn toolchain_rustc(toolchain: &str) -> Option<Compiler> {
    compiler(|| {
        let mut rustc = shell::rustup();
        rustc.args(["run", toolchain, "rustc"]);
        rustc
    })
}

fn path_rustc() -> Option<Compiler> {
    compiler(|| shell::command("rustc"))
}

fn compiler(rustc: impl Fn() -> Command) -> Option<Compiler> {
    let version = shell::output(rustc().arg("-vV"))?;
    let sysroot = PathBuf::from(shell::output(rustc().args(["--print", "sysroot"]))?);
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let libraries = sysroot.join("lib/rustlib").join(target).join("lib");
    Some(Compiler {
        llvm: llvm_of_rustc(&version)?,
        builds_core: version.contains("-nightly")
            && sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
        has_core: has_file(&libraries, |name| name.starts_with("libcore-") && name.ends_with(".rlib")),
    })
}

fn llvm_of_rustc(version: &str) -> Option<u32> {
    leading_number(version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?)
}

fn linker() -> Option<Linker> {
    let path = shell::find("bpf-linker")?;
    // One that doesn't run, because its LLVM was upgraded away, counts as missing.
    shell::output(shell::command(&path).arg("--version"))?;
    let libraries = shell::output(shell::command("ldd").arg(&path)).unwrap_or_default();
    Some(Linker { path, llvm: llvm_of_linker(&libraries) })
}

fn llvm_of_linker(libraries: &str) -> Option<u32> {
    let (_, name) = libraries.split_once("libLLVM")?;
    leading_number(name.trim_start_matches(['.', '-']).trim_start_matches("so."))
}

/// Where distributions put LLVM, and the one the user points to.
fn llvms() -> Vec<Llvm> {
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from).and_then(|prefix| {
        let version = shell::output(shell::command(prefix.join("bin/llvm-config")).arg("--version"))?;
        Some(Llvm { major: leading_number(&version)?, prefix })
    });
    let usual = (EXPECTED_LLVM - 1..=EXPECTED_LLVM + 1).flat_map(|major| {
        [format!("/usr/lib/llvm-{major}"), format!("/usr/lib64/llvm{major}"), format!("/usr/lib/llvm{major}")]
            .map(|prefix| Llvm { major, prefix: prefix.into() })
    });
    // The library under its plain name is what linking with it needs; the packages to run things lack it.
    let usable = |llvm: &Llvm| has_file(&llvm.prefix.join("lib"), |name| name == "libLLVM.so");
    named.into_iter().chain(usual.filter(usable)).collect()
}

fn installed_packages() -> BTreeSet<String> {
    let llvms = EXPECTED_LLVM - 1..=EXPECTED_LLVM + 1;
    let names: BTreeSet<_> =
        llvms.flat_map(|llvm| PACKAGES.iter().map(move |package| package.name(llvm))).collect();
    let mut query = shell::command("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"]).args(names);
    // It fails when one of them is unknown, having listed the others.
    let list = query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    installed(&list.unwrap_or_default())
}

fn installed(list: &str) -> BTreeSet<String> {
    let names = list.lines().filter_map(|line| line.strip_prefix("ii"));
    names.map(|name| name.trim().to_owned()).collect()
}

fn offers_compiler() -> bool {
    let policy =
        |package| shell::output(shell::command("apt-cache").args(["policy", package])).unwrap_or_default();
    is_new_enough(&policy("rustc-web")) && candidate(&policy("libstd-rust-web-dev-bpf")).is_some()
}

fn is_new_enough(policy: &str) -> bool {
    let version = candidate(policy).and_then(|version| {
        let (major, rest) = version.split_once('.')?;
        Some((leading_number(major)?, leading_number(rest)?))
    });
    version.is_some_and(|version| version >= OLDEST_RUSTC)
}

/// The version that `apt-get install` would take.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

fn has_file(directory: &Path, is_it: impl Fn(&str) -> bool) -> bool {
    fs::read_dir(directory)
        .is_ok_and(|entries| entries.flatten().any(|entry| is_it(&entry.file_name().to_string_lossy())))
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_nightly_is_not_nightly() {
        assert!(is_channel("nightly-x86_64-unknown-linux-gnu (default)", "nightly"));
        assert!(is_channel("bpf", "bpf"));
        assert!(is_channel("nightly", "nightly"));
        assert!(!is_channel("nightly-2026-01-01-x86_64-unknown-linux-gnu", "nightly"));
        assert!(!is_channel("bpfel", "bpf"));
        assert!(!is_channel("1.95.0-x86_64-unknown-linux-gnu", "stable"));
    }

    #[test]
    fn llvm_versions_are_read() {
        let version = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8";
        assert_eq!(llvm_of_rustc(version), Some(22));
        assert_eq!(llvm_of_rustc("rustc 1.96.0"), None);
        assert_eq!(
            llvm_of_linker("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)"),
            Some(22)
        );
        assert_eq!(llvm_of_linker("\tlibLLVM-17.so.1 => /usr/lib/libLLVM-17.so.1 (0x7f)"), Some(17));
        assert_eq!(llvm_of_linker("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"), None);
    }

    #[test]
    fn only_whole_packages_count_as_installed() {
        let list = "ii  iproute2\nrc  rustc-web\nun  llvm-22-dev\nii  zlib1g-dev\n";
        assert_eq!(installed(list), BTreeSet::from(["iproute2".into(), "zlib1g-dev".into()]));
    }

    #[test]
    fn an_old_or_missing_rustc_is_no_offer() {
        let policy = |version| format!("rustc-web:\n  Installed: (none)\n  Candidate: {version}\n");
        assert!(is_new_enough(&policy("1.96.0+dfsg1-1~deb12u2")));
        assert!(is_new_enough(&policy("2.0.0-1")));
        assert!(!is_new_enough(&policy("1.85.0+dfsg3-1~deb12u3")));
        assert!(!is_new_enough(&policy("(none)")));
        assert!(!is_new_enough(""));
    }
}
