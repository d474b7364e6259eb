//! Finds the host's network namespaces and enters them.
//!
//! A namespace is found through a process that lives in it (`/proc/PID/ns/net`) or through a name
//! by which it is mounted (`ip-netns(8)`, Docker). We keep no descriptor of one, which would keep
//! it alive. If a namespace has neither, its sockets are found through the descriptors that hold
//! them.

use std::{
    collections::VecDeque,
    fs::{self, File, ReadDir},
    io::{self, ErrorKind},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
};

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, netdevice::index_to_name_inlined, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{events::Name, host::shortage::Shortage, humanize::interface::InterfaceNames};

/// The folders in which namespaces are mounted by name.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// How many processes of a namespace are kept as ways into it: half of them the first that were
/// found, half the last. Pids are found in ascending order, and processes that end within moments
/// tend to be neighbours.
const KEPT_TASKS: usize = 8;

/// A way into a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    /// A thread that lives there: the pid of its process, and its thread id.
    Task(u32, u32),
    /// A name by which it is mounted.
    Name(PathBuf),
}

impl Path {
    fn as_file_path(&self) -> PathBuf {
        match self {
            Self::Task(pid, tid) if pid == tid => format!("/proc/{pid}/ns/net").into(),
            Self::Task(pid, tid) => format!("/proc/{pid}/task/{tid}/ns/net").into(),
            Self::Name(name) => name.clone(),
        }
    }
}

/// A network namespace, with the ways into it that were found.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its inode number.
    pub(crate) inode: u32,
    /// The ways into it. Names come first, because they outlive processes.
    paths: VecDeque<Path>,
}

impl Namespace {
    pub(crate) const fn new(inode: u32) -> Self {
        Self { inode, paths: VecDeque::new() }
    }

    /// Adds a way into it. Drops another one if there are many.
    fn add_path(&mut self, path: Path) {
        let is_name = matches!(path, Path::Name(_));
        if is_name {
            self.paths.truncate(KEPT_TASKS - 1);
            self.paths.push_front(path);
            return;
        }
        if self.paths.len() == KEPT_TASKS {
            self.paths.remove(KEPT_TASKS / 2);
        }
        self.paths.push_back(path);
    }

    /// Moves the calling thread into the namespace by the first way that leads there. Returns
    /// whether it is in; if not, the namespace may have ended.
    ///
    /// The thread cannot come back, so it should be one that ends soon.
    ///
    /// # Errors
    /// This process or the host has run out of something ([`Shortage`]).
    pub(crate) fn enter(&self) -> io::Result<bool> {
        for path in &self.paths {
            match self.enter_by(path) {
                Ok(()) => return Ok(true),
                Err(error) if Shortage::find_in(&error).is_some() => return Err(error),
                // The process has ended, the path leads to another namespace by now, or this
                // process may not enter it.
                Err(_) => {}
            }
        }
        Ok(false)
    }

    fn enter_by(&self, path: &Path) -> io::Result<()> {
        let file = File::open(path.as_file_path())?;
        if file.metadata()?.ino() != u64::from(self.inode) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// The host's network namespaces, as far as a search found them.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// The namespace of this process, if `/proc` shows it.
    pub(crate) own: Option<u32>,
    /// All other namespaces.
    pub(crate) others: Vec<Namespace>,
    /// Whether every process could be asked for its namespace. A process that ended meanwhile
    /// counts as asked.
    pub(crate) is_complete: bool,
}

/// Looks at every process and every named namespace. Returns the namespaces that are among
/// `wanted`; `None` is all.
///
/// # Errors
/// This process or the host has run out of something ([`Shortage`]).
pub(crate) fn find_namespaces(wanted: Option<&FxHashSet<u32>>) -> io::Result<Namespaces> {
    let mut search = Search { wanted, found: FxHashMap::default(), is_complete: true };
    let own = own_netns();
    for pid in search.numeric_entries("/proc".into())? {
        search.add_process(pid)?;
    }
    for name in NAMED.into_iter().flat_map(|folder| folder_entries(folder.into())) {
        search.add_path(Path::Name(name?))?;
    }
    let Search { mut found, is_complete, .. } = search;
    if let Some(own) = own {
        found.remove(&own);
    }
    Ok(Namespaces { own, others: found.into_values().collect(), is_complete })
}

/// Names the interfaces in the network namespace of this process, if `/proc` shows which it is.
pub fn own_interface_names() -> Option<InterfaceNames> {
    own_netns().map(|netns| InterfaceNames { netns, name: interface_name })
}

fn interface_name(index: u16) -> Option<Name> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    let name = index_to_name_inlined(socket, index.into()).ok()?;
    Some(Name::from_bytes(name.as_bytes()))
}

/// Returns the network namespace of this process, if `/proc` shows it.
pub(crate) fn own_netns() -> Option<u32> {
    read_inode(&own_path()).ok()
}

/// Enters the namespace that this process is in already, which takes the same rights as to enter
/// any other.
///
/// # Errors
/// This process lacks the permission, or `/proc` is not mounted.
pub(crate) fn enter_own() -> io::Result<()> {
    let path = own_path();
    Namespace::new(read_inode(&path)?).enter_by(&path)
}

fn own_path() -> Path {
    Path::Name("/proc/self/ns/net".into())
}

/// A search for namespaces.
struct Search<'a> {
    wanted: Option<&'a FxHashSet<u32>>,
    found: FxHashMap<u32, Namespace>,
    is_complete: bool,
}

