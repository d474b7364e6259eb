//! Makes network namespaces for a test, with nothing in them but a loopback interface.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use rustix::{
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A network namespace. The thread that made it is in it, and so are the processes that the thread
/// starts. Dropping it moves the thread back.
#[derive(Debug)]
pub struct Namespace {
    before: OwnedFd,
    this: OwnedFd,
    inode: u64,
}

impl Namespace {
    /// Makes a namespace and moves the calling thread into it.
    ///
    /// # Panics
    /// If this process is not root.
    #[expect(clippy::new_without_default, reason = "it moves the thread: nothing for a default")]
    pub fn new() -> Self {
        let before = open_current();
        leave_for_a_new_one().expect("unshare(CLONE_NEWNET): these tests run as root");
        bring_loopback_up().expect("the loopback interface can be brought up");
        let this = open_current();
        let inode = this.metadata().expect("a namespace has an inode").ino();
        Self { before: before.into(), this: this.into(), inode }
    }

    /// Returns the namespace's inode number, which records have as `netns`.
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Moves the calling thread back into this namespace.
    pub fn enter(&self) {
        enter_namespace(&self.this);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        enter_namespace(&self.before);
    }
}

/// Moves the calling thread into a new network namespace.
///
/// # Errors
/// If the permission is missing.
pub fn leave_for_a_new_one() -> io::Result<()> {
    // SAFETY: unshare(2) with this flag changes nothing but which network the calling thread sees.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_current() -> File {
    File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
}

fn enter_namespace(namespace: &OwnedFd) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may enter a network namespace");
}

/// Brings up the loopback interface in the calling thread's namespace, as `ip link set lo up`
/// does.
///
/// # Errors
/// If the permission is missing.
pub fn bring_loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data, valid when all zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    #[expect(clippy::cast_possible_truncation, reason = "both flags are in the lower half")]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives until the call returns.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
