//! Why a host cannot be traced: what is missing, why it is needed, what to do. Exit status 3.

use std::{error::Error, fmt, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use tcptrace_common::names::maps;

use crate::host::{bpf::offsets::NoSuchField, shortage::Shortage};

/// Where the kernel shows its own type information (`CONFIG_DEBUG_INFO_BTF`).
pub(crate) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// This host cannot be traced.
#[derive(Debug)]
pub enum AttachError {
    /// Not root, and without what could stand for it.
    NotPrivileged {
        /// The capabilities that are missing, by their names in capabilities(7).
        missing: Vec<&'static str>,
    },
    /// /proc is not there.
    NoProc,
    /// /proc is that of a pid namespace that this process is not in.
    OtherProc,
    /// In another user namespace than the host's: what capabilities are held there are of no use.
    UserNamespace,
    /// In another pid namespace than the host's.
    PidNamespace,
    /// In another time namespace than the host's, which could not be left.
    TimeNamespace(io::Error),
    /// No type information to read struct offsets from.
    NoBtf(io::Error),
    /// Type information that could not be understood.
    BadBtf(String),
    /// A field that every known kernel has is not where it should be.
    UnknownKernel(NoSuchField),
    /// bpf(2) is not there at all.
    NoBpf,
    /// The kernel has no ring buffers (before Linux 5.8).
    NoRingBuffer(io::Error),
    /// bpf(2) is forbidden although the capabilities are there.
    Forbidden,
    /// The kernel's verifier or its tracepoint would not take the program.
    Program {
        /// Its name in the BPF object.
        name: &'static str,
        /// What the kernel said.
        said: String,
    },
    /// No type information, and no event to read instead.
    NoEvent {
        /// Why there is no type information.
        why: String,
        /// Why there is no event.
        said: String,
    },
    /// This process or the host has run out of something.
    Short {
        /// What could not be done.
        what: String,
        /// What has run out.
        shortage: Shortage,
    },
    /// Anything else that failed while setting up.
    Setup(String),
}

impl AttachError {
    /// What is missing.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::NotPrivileged { missing } => {
                format!("no permission to trace this kernel: {} missing", missing.join(", "))
            }
            Self::NoProc => "/proc is not mounted".to_owned(),
            Self::OtherProc => "/proc shows the processes of another pid namespace".to_owned(),
            Self::UserNamespace => "tcptrace runs in a user namespace, as in a rootless container".to_owned(),
            Self::PidNamespace => "tcptrace runs in a pid namespace, as in a container".to_owned(),
            Self::TimeNamespace(error) => {
                format!("tcptrace runs in a time namespace and cannot leave it: {error}")
            }
            Self::NoBtf(error) => format!("no kernel type information: {BTF_PATH}: {error}"),
            Self::BadBtf(said) => format!("unreadable kernel type information: {BTF_PATH}: {said}"),
            Self::UnknownKernel(field) => format!("this kernel is laid out in an unknown way: {field}"),
            Self::NoBpf => "this kernel has no bpf(2)".to_owned(),
            Self::NoRingBuffer(error) => format!("this kernel has no BPF ring buffer: {error}"),
            Self::Forbidden => {
                "bpf(2) is forbidden here although the capabilities for it are there".to_owned()
            }
            Self::Program { name, said } => format!("the kernel refused the BPF program `{name}`: {said}"),
            Self::NoEvent { why, said } => format!("{why}; nor is there an event to read: {said}"),
            Self::Short { what, shortage } => format!("{what}: {shortage}"),
            Self::Setup(said) => said.clone(),
        }
    }

    /// Why it is needed.
    const fn why(&self) -> &'static str {
        match self {
            Self::NotPrivileged { .. } => {
                "loading the BPF programs that see the sockets takes CAP_BPF and CAP_PERFMON; entering other network \
                 namespaces takes CAP_SYS_ADMIN, and looking at other users' processes CAP_SYS_PTRACE"
            }
            Self::NoProc => "processes and their network namespaces are found there",
            Self::UserNamespace => {
                "the kernel loads BPF programs for the host's root only, and a user namespace has a root of its own"
            }
            Self::OtherProc | Self::PidNamespace => {
                "the kernel names processes by the host's pids; from here hardly any of them is seen, and sockets would be \
                 shown without the processes that hold them"
            }
            Self::TimeNamespace(_) => {
                "the kernel stamps state changes with the host's clock; by the clock of this namespace all ages and times \
                 would be wrong"
            }
            Self::NoBtf(_) | Self::BadBtf(_) | Self::UnknownKernel(_) => {
                "the BPF program reads sockets at the offsets that the running kernel gives there"
            }
            Self::NoEvent { .. } => {
                "where a kernel does not tell how it is laid out, state changes can only be read as tracefs's event \
                 sock:inet_sock_set_state"
            }
            Self::NoBpf => "every state change is seen by a BPF program in the kernel",
            Self::NoRingBuffer(_) => "state changes come to user space through one",
            Self::Forbidden => "every state change is seen by a BPF program in the kernel",
            Self::Program { .. } => "it is the one that sees the sockets' state changes",
            Self::Short { .. } => {
                "loading the BPF programs and walking sockets takes descriptors, threads and memory"
            }
            Self::Setup(_) => "nothing can be traced before it works",
        }
    }

    /// What to do.
    const fn remedy(&self) -> &'static str {
        match self {
            Self::NotPrivileged { .. } => {
                "run it as root: `sudo tcptrace …`; or let it be run by others: `setcap \
                 cap_bpf,cap_perfmon,cap_sys_admin,cap_sys_ptrace,cap_dac_read_search=ep $(which tcptrace)`"
            }
            Self::NoProc => {
                "mount it: `mount -t proc proc /proc`; in a service, do not set ProcSubset= or TemporaryFileSystem= for it"
            }
            Self::OtherProc => {
                "mount that of this pid namespace: `mount -t proc proc /proc`; with nsenter, enter all namespaces of the \
                 host's first process: `nsenter -t 1 -a tcptrace …`"
            }
            Self::UserNamespace => {
                "run it on the host: `sudo tcptrace …`; or in a container that the host's root starts without a user \
                 namespace (Docker: --privileged --pid=host --userns=host; Kubernetes: privileged: true, hostPID: true, and \
                 not hostUsers: false)"
            }
            Self::PidNamespace => {
                "run it on the host: `sudo tcptrace …`; or in a container that shares the host's pid namespace (Docker and \
                 podman, as root: --privileged --pid=host; Kubernetes: privileged: true, hostPID: true)"
            }
            Self::TimeNamespace(_) => {
                "start it in the host's: `nsenter -t 1 -T tcptrace …`; or let it leave: it takes CAP_SYS_ADMIN and \
                 CAP_SYS_PTRACE"
            }
            Self::NoBtf(_) => {
                "mount /sys, or run a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, RHEL 8.2 and later \
                 are)"
            }
            Self::BadBtf(_) | Self::UnknownKernel(_) | Self::Program { .. } => {
                "report this with the output of `uname -r`; a newer tcptrace may know this kernel"
            }
            Self::NoEvent { .. } => {
                "mount tracefs (`mount -t tracefs tracefs /sys/kernel/tracing`) and, if not root, have CAP_DAC_READ_SEARCH \
                 to read it; or run a kernel with BTF"
            }
            Self::NoBpf => "run a kernel built with CONFIG_BPF_SYSCALL=y",
            Self::NoRingBuffer(_) => "run Linux 5.8 or later",
            Self::Forbidden => {
                "look for a container's seccomp profile (Docker: --privileged, or --cap-add with \
                 --security-opt seccomp=unconfined), kernel lockdown (/sys/kernel/security/lockdown) or, before Linux 5.11, \
                 the limit of locked memory (CAP_SYS_RESOURCE, or `LimitMEMLOCK=infinity` in a systemd unit)"
            }
            Self::Short { shortage, .. } => shortage.remedy(),
            Self::Setup(_) => "see the message above",
        }
    }

    /// Whether it is only the kernel's structures that cannot be read: its event may still be.
    pub(crate) const fn leaves_the_event(&self) -> bool {
        matches!(self, Self::NoBtf(_) | Self::BadBtf(_) | Self::UnknownKernel(_) | Self::Program { .. })
    }

    /// What an error says if something has run out: the host may be able to do it then.
    pub(crate) fn short(what: impl fmt::Display, error: &(dyn Error + 'static)) -> Option<Self> {
        Shortage::of(error).map(|shortage| Self::Short { what: what.to_string(), shortage })
    }

    /// What an error of aya's says about the host.
    pub(crate) fn from_aya(error: EbpfError) -> Self {
        if let Some(short) = Self::short("cannot load the BPF object", &error) {
            return short;
        }
        match error {
            EbpfError::MapError(MapError::CreateError { name: map, io_error }) => {
                match io_error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::NOSYS) => Self::NoBpf,
                    Some(rustix::io::Errno::PERM) => Self::Forbidden,
                    Some(rustix::io::Errno::INVAL) if map == maps::TRANSITIONS || map == "AYA_LOGS" => {
                        Self::NoRingBuffer(io_error)
                    }
                    _ => Self::Setup(format!("cannot create the BPF map `{map}`: {io_error}")),
                }
            }
            other => Self::Setup(chain(&other)),
        }
    }

    /// What a refused program says about the host.
    pub(crate) fn from_program(name: &'static str, error: &ProgramError) -> Self {
        if let Some(short) = Self::short(format_args!("cannot load the BPF program `{name}`"), error) {
            return short;
        }
        Self::Program { name, said: brief(error) }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  why:  {}\n  do:   {}", self.what(), self.why(), self.remedy())
    }
}

