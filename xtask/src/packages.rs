//! Which Debian packages this project uses, and what for. Data only; `plan.rs` says when they are needed.

/// What a package is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A rustc that has `core` for BPF.
    Compiler,
    /// A cargo for that rustc, where rustup has none to lend.
    Cargo,
    /// Building bpf-linker.
    Linker,
    /// The linker of the host.
    Host,
    /// What the kernel tests compare tcptrace with, set the scene with, and send its output through.
    Tests,
    /// rsyslog with its libraries, which is unpacked and not installed (`tools.rs`).
    Rsyslog,
    /// promtool, which is unpacked and not installed (`tools.rs`).
    Promtool,
    /// Fetching what PyPI has.
    Pip,
    /// The guests of the kernel matrix, and unpacking their kernels.
    Guests,
}

/// A Debian package.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name, in which `{llvm}` stands for the LLVM version that bpf-linker is built with.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) need: Need,
    /// Why it is needed, to follow "NAME: ".
    pub(crate) why: &'static str,
}

/// The LLVM version of Debian's `rustc-web`, for the time before that can be asked.
pub(crate) const EXPECTED_LLVM: u32 = 22;

/// All packages, in the order in which they are reported.
pub(crate) const PACKAGES: [Package; 21] = [
    Package { name: "gcc", need: Need::Host, why: "`cc`, with which cargo links every program" },
    Package {
        name: "rustc-web",
        need: Need::Compiler,
        why: "a rustc as new as the libraries here ask for; it stands beside rustup's",
    },
    Package {
        name: "libstd-rust-web-dev-bpf",
        need: Need::Compiler,
        why: "that rustc's `core`, compiled for BPF",
    },
    Package { name: "cargo-web", need: Need::Cargo, why: "a cargo for that rustc; rustup has none to lend" },
    Package { name: "llvm-{llvm}-dev", need: Need::Linker, why: "the LLVM that bpf-linker is linked with" },
    Package { name: "libpolly-{llvm}-dev", need: Need::Linker, why: "a part of that LLVM" },
    Package { name: "libzstd-dev", need: Need::Linker, why: "a library that LLVM uses" },
    Package { name: "zlib1g-dev", need: Need::Linker, why: "a library that LLVM uses" },
    Package {
        name: "iproute2",
        need: Need::Tests,
        why: "`ss` and `ip`: the kernel tests check tcptrace against ss",
    },
    Package { name: "jq", need: Need::Tests, why: "docs/pipelines.md has recipes for it, which are tested" },
    Package {
        name: "systemd",
        need: Need::Tests,
        why: "systemd-cat and journald: docs/pipelines.md is tested with them",
    },
    Package {
        name: "rsyslog",
        need: Need::Rsyslog,
        why: "docs/pipelines.md is tested with it; unpacked, not installed",
    },
    Package { name: "libestr0", need: Need::Rsyslog, why: "a library of rsyslog" },
    Package { name: "libfastjson4", need: Need::Rsyslog, why: "a library of rsyslog" },
    Package { name: "liblognorm5", need: Need::Rsyslog, why: "a library of rsyslog" },
    Package {
        name: "prometheus",
        need: Need::Promtool,
        why: "promtool: the alert rules in docs are tested with it; unpacked, not installed",
    },
    Package {
        name: "python3-pip",
        need: Need::Pip,
        why: "fetches DuckDB, with which docs/pipelines.md is tested",
    },
    Package {
        name: "qemu-system-x86",
        need: Need::Guests,
        why: "boots other kernels, to run the kernel tests there",
    },
    Package { name: "lz4", need: Need::Guests, why: "unpacks some of those kernels" },
    Package { name: "zstd", need: Need::Guests, why: "unpacks some of those kernels" },
    Package { name: "xz-utils", need: Need::Guests, why: "unpacks some of those kernels, and modules" },
];

impl Package {
    /// The name for a given LLVM version.
    pub(crate) fn name(&self, llvm: u32) -> String {
        self.name.replace("{llvm}", &llvm.to_string())
    }
}
