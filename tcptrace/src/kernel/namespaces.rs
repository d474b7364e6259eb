//! Finds every network namespace, and runs code in each.
//!
//! A namespace is found where a process lives in it (`/proc/PID/ns/net`) or where it is mounted by name
//! (`ip-netns(8)`, Docker). No descriptor of one is kept: that would keep it alive. Sockets of a namespace
//! that has neither are found through the descriptors that hold them.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
};

use rustc_hash::FxHashMap;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, netdevice::index_to_name_inlined, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::report::{Name, Zones};

/// Folders in which namespaces are mounted by name.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// A network namespace by its inode number, and a path that led to it.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) inode: u32,
    path: PathBuf,
}

/// What is known of the host's network namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Where this process itself is, if /proc is there to tell.
    pub(super) own: Option<u32>,
    /// All others.
    pub(super) others: Vec<Namespace>,
}

/// Looks at every process and every named namespace. What vanishes meanwhile is left out.
pub(super) fn find() -> Namespaces {
    let own = own().map(|own| own.inode);
    let mut found = FxHashMap::default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_processes = processes
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .map(|entry| entry.path().join("ns/net"));
    let named = NAMED.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    for namespace in of_processes.chain(named.map(|entry| entry.path())).filter_map(inode) {
        found.entry(namespace.inode).or_insert(namespace);
    }
    if let Some(own) = own {
        found.remove(&own);
    }
    Namespaces { own, others: found.into_values().collect() }
}

/// The names of the interfaces in the network namespace that this process is in, if /proc is there to tell which that is.
pub fn own_zones() -> Option<Zones> {
    own().map(|own| Zones { netns: own.inode, name: interface_name })
}

fn interface_name(index: u16) -> Option<Name> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    let name = index_to_name_inlined(socket, index.into()).ok()?;
    Some(Name::from_bytes(name.as_bytes()))
}

/// The one that this process is in, if /proc is there to tell.
pub(super) fn own() -> Option<Namespace> {
    inode("/proc/self/ns/net".into())
}

fn inode(path: PathBuf) -> Option<Namespace> {
    let inode = u32::try_from(fs::metadata(&path).ok()?.ino()).ok()?;
    Some(Namespace { inode, path })
}

impl Namespace {
    /// Moves the calling thread into the namespace; it cannot come back, so let it be a thread that ends.
    ///
    /// # Errors
    /// The namespace has gone, its path leads to another one by now, or there is no permission to enter it.
    pub(super) fn enter(&self) -> std::io::Result<()> {
        let file = File::open(&self.path)?;
        if file.metadata()?.ino() != u64::from(self.inode) {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}