impl Search<'_> {
    /// Adds the namespace of a process. If its first thread has ended, another one shows it.
    fn add_process(&mut self, pid: u32) -> io::Result<()> {
        if self.add_path(Path::Task(pid, pid))? {
            return Ok(());
        }
        for tid in self.numeric_entries(format!("/proc/{pid}/task").into())? {
            if tid != pid && self.add_path(Path::Task(pid, tid))? {
                break;
            }
        }
        Ok(())
    }

    /// Adds the namespace to which a path leads. Returns whether it leads to one, or may.
    fn add_path(&mut self, path: Path) -> io::Result<bool> {
        match read_inode(&path) {
            Ok(inode) => {
                if self.wanted.is_none_or(|wanted| wanted.contains(&inode)) {
                    self.found.entry(inode).or_insert_with(|| Namespace::new(inode)).add_path(path);
                }
                Ok(true)
            }
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) if Shortage::find_in(&error).is_some() => Err(error),
            // Security modules keep even root from asking some processes.
            Err(_) => {
                self.is_complete &= matches!(path, Path::Task(pid, _) if lives_with_us(pid));
                Ok(true)
            }
        }
    }

    /// Returns the entries of a folder that are numbers: processes or threads.
    fn numeric_entries(&mut self, folder: PathBuf) -> io::Result<Vec<u32>> {
        let is_proc = folder.as_os_str() == "/proc";
        let mut numbers = Vec::new();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if Shortage::find_in(&error).is_some() => return Err(error),
            Err(error) => {
                self.is_complete &= !is_proc && is_gone(&error);
                return Ok(numbers);
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
                    numbers.extend(number);
                }
                Err(error) if Shortage::find_in(&error).is_some() => return Err(error),
                Err(error) => self.is_complete &= is_gone(&error),
            }
        }
        Ok(numbers)
    }
}

/// Returns the paths in a folder; none if there is no such folder.
fn folder_entries(folder: PathBuf) -> impl Iterator<Item = io::Result<PathBuf>> {
    let (entries, error): (Option<ReadDir>, _) = match fs::read_dir(folder) {
        Ok(entries) => (Some(entries), None),
        Err(error) => (None, Shortage::find_in(&error).map(|_| error)),
    };
    let paths = entries.into_iter().flatten().flatten().map(|entry| Ok(entry.path()));
    paths.chain(error.map(Err))
}

/// Whether a process that this one may not ask for its namespace is in our own.
///
/// Anybody may look at `/proc/PID/net`, and each namespace has files of its own there
/// (`proc_create_net_data`, `fs/proc/proc_net.c`).
fn lives_with_us(pid: u32) -> bool {
    let file = |process: &str| fs::metadata(format!("/proc/{process}/net/tcp")).ok().map(|file| file.ino());
    file("self").is_some_and(|own| file(&pid.to_string()) == Some(own))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read_inode(path: &Path) -> io::Result<u32> {
    u32::try_from(fs::metadata(path.as_file_path())?.ino()).map_err(|_| ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(namespace: &Namespace) -> Vec<u32> {
        let pid = |path: &Path| match path {
            Path::Task(pid, _) => Some(*pid),
            Path::Name(_) => None,
        };
        namespace.paths.iter().filter_map(pid).collect()
    }

    #[test]
    fn the_first_and_the_last_ways_into_a_namespace_are_kept_and_names_come_first() {
        let mut namespace = Namespace::new(7);
        (1..=100).for_each(|pid| namespace.add_path(Path::Task(pid, pid)));
        assert_eq!(tasks(&namespace), [1, 2, 3, 4, 97, 98, 99, 100]);
        namespace.add_path(Path::Name("/run/netns/blue".into()));
        assert_eq!(namespace.paths.len(), KEPT_TASKS);
        assert_eq!(namespace.paths[0].as_file_path(), PathBuf::from("/run/netns/blue"));
        (1..=100).for_each(|name| namespace.add_path(Path::Name(format!("/run/netns/{name}").into())));
        assert_eq!(namespace.paths.len(), KEPT_TASKS);
    }

    #[test]
    fn a_thread_has_a_path_of_its_own() {
        assert_eq!(Path::Task(5, 5).as_file_path(), PathBuf::from("/proc/5/ns/net"));
        assert_eq!(Path::Task(5, 6).as_file_path(), PathBuf::from("/proc/5/task/6/ns/net"));
    }

    #[test]
    fn a_namespace_is_not_entered_by_ways_that_lead_elsewhere() {
        let mut other = Namespace::new(own_netns().expect("/proc is mounted") ^ 1);
        assert!(!other.enter().expect("no shortage"), "there is no way");
        other.add_path(Path::Task(std::process::id(), std::process::id()));
        other.add_path(Path::Name("/no/such/name".into()));
        assert!(!other.enter().expect("no shortage"), "this process is in another one");
    }

    #[test]
    fn a_process_that_may_not_be_asked_lives_with_us_or_nothing_is_known() {
        assert!(lives_with_us(std::process::id()));
        assert!(!lives_with_us(0), "there is no such process");
    }

    #[test]
    fn only_wanted_namespaces_are_kept_and_never_our_own() {
        let own = own_netns().expect("/proc is mounted");
        let none = find_namespaces(Some(&FxHashSet::default())).expect("no shortage");
        assert_eq!((none.own, none.others.len()), (Some(own), 0));
        let all = find_namespaces(None).expect("no shortage");
        assert!(all.others.iter().all(|namespace| namespace.inode != own));
    }
}
