//! Why this host cannot be traced: what is missing, why it is needed, what to do. Exit status 3.

mod advice;

use std::{error::Error, fmt, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use rustix::io::Errno;
use tcptrace_common::names::maps;

use crate::host::{error_text, shortage::Shortage};

/// Where the kernel shows its own type information (`CONFIG_DEBUG_INFO_BTF`).
pub(crate) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// This host cannot be traced. The text of each variant says what is missing.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// This process is not root and lacks capabilities.
    #[error("no permission to trace this kernel: {} missing", .missing.join(", "))]
    NotPrivileged {
        /// The names of the missing capabilities, as in capabilities(7).
        missing: Vec<&'static str>,
    },
    /// `/proc` is not mounted.
    #[error("/proc is not mounted")]
    NoProc,
    /// `/proc` belongs to a pid namespace that this process is not in.
    #[error("/proc shows the processes of another pid namespace")]
    OtherProc,
    /// This process is not in the host's user namespace: its capabilities do not count.
    #[error("tcptrace runs in a user namespace, as in a rootless container")]
    UserNamespace,
    /// This process is not in the host's pid namespace.
    #[error("tcptrace runs in a pid namespace, as in a container")]
    PidNamespace,
    /// This process is in a time namespace other than the host's and could not leave it.
    #[error("tcptrace runs in a time namespace and cannot leave it: {0}")]
    TimeNamespace(io::Error),
    /// The kernel has no type information from which to read struct offsets.
    #[error("no kernel type information: {path}: {0}", path = BTF_PATH)]
    NoBtf(io::Error),
    /// The kernel's type information could not be parsed.
    #[error("unreadable kernel type information: {path}: {0}", path = BTF_PATH)]
    BadBtf(String),
    /// A field that every known kernel has was not found.
    #[error("this kernel is laid out in an unknown way: {0}")]
    UnknownLayout(String),
    /// The kernel does not have bpf(2).
    #[error("this kernel has no bpf(2)")]
    NoBpf,
    /// The kernel does not have ring buffers (before Linux 5.8).
    #[error("this kernel has no BPF ring buffer: {0}")]
    NoRingBuffer(io::Error),
    /// bpf(2) is forbidden although this process has the capabilities.
    #[error("bpf(2) is forbidden here although the capabilities for it are there")]
    Forbidden,
    /// The kernel refused to load or to attach a program.
    #[error("the kernel refused the BPF program `{name}`: {reason}")]
    Program {
        /// The program's name in the BPF object.
        name: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel has neither type information nor the event that stands in for it.
    #[error("{no_btf}; nor is there an event to read: {no_event}")]
    NoEvent {
        /// Why the type information cannot be used.
        no_btf: String,
        /// Why the event cannot be read.
        no_event: String,
    },
    /// This process or the host has run out of something.
    #[error("{action}: {shortage}")]
    Shortage {
        /// What could not be done.
        action: String,
        /// What has run out.
        shortage: Shortage,
    },
    /// Something else failed while setting up.
    #[error("{0}")]
    Setup(String),
}

impl AttachError {
    /// Whether tracing may still work without BTF: only the kernel's structures cannot be read.
    pub(crate) const fn permits_no_btf(&self) -> bool {
        matches!(self, Self::NoBtf(_) | Self::BadBtf(_) | Self::UnknownLayout(_) | Self::Program { .. })
    }

    /// Returns the shortage that caused an error of `action`, if one did.
    pub(crate) fn from_shortage(action: impl fmt::Display, error: &(dyn Error + 'static)) -> Option<Self> {
        Shortage::find_in(error).map(|shortage| Self::Shortage { action: action.to_string(), shortage })
    }

    /// Converts an I/O error of `action`.
    pub(crate) fn from_io(action: impl fmt::Display, error: &io::Error) -> Self {
        Self::from_shortage(&action, error).unwrap_or_else(|| Self::Setup(format!("{action}: {error}")))
    }

    /// Converts an error of loading the BPF object.
    pub(crate) fn from_object(error: EbpfError) -> Self {
        if let Some(short) = Self::from_shortage("cannot load the BPF object", &error) {
            return short;
        }
        match error {
            EbpfError::MapError(MapError::CreateError { name: map, io_error }) => {
                match io_error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOSYS) => Self::NoBpf,
                    Some(Errno::PERM) => Self::Forbidden,
                    Some(Errno::INVAL) if map == maps::TRANSITIONS || map == "AYA_LOGS" => {
                        Self::NoRingBuffer(io_error)
                    }
                    _ => Self::Setup(format!("cannot create the BPF map `{map}`: {io_error}")),
                }
            }
            other => Self::Setup(error_text::with_causes(&other)),
        }
    }

    /// Converts an error of loading or attaching the program `name`.
    pub(crate) fn from_program(name: &'static str, error: &ProgramError) -> Self {
        let action = format_args!("cannot load the BPF program `{name}`");
        Self::from_shortage(action, error)
            .unwrap_or_else(|| Self::Program { name, reason: error_text::of_program(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_map(map: &str, errno: Errno) -> AttachError {
        let io_error = io::Error::from_raw_os_error(errno.raw_os_error());
        AttachError::from_object(EbpfError::MapError(MapError::CreateError {
            name: map.to_owned(),
            io_error,
        }))
    }

    #[test]
    fn a_refused_map_tells_what_the_kernel_lacks() {
        assert!(matches!(of_map(maps::TRANSITIONS, Errno::INVAL), AttachError::NoRingBuffer(_)));
        assert!(matches!(of_map("AYA_LOGS", Errno::INVAL), AttachError::NoRingBuffer(_)));
        assert!(matches!(of_map(maps::RING_FULL, Errno::INVAL), AttachError::Setup(_)));
        assert!(matches!(of_map(maps::TRANSITIONS, Errno::NOSYS), AttachError::NoBpf));
        assert!(matches!(of_map(maps::TRANSITIONS, Errno::PERM), AttachError::Forbidden));
        assert!(matches!(of_map(maps::TRANSITIONS, Errno::BUSY), AttachError::Setup(_)));
    }

    #[test]
    fn a_shortage_is_not_taken_for_a_kernel_that_cannot_be_traced() {
        for (errno, named, remedy) in
            [(Errno::MFILE, "EMFILE", "ulimit -n"), (Errno::NOMEM, "ENOMEM", "memory.max")]
        {
            let io_error = || io::Error::from_raw_os_error(errno.raw_os_error());
            let call = aya::sys::SyscallError { call: "bpf_raw_tracepoint_open", io_error: io_error() };
            let program = AttachError::from_program("transition", &ProgramError::SyscallError(call));
            for error in [of_map(maps::RING_FULL, errno), program] {
                let text = error.explanation();
                assert!(text.contains(named) && text.contains(remedy), "{text}");
                assert!(!text.contains("report this") && !error.permits_no_btf(), "{text}");
            }
            let thread = AttachError::from_io("cannot start a thread", &io_error());
            assert!(thread.to_string().contains(named));
        }
        let other = io::Error::from_raw_os_error(Errno::PERM.raw_os_error());
        assert!(AttachError::from_shortage("x", &other).is_none());
    }

    #[test]
    fn a_kernel_that_is_too_old_is_told_which_is_not() {
        let text = of_map(maps::TRANSITIONS, Errno::INVAL).explanation();
        for words in ["no BPF ring buffer", "why:", "do:", "Linux 5.8"] {
            assert!(text.contains(words), "nothing of {words}: {text}");
        }
        assert!(!of_map(maps::TRANSITIONS, Errno::INVAL).permits_no_btf(), "that needs the ring too");
    }

    #[test]
    fn only_an_unreadable_layout_permits_tracing_without_btf() {
        assert!(AttachError::NoBtf(io::ErrorKind::NotFound.into()).permits_no_btf());
        let refused = AttachError::Program { name: "transition", reason: String::new() };
        assert!(refused.permits_no_btf());
        assert!(!AttachError::NoBpf.permits_no_btf());
        assert!(!AttachError::Forbidden.permits_no_btf());
        assert!(!AttachError::NotPrivileged { missing: vec!["CAP_BPF"] }.permits_no_btf());
    }
}
