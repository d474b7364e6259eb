//! Kernel features: which are in use, and why each other one is not (`sources` in `start`).

use std::fmt::Display;

use crate::events::KernelFeature;

/// The reason if the user turned a feature off.
pub(crate) const TURNED_OFF: &str = "turned off by --without";

/// The reason if a single look has no use for a feature.
pub(crate) const NOT_NEEDED: &str = "not needed by --once";

/// The reason if only other views have a use for a feature.
pub(crate) const NOT_SHOWN: &str = "not needed by these views";

/// A kernel feature that tcptrace uses if it is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Feature {
    /// The tracepoint `sock:inet_sock_set_state` as a BTF-typed program. Every other feature of
    /// BPF depends on it.
    #[value(name = "btf")]
    TpBtf,
    /// Iterating over the sockets of a network namespace.
    #[value(skip)]
    IterTcp,
    /// `bpf_get_socket_cookie` in tracing programs: the cookies that `ss -e` shows.
    Cookie,
    /// Iterating over all descriptors with `bpf_sock_from_file`: finds all holders in one pass.
    TaskFile,
    /// `bpf_sk_storage_get` in tracing programs: keeps the opener of a socket with the socket.
    Storage,
    /// A program at accept(2), which needs BPF trampolines: sees who accepts a socket.
    Accept,
    /// A program where the kernel replaces a socket by a timewait socket, which needs BPF
    /// trampolines: sees TIME_WAIT.
    TimeWait,
    /// Entering other network namespaces (`CAP_SYS_ADMIN`): finds also their sockets without
    /// holders.
    #[value(skip)]
    SetNs,
    /// Reading other users' processes in `/proc` (CAP_SYS_PTRACE; if holders are found there, also
    /// CAP_DAC_READ_SEARCH).
    #[value(skip)]
    Proc,
}

impl Feature {
    /// Returns its name in the `start` record.
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
    /// The feature that this is about.
    pub feature: Feature,
    /// Why it is not in use; `None` if it is.
    pub unavailable_reason: Option<String>,
}

impl FeatureStatus {
    /// Describes a feature that is in use.
    pub(crate) const fn available(feature: Feature) -> Self {
        Self { feature, unavailable_reason: None }
    }

    /// Describes a feature that is not in use.
    pub(crate) fn unavailable(feature: Feature, reason: impl Display) -> Self {
        Self { feature, unavailable_reason: Some(reason.to_string()) }
    }

    /// Describes a feature that is in use if `result` is `Ok`.
    pub(crate) fn from_result(feature: Feature, result: Result<(), String>) -> Self {
        Self { feature, unavailable_reason: result.err() }
    }

    /// Whether this run would use the feature if it could.
    pub fn is_lacking(&self) -> bool {
        self.unavailable_reason.as_deref().is_some_and(|reason| ![NOT_NEEDED, NOT_SHOWN].contains(&reason))
    }

    /// Whether the feature is in use.
    pub const fn in_use(&self) -> bool {
        self.unavailable_reason.is_none()
    }
}

/// Converts a status to its form in the `start` record.
impl From<&FeatureStatus> for KernelFeature {
    fn from(status: &FeatureStatus) -> Self {
        let why_not = status.unavailable_reason.clone();
        Self { name: status.feature.name().into(), in_use: status.in_use(), why_not }
    }
}

/// Whether `feature` is in use according to `statuses`.
pub(crate) fn is_used(statuses: &[FeatureStatus], feature: Feature) -> bool {
    statuses.iter().any(|status| status.feature == feature && status.in_use())
}
