//! A journal of its own for the calling thread and the processes that it starts: systemd's
//! journald, as it serves a service with `LogNamespace=`, where they look for the host's. The
//! host's own journal is out of sight.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::process::{Process, poll_until};

const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";
/// Keeps the journal in memory, and forwards nothing.
const CONFIGURATION: &str = "[Journal]\nStorage=volatile\nForwardToWall=no\n";

/// A running journald; dropping it ends it. The thread keeps its view of the file system.
#[derive(Debug)]
pub struct Journal(#[expect(dead_code, reason = "what counts is that it runs")] Process);

impl Journal {
    /// Starts journald for the calling thread.
    ///
    /// # Panics
    /// If this process is not root, or systemd is not installed.
    #[expect(clippy::new_without_default, reason = "it starts a process: nothing for a default")]
    pub fn new() -> Self {
        leave_the_mounts().expect("unshare(CLONE_NEWNS): these tests run as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("root may");
        for folder in ["/run", "/var/log/journal"].into_iter().filter(|folder| Path::new(folder).is_dir()) {
            mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).expect("root may mount");
        }
        let name = "tcptrace-test";
        let sockets = format!("/run/systemd/journal.{name}");
        let configuration = format!("/run/systemd/journald@{name}.conf.d");
        for folder in [&sockets, &configuration, "/run/systemd/journal"] {
            fs::create_dir_all(folder).expect("it is in memory");
        }
        fs::write(format!("{configuration}/test.conf"), CONFIGURATION).expect("it is in memory");
        let mut journald = Command::new(JOURNALD);
        let journald = Process::spawn(journald.arg(name).stdin(Stdio::null()).stderr(Stdio::null()));
        let logs = format!("/run/log/journal/{}", machine());
        let is_there = |path: String| Path::new(&path).exists().then_some(());
        poll_until("journald to listen", || is_there(format!("{sockets}/stdout")));
        poll_until("journald to keep a journal", || is_there(format!("{logs}.{name}/system.journal")));
        fs::create_dir_all(&logs).expect("it is in memory");
        mount_bind(&*sockets, "/run/systemd/journal").expect("root may mount");
        mount_bind(format!("{logs}.{name}"), &logs).expect("root may mount");
        Self(journald)
    }
}

fn machine() -> String {
    fs::read_to_string("/etc/machine-id").expect("systemd is installed").trim().to_owned()
}

fn leave_the_mounts() -> io::Result<()> {
    // SAFETY: unshare(2) with this flag changes nothing but what the calling thread sees mounted,
    // and gives it a working directory of its own.
    match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
