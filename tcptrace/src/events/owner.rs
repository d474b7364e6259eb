//! A process that a socket is charged to.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::events::{Name, bounds};

/// A process that a socket is charged to, or that acted on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    /// The process (thread group), as the host's pid namespace numbers it.
    pub pid: u32,
    /// Its pids in the namespaces within the host's, as far as they were looked up.
    #[serde(skip)]
    pub inner_pids: Option<Arc<[u32]>>,
    /// Its descriptor of the socket; null if it was not found by a descriptor.
    pub fd: Option<u32>,
    /// The process's name (its first thread's); null if only another thread's is known.
    pub comm: Option<Name>,
    /// What a person would call it: an interpreter or a VM with the script, module, jar or main
    /// class that it runs (`python3 worker.py`, `java -jar app.jar`), else the base name of its
    /// executable; null as `exe` is. No other argument is told: arguments hold secrets.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub program: Option<Arc<str>>,
    /// `/proc/PID/exe`; null if the process has ended or may not be seen.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub exe: Option<Arc<str>>,
    /// Real user id, in the initial user namespace.
    pub uid: Option<u32>,
    /// Its path in `/proc/PID/cgroup`: in the unified hierarchy, or in systemd's if the unified
    /// one says nothing.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub cgroup: Option<Arc<str>>,
    /// Its systemd unit, taken from the cgroup's path: what `ps -o unit` shows. A process of a
    /// user's manager has the manager, `user@1000.service`. Null where it is in no unit.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub unit: Option<Arc<str>>,
    /// The id of its container, taken from the cgroup's path (Docker, containerd, CRI-O, podman,
    /// systemd-nspawn); null outside of containers.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub container: Option<Arc<str>>,
    /// The uid of its Kubernetes pod, taken from the cgroup's path; null outside of pods.
    #[serde(default, serialize_with = "bounds::text_or_null")]
    pub pod: Option<Arc<str>>,
    /// Whether a process filter asked for this owner.
    #[serde(skip)]
    pub is_requested: bool,
}

impl Owner {
    /// A process that acted on a socket some time ago. Its pid may be another process's by now, so
    /// nothing is looked up.
    pub const fn once(pid: u32) -> Self {
        Self {
            pid,
            inner_pids: None,
            fd: None,
            comm: None,
            program: None,
            exe: None,
            uid: None,
            cgroup: None,
            unit: None,
            container: None,
            pod: None,
            is_requested: false,
        }
    }

    /// Whether what the process runs could not be read, although its executable could.
    pub const fn lacks_program(&self) -> bool {
        self.exe.is_some() && self.program.is_none()
    }
}

/// How an owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OwnerHow {
    /// The process holds the socket open now.
    Fd,
    /// No process has accepted the socket yet: the owners hold its listener.
    Listener,
    /// The process connected or accepted the socket; nobody is known to hold it now.
    Origin,
    /// The process closed it.
    Close,
    /// No owner is known.
    None,
}

impl OwnerHow {
    /// The word that records use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fd => "fd",
            Self::Listener => "listener",
            Self::Origin => "origin",
            Self::Close => "close",
            Self::None => "none",
        }
    }
}