impl Error for AttachError {}

/// A program's error in a line: what the system call returned and the verifier's last words.
pub(crate) fn brief(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let last = log.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_statistics(line));
        return match last {
            Some(line) => format!("{io_error}: {line}"),
            None => io_error.to_string(),
        };
    }
    chain(error)
}

/// Whether a line of the verifier's log only says what the verifying cost.
fn is_statistics(line: &str) -> bool {
    ["verification time", "stack depth", "processed "].iter().any(|start| line.starts_with(start))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn of_map(map: &str, errno: Errno) -> AttachError {
        let io_error = io::Error::from_raw_os_error(errno.raw_os_error());
        AttachError::from_aya(EbpfError::MapError(MapError::CreateError { name: map.to_owned(), io_error }))
    }

    #[test]
    fn what_a_refused_map_says_of_the_kernel() {
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
            for refusal in [of_map(maps::RING_FULL, errno), program] {
                let text = refusal.to_string();
                assert!(text.contains(named) && text.contains(remedy), "{text}");
                assert!(!text.contains("report this") && !refusal.leaves_the_event(), "{text}");
            }
            let unavailable_reason = AttachError::short("cannot start a thread", &io_error());
            assert!(unavailable_reason.is_some_and(|refusal| refusal.what().contains(named)));
        }
        assert!(AttachError::short("x", &io::Error::from_raw_os_error(Errno::PERM.raw_os_error())).is_none());
    }

    #[test]
    fn a_kernel_that_is_too_old_is_told_which_is_not() {
        let text = of_map(maps::TRANSITIONS, Errno::INVAL).to_string();
        for words in ["no BPF ring buffer", "why:", "do:", "Linux 5.8"] {
            assert!(text.contains(words), "nothing of {words}: {text}");
        }
        assert!(!of_map(maps::TRANSITIONS, Errno::INVAL).leaves_the_event(), "the event needs the ring too");
    }

    #[test]
    fn only_what_the_kernel_lays_out_differently_leaves_the_event() {
        assert!(AttachError::NoBtf(io::ErrorKind::NotFound.into()).leaves_the_event());
        assert!(AttachError::Program { name: "transition", said: String::new() }.leaves_the_event());
        assert!(!AttachError::NoBpf.leaves_the_event());
        assert!(!AttachError::Forbidden.leaves_the_event());
        assert!(!AttachError::NotPrivileged { missing: vec!["CAP_BPF"] }.leaves_the_event());
    }
}
