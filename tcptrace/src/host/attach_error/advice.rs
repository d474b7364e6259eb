//! Explains an [`AttachError`] to users: why what is missing is needed, and what to do.

use crate::host::attach_error::AttachError;

impl AttachError {
    /// Says what is missing, why it is needed and what to do, on a line each.
    pub fn explanation(&self) -> String {
        format!("{self}\n  why:  {}\n  do:   {}", self.cause_text(), self.remedy_text())
    }

    const fn cause_text(&self) -> &'static str {
        match self {
            Self::NotPrivileged { .. } => {
                "loading the BPF programs that see the sockets takes CAP_BPF and CAP_PERFMON; entering other \
                 network namespaces takes CAP_SYS_ADMIN, and reading other users' processes CAP_SYS_PTRACE"
            }
            Self::NoProc => "tcptrace finds processes and their network namespaces there",
            Self::UserNamespace => {
                "the kernel lets only the host's root load BPF programs, and a user namespace has a root of its own"
            }
            Self::OtherProc | Self::PidNamespace => {
                "the kernel names processes by the host's pids; few of those processes are visible from here, and \
                 sockets would be shown without the processes that hold them"
            }
            Self::TimeNamespace(_) => {
                "the kernel stamps state changes with the host's clock; by the clock of this namespace all ages and \
                 times would be wrong"
            }
            Self::NoBtf(_) | Self::BadBtf(_) | Self::UnknownLayout(_) => {
                "the BPF programs read sockets at the offsets that the running kernel gives there"
            }
            Self::NoEvent { .. } => {
                "without type information, state changes can only be read from the event \
                 sock:inet_sock_set_state in tracefs"
            }
            Self::NoBpf | Self::Forbidden => "a BPF program in the kernel sees every state change",
            Self::NoRingBuffer(_) => "a ring buffer carries the state changes to user space",
            Self::Program { .. } => "tcptrace sees the state changes of sockets by it",
            Self::Shortage { .. } => {
                "loading the BPF programs and walking sockets takes descriptors, threads and memory"
            }
            Self::Setup(_) => "tcptrace cannot trace before this works",
        }
    }

    const fn remedy_text(&self) -> &'static str {
        match self {
            Self::NotPrivileged { .. } => {
                "run it as root: `sudo tcptrace …`; or let others run it: `setcap \
                 cap_bpf,cap_perfmon,cap_sys_admin,cap_sys_ptrace,cap_dac_read_search=ep $(which tcptrace)`"
            }
            Self::NoProc => {
                "mount it: `mount -t proc proc /proc`; in a service, do not set ProcSubset= or \
                 TemporaryFileSystem= for it"
            }
            Self::OtherProc => {
                "mount the one of this pid namespace: `mount -t proc proc /proc`; with nsenter, enter all \
                 namespaces of the host's first process: `nsenter -t 1 -a tcptrace …`"
            }
            Self::UserNamespace => {
                "run it on the host: `sudo tcptrace …`; or in a container that the host's root starts without a \
                 user namespace (Docker: --privileged --pid=host --userns=host; Kubernetes: privileged: true, \
                 hostPID: true, and not hostUsers: false)"
            }
            Self::PidNamespace => {
                "run it on the host: `sudo tcptrace …`; or in a container that shares the host's pid namespace \
                 (Docker and podman, as root: --privileged --pid=host; Kubernetes: privileged: true, hostPID: true)"
            }
            Self::TimeNamespace(_) => {
                "start it in the host's time namespace: `nsenter -t 1 -T tcptrace …`; or grant it CAP_SYS_ADMIN \
                 and CAP_SYS_PTRACE, with which it can leave its own"
            }
            Self::NoBtf(_) => {
                "mount /sys, or run a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, RHEL 8.2 \
                 and later have one)"
            }
            Self::BadBtf(_) | Self::UnknownLayout(_) | Self::Program { .. } => {
                "report this with the output of `uname -r`; a newer tcptrace may know this kernel"
            }
            Self::NoEvent { .. } => {
                "mount tracefs (`mount -t tracefs tracefs /sys/kernel/tracing`) and, if not root, grant \
                 CAP_DAC_READ_SEARCH to read it; or run a kernel with BTF"
            }
            Self::NoBpf => "run a kernel built with CONFIG_BPF_SYSCALL=y",
            Self::NoRingBuffer(_) => "run Linux 5.8 or later",
            Self::Forbidden => {
                "check the container's seccomp profile (Docker: --privileged, or --cap-add with \
                 --security-opt seccomp=unconfined), kernel lockdown (/sys/kernel/security/lockdown) or, before \
                 Linux 5.11, the limit of locked memory (CAP_SYS_RESOURCE, or `LimitMEMLOCK=infinity` in a \
                 systemd unit)"
            }
            Self::Shortage { shortage, .. } => shortage.remedy(),
            Self::Setup(_) => "fix the cause that the first line names",
        }
    }
}
