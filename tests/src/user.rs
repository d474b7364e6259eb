//! Runs the tracer as an unprivileged user with chosen capabilities (capabilities(7)).

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::XattrFlags;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities,
};

use crate::{process::tracer_program, tracer::TracerCommand};

/// A user id that nobody else has.
pub const UID: u32 = 54_321;

/// A copy of the tracer that every user may run. Dropping it removes the copy.
#[derive(Debug)]
pub struct Copied(PathBuf);

impl Copied {
    /// Copies the tracer.
    ///
    /// # Panics
    /// If it cannot be copied.
    #[expect(clippy::new_without_default, reason = "it writes a file: nothing for a default")]
    pub fn new() -> Self {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("tcptrace-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder in the temporary one");
        let path = folder.join("tcptrace");
        fs::copy(tracer_program(), &path).expect("the tracer can be copied");
        for path in [&folder, &path] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        Self(folder)
    }

    /// Runs `command` as [`UID`] with these ambient capabilities, as a systemd unit's
    /// `AmbientCapabilities=` gives them, and no way to get others.
    #[must_use]
    pub fn run_by_user(&self, command: TracerCommand, held: CapabilitySet) -> TracerCommand {
        self.run_by_user_after(command, held, || Ok(()))
    }

    /// Runs `command` as [`UID`] without capabilities; the file of the copy has these, as
    /// setcap(8) gives them.
    ///
    /// # Errors
    /// If the file system does not store capabilities.
    pub fn run_with_file_capabilities(
        &self,
        command: TracerCommand,
        held: CapabilitySet,
    ) -> io::Result<TracerCommand> {
        // `struct vfs_cap_data`: revision 2 with the effective bit, then permitted and
        // inheritable, low words first.
        let [low, high] = [held.bits() & u64::from(u32::MAX), held.bits() >> 32]
            .map(|half| u32::try_from(half).expect("32 bits"));
        let data: Vec<u8> = [0x0200_0001, low, 0, high, 0].into_iter().flat_map(u32::to_le_bytes).collect();
        rustix::fs::setxattr(self.0.join("tcptrace"), "security.capability", &data, XattrFlags::empty())?;
        let mut command = self.run_copy(command);
        command.command.uid(UID).gid(UID);
        Ok(command)
    }

    /// Runs `command` as [`Self::run_by_user`] does, after `prepare` in that process as root.
    /// `prepare` may only make system calls.
    #[must_use]
    pub fn run_by_user_after(
        &self,
        mut command: TracerCommand,
        held: CapabilitySet,
        prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> TracerCommand {
        command = self.run_copy(command);
        // SAFETY: system calls and no more, as `prepare` is said to be.
        unsafe { command.command.pre_exec(move || prepare().and_then(|()| become_user(held))) };
        command
    }

    fn run_copy(&self, mut command: TracerCommand) -> TracerCommand {
        let mut copy = Command::new(self.0.join("tcptrace"));
        copy.args(command.command.get_args()).current_dir("/").env_remove("NO_COLOR");
        copy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.command = copy;
        command
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

/// Returns the capabilities of this process: a test can give no others.
///
/// # Panics
/// If the system refuses to say.
pub fn ours() -> CapabilitySet {
    capabilities(None).expect("this process is there").permitted
}

fn become_user(held: CapabilitySet) -> io::Result<()> {
    let each = || (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for other in each().filter(|capability| !held.contains(*capability)) {
        // Beyond the last one that the kernel knows: EINVAL.
        let _no_such_one = remove_capability_from_bounding_set(other);
    }
    set_keep_capabilities(true)?;
    // SAFETY: no groups, so no pointer is followed; the others have numbers for arguments.
    let done = unsafe {
        [libc::setgroups(0, std::ptr::null()), libc::setresgid(UID, UID, UID), libc::setresuid(UID, UID, UID)]
    };
    if done != [0; 3] {
        return Err(io::Error::last_os_error());
    }
    set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: held })?;
    for capability in each().filter(|capability| held.contains(*capability)) {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// The privileges of a thread, from `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The thread's name.
    pub name: String,
    /// The capability sets, by the names `CapInh`, `CapPrm`, `CapEff`, `CapBnd` and `CapAmb`.
    pub sets: BTreeMap<String, CapabilitySet>,
    /// The flag `NoNewPrivs`.
    pub no_new: bool,
}

/// Returns the privileges of a process's threads, by thread id.
///
/// # Panics
/// If there is no such process.
pub fn privileges(pid: u32) -> BTreeMap<u32, Privileges> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
    tasks
        .filter_map(|task| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            // A thread that has ended meanwhile has none.
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            let set = |name: &str| {
                let bits = u64::from_str_radix(&line(name)?, 16).expect("hexadecimal");
                Some((name.to_owned(), CapabilitySet::from_bits_retain(bits)))
            };
            let names = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
            let (sets, no_new) = (names.into_iter().filter_map(set).collect(), line("NoNewPrivs")? == "1");
            Some((tid, Privileges { name: line("Name")?, sets, no_new }))
        })
        .collect()
}
