//! What the engine has to ask about processes: only `/proc`, or a recording, knows it.

use std::sync::Arc;

use crate::{
    engine::{
        processes::{ProcessId, ProcessStats},
        walk::Named,
    },
    events::Owner,
};

/// What is known of a process beyond its pid. `None`: it could not be read, or does not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessDetails {
    /// Its pids in the namespaces within the host's (`NSpid` in `/proc/PID/status`,
    /// `pid_namespaces(7)`); `None` if it is in none.
    pub inner_pids: Option<Arc<[u32]>>,
    /// Its name (`/proc/PID/comm`), any bytes.
    pub comm: Option<Vec<u8>>,
    /// What a person would call it, from its executable and its arguments.
    pub program: Option<Arc<str>>,
    /// Its executable (`/proc/PID/exe`); bytes that are not UTF-8 are replaced.
    pub exe: Option<Arc<str>>,
    /// Its real user id (`/proc/PID/status`).
    pub uid: Option<u32>,
    /// Its cgroup (`/proc/PID/cgroup`): the unified one, or systemd's if that says nothing.
    pub cgroup: Option<Arc<str>>,
    /// Its systemd unit, taken from its cgroup's path.
    pub unit: Option<Arc<str>>,
    /// The id of its container, taken from its cgroup's path.
    pub container: Option<Arc<str>>,
    /// The uid of its Kubernetes pod, taken from its cgroup's path.
    pub pod: Option<Arc<str>>,
}

impl ProcessDetails {
    /// Whether what the process runs could not be read, and may be another time.
    pub const fn lacks_program(&self) -> bool {
        self.exe.is_some() && self.program.is_none()
    }
}

/// Answers questions about processes. Every answer may be missing: processes end meanwhile.
pub trait ProcessInfo {
    /// Describes a process that holds a descriptor now. `named` is what the kernel said of it
    /// while it was walked: if another process has the pid by now, nothing is known.
    fn holder_details(&self, pid: u32, named: Option<Named>) -> ProcessDetails;

    /// Describes the process that had this pid, and this name if one is given, at `at_ns`
    /// (`CLOCK_MONOTONIC`, nanoseconds).
    fn actor_details(&mut self, pid: u32, comm: Option<&[u8]>, at_ns: u64) -> Option<&ProcessDetails>;

    /// Describes the process that has had this pid since `since_ns`; both times are
    /// `CLOCK_MONOTONIC`, nanoseconds.
    fn opener_details(&mut self, pid: u32, since_ns: u64, now_ns: u64) -> Option<&ProcessDetails>;

    /// Identifies the process that has this pid, by what the kernel said of it if it did.
    fn process_id(&self, pid: u32, named: Option<Named>) -> ProcessId;

    /// Reads what a process is doing; `None` if it has ended.
    fn process_stats(&self, id: ProcessId) -> Option<ProcessStats>;

    /// Whether a process still runs.
    fn is_alive(&self, id: ProcessId) -> bool;

    /// Notes what an event says of a process: nothing else may know it.
    fn note_owner(&mut self, _owner: &Owner) {}
}
