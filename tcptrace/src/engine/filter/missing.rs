//! What a filter names and the host does not have: a process that has ended, a container of another
//! host, a typing error.

use std::fmt;

use rustc_hash::FxHashSet;

use crate::engine::filter::{Filter, values::Range};
use crate::{
    events::{Name, Owner},
    humanize::name::printable_name,
};

/// A process of this host, as far as filters ask for it.
#[derive(Clone, Debug)]
pub struct Resident {
    /// What filters look at.
    pub owner: Owner,
    /// The network namespace that it lives in; `None` where that may not be seen.
    pub netns: Option<u32>,
    /// Whether its descriptors can be seen.
    pub shows_descriptors: bool,
    /// A thread of the kernel, which holds no sockets.
    pub is_kernel_thread: bool,
}

/// What there is on the host.
pub struct HostContents<'a> {
    /// The processes of the host.
    pub residents: &'a [Resident],
    /// Its network namespaces.
    pub namespaces: &'a FxHashSet<u32>,
    /// Whether there is a cgroup of this path, even if no process is in it.
    pub has_cgroup: &'a dyn Fn(&str) -> bool,
}

/// Something that a filter names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No process with such a pid.
    Pid(Range),
    /// No process of this name; the most similar name that there is.
    Comm(String, Option<Name>),
    /// No process of such a user.
    Uid(Range),
    /// No process in this cgroup, nor the cgroup.
    Cgroup(String),
    /// No container whose id begins like this; some ids that there are.
    Container(String, Vec<String>),
    /// No process in this systemd unit.
    Unit(String),
    /// No process of which the program's name has this in it.
    Program(String),
    /// No such network namespace.
    Namespace(u32),
    /// No process that passes all filters together, though there is one for each.
    Together,
}

/// How similar two names are that one may have been typed for the other (Jaro-Winkler).
const SIMILAR: f64 = 0.8;

/// So many ids of containers are named, and so many characters of each.
const IDS: usize = 4;
const ID_LENGTH: usize = 12;

impl Filter {
    /// Whether it names something that may not be there.
    pub fn names_something(&self) -> bool {
        self.asks_for_processes() || !self.netns.is_empty()
    }

    /// The network namespaces that it names; none where all are admitted.
    pub(crate) fn named_namespaces(&self) -> &[u32] {
        &self.netns
    }

    /// What it names that is not there. A value counts as there if one process passes it, whatever
    /// other filters say.
    pub fn find_missing(&self, there: &HostContents<'_>) -> Vec<Missing> {
        let Self { pid, comm, uid, cgroup, container, unit, program, netns, .. } = self;
        let lacks = |only: Self| !there.residents.iter().any(|resident| only.admits_owner(&resident.owner));
        let none = Self::default;
        let mut missing = Vec::new();
        let pids = pid.iter().filter(|pid| lacks(Self { pid: vec![**pid], ..none() }));
        missing.extend(pids.map(|pid| Missing::Pid(*pid)));
        let names = comm.iter().filter(|name| lacks(Self { comm: vec![(*name).clone()], ..none() }));
        missing.extend(names.map(|name| Missing::Comm(name.clone(), nearest_name(name, there.residents))));
        let users = uid.iter().filter(|uid| lacks(Self { uid: vec![**uid], ..none() }));
        missing.extend(users.map(|uid| Missing::Uid(*uid)));
        let groups = cgroup.iter().filter(|path| {
            lacks(Self { cgroup: vec![(*path).clone()], ..none() }) && !(there.has_cgroup)(path)
        });
        missing.extend(groups.map(|path| Missing::Cgroup(path.clone())));
        let ids = container.iter().filter(|id| lacks(Self { container: vec![(*id).clone()], ..none() }));
        missing.extend(ids.map(|id| Missing::Container(id.clone(), sample_containers(there.residents))));
        let units = unit.iter().filter(|name| lacks(Self { unit: vec![(*name).clone()], ..none() }));
        missing.extend(units.map(|name| Missing::Unit(name.clone())));
        let programs = program.iter().filter(|text| lacks(Self { program: vec![(*text).clone()], ..none() }));
        missing.extend(programs.map(|text| Missing::Program(text.clone())));
        // An empty cgroup is there, and no process passes it.
        if missing.is_empty() && cgroup.is_empty() && self.asks_for_processes() && lacks(self.clone()) {
            missing.push(Missing::Together);
        }
        let namespaces = netns.iter().filter(|netns| !there.namespaces.contains(netns));
        missing.extend(namespaces.map(|netns| Missing::Namespace(*netns)));
        missing
    }

    /// The processes among these that it admits.
    pub(crate) fn admitted_processes<'a>(
        &self,
        residents: &'a [Resident],
    ) -> impl Iterator<Item = &'a Resident> {
        residents.iter().filter(|resident| self.admits_owner(&resident.owner))
    }
}

/// The name that was probably meant.
fn nearest_name(name: &str, residents: &[Resident]) -> Option<Name> {
    let similarity = |there: &Name| strsim::jaro_winkler(name, &String::from_utf8_lossy(there.bytes()));
    let names = residents.iter().filter_map(|resident| resident.owner.comm);
    let similar = names.map(|there| (similarity(&there), there)).filter(|(similar, _)| *similar >= SIMILAR);
    similar.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, there)| there)
}

/// The beginnings of some ids of containers.
fn sample_containers(residents: &[Resident]) -> Vec<String> {
    let mut ids: Vec<_> =
        residents.iter().filter_map(|resident| resident.owner.container.as_deref()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().take(IDS).map(|id| id.chars().take(ID_LENGTH).collect()).collect()
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(range) => match range.only_number() {
                Some(pid) => write!(f, "no process has the pid {pid}"),
                None => write!(f, "no process has a pid in {range}"),
            },
            Self::Comm(name, nearest) => {
                write!(f, "no process is named `{name}`")?;
                match nearest {
                    Some(nearest) => write!(f, ", but one is named `{}`", printable_name(nearest)),
                    None => Ok(()),
                }
            }
            Self::Uid(range) => match range.only_number() {
                Some(uid) => write!(f, "no process runs as user {uid}"),
                None => write!(f, "no process runs as a user in {range}"),
            },
            Self::Cgroup(path) => {
                write!(f, "there is no cgroup {}", if path.is_empty() { "/" } else { path })
            }
            Self::Container(prefix, there) => {
                write!(f, "no process is in a container whose id begins with {prefix}")?;
                match there.as_slice() {
                    [] => f.write_str("; none is in any container"),
                    ids => {
                        // Names of machines are chosen by whoever starts them.
                        let ids: Vec<_> = ids.iter().map(|id| id.escape_debug().to_string()).collect();
                        write!(f, "; there are {}", ids.join(", "))
                    }
                }
            }
            Self::Unit(name) => write!(f, "no process is in the unit {name}"),
            Self::Program(text) => write!(f, "no process runs a program with `{text}` in its name"),
            Self::Namespace(inode) => write!(f, "there is no network namespace {inode}"),
            Self::Together => f.write_str("no process passes all of these filters"),
        }
    }
}
