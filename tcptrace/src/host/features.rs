//! Which kernel features are in use, and for each that is not, why: the `sources` of the `start` record.

use std::fmt::Display;

use crate::events::KernelFeature;

/// Why a feature is not in use that the user turned off.
pub(crate) const TURNED_OFF: &str = "turned off by --without";

/// Why a feature is not in use that has nothing to do in this run.
pub(crate) const NOT_NEEDED: &str = "not needed by --once";

/// Why a feature is not in use that only other views have something to do for.
pub(crate) const NOT_SHOWN: &str = "not needed by these views";

/// A kernel feature that tcptrace builds on where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Feature {
    /// The tracepoint `sock:inet_sock_set_state` as a BTF-typed program. Without it, nothing else here can be.
    #[value(name = "btf")]
    TpBtf,
    /// Walking the sockets of a network namespace.
    #[value(skip)]
    IterTcp,
    /// `bpf_get_socket_cookie` in tracing programs: identities that `ss -e` shows too.
    Cookie,
    /// Walking all descriptors with `bpf_sock_from_file`: holders in one pass.
    TaskFile,
    /// `bpf_sk_storage_get` in tracing programs: who connected a socket, kept with the socket.
    Storage,
    /// A program at accept(2), which needs BPF trampolines: who accepted a socket.
    Accept,
    /// A program where the kernel puts a stand-in in a socket's place, which needs BPF trampolines: TIME_WAIT.
    TimeWait,
    /// Entering other network namespaces (CAP_SYS_ADMIN): also the sockets there that no process holds.
    #[value(skip)]
    SetNs,
    /// Other users' processes in `/proc` (CAP_SYS_PTRACE; where holders are found there, CAP_DAC_READ_SEARCH).
    #[value(skip)]
    Proc,
}

impl Feature {
    /// Its name in the `start` record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf/inet_sock_set_state",
            Self::IterTcp => "iter/tcp",
            Self::Cookie => "socket_cookie",
            Self::TaskFile => "iter/task_file",
            Self::Storage => "sk_storage",
            Self::Accept => "fentry/security_sock_graft",
            Self::TimeWait => "fentry/tcp_time_wait",
            Self::SetNs => "setns",
            Self::Proc => "/proc/PID",
        }
    }
}

/// Whether a feature is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureStatus {
    /// The feature.
    pub feature: Feature,
    /// Why it is not in use; `None` where it is.
    pub unavailable_reason: Option<String>,
}

impl FeatureStatus {
    /// It is.
    pub(crate) const fn used(feature: Feature) -> Self {
        Self { feature, unavailable_reason: None }
    }

    /// It is not.
    pub(crate) fn unused(feature: Feature, why: impl Display) -> Self {
        Self { feature, unavailable_reason: Some(why.to_string()) }
    }

    /// Whether it would be in use if this run had anything for it to do.
    pub fn is_lacking(&self) -> bool {
        self.unavailable_reason.as_deref().is_some_and(|why| ![NOT_NEEDED, NOT_SHOWN].contains(&why))
    }

    /// Whether it is.
    pub const fn in_use(&self) -> bool {
        self.unavailable_reason.is_none()
    }
}

/// As the `start` record has it.
impl From<&FeatureStatus> for KernelFeature {
    fn from(source: &FeatureStatus) -> Self {
        let why_not = source.unavailable_reason.clone();
        Self { name: source.feature.name().into(), in_use: source.in_use(), why_not }
    }
}
