//! Groups sockets that have everything that matters in common: a few lines instead of thousands.
//!
//! They share their processes, cause, states and service: the port that the process serves, or the
//! address and port that it is a client of.

use std::{
    fmt::Write as _,
    hash::{Hash, Hasher as _},
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use crate::{
    events::{Cause, Cleared, Instant, OriginHow, SocketId, Stuck, is_link_local},
    humanize::words::cause_words,
    outputs::text::endpoint::{write_endpoint, write_port},
};

/// The most sockets of a group that are shown one by one.
pub(crate) const MAX_SINGLE_LINES: usize = 3;

/// The end of a connection that a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The server's end.
    Server,
    /// The client's end.
    Client,
    /// The end is not known.
    Unknown,
}

/// The service that connections have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    /// A local port.
    Local(u16),
    /// A remote address and port.
    Remote(SocketAddr),
}

impl Service {
    /// Returns the local and the remote port; 0 for the one that is not the service's.
    pub(crate) const fn shown_ports(self) -> (u16, u16) {
        match self {
            Self::Local(port) => (port, 0),
            Self::Remote(address) => (0, address.port()),
        }
    }
}

/// Sockets with the same key and service, each with the time of its record. It has at least one.
pub(crate) struct Group<T> {
    pub(crate) service: Service,
    pub(crate) members: Vec<(Instant, T)>,
}

/// A record that can be grouped with others of its kind.
pub(crate) trait Groupable {
    /// What has to be the same, beside the service.
    type Key: Copy + Eq + Hash;
    fn grouping_key(&self) -> Self::Key;
    fn socket(&self) -> &SocketId;
    fn own_side(&self) -> Side;
}

impl Groupable for Box<Stuck> {
    /// Processes, cause, state, network namespace.
    type Key = (u64, &'static str, u8, Option<u32>);

    fn grouping_key(&self) -> Self::Key {
        let mut pids = FxHasher::default();
        let mut last = None;
        for owner in self.details.processes().filter(|owner| last.replace(owner.pid) != Some(owner.pid)) {
            pids.write_u32(owner.pid);
        }
        (pids.finish(), cause_words(self.details.cause), self.state.0, self.socket.netns)
    }

    fn socket(&self) -> &SocketId {
        &self.socket
    }

    fn own_side(&self) -> Side {
        match (&self.details.origin, self.details.cause) {
            (_, Cause::NotAccepted) => Side::Server,
            (Some(origin), _) => match origin.how {
                OriginHow::Accept | OriginHow::Listen => Side::Server,
                OriginHow::Connect => Side::Client,
            },
            (None, _) => Side::Unknown,
        }
    }
}

impl Groupable for Cleared {
    /// Process, states, network namespace.
    type Key = (Option<u32>, u8, u8, Option<u32>);

    fn grouping_key(&self) -> Self::Key {
        let by = self.by.as_ref().map(|owner| owner.pid);
        (by, self.state.0, self.new_state.0, self.socket.netns)
    }

    fn socket(&self) -> &SocketId {
        &self.socket
    }

    fn own_side(&self) -> Side {
        Side::Unknown
    }
}

/// Groups records that are alike, in the order of each group's first record. A socket whose side
/// is not known joins the larger group: that of its local port, or that of its remote end.
pub(crate) fn group_alike<T: Groupable>(records: Vec<(Instant, T)>) -> Vec<Group<T>> {
    let mut counts: FxHashMap<(T::Key, Service), usize> = FxHashMap::default();
    for (_, one) in &records {
        for service in possible_services(one) {
            *counts.entry((one.grouping_key(), service)).or_default() += 1;
        }
    }
    let mut groups: Vec<Group<T>> = Vec::new();
    let mut indices: FxHashMap<(T::Key, Service), usize> = FxHashMap::default();
    for (at, one) in records {
        let key = one.grouping_key();
        let [local, remote] = possible_services(&one);
        let is_local = match one.own_side() {
            Side::Server => true,
            Side::Client => false,
            Side::Unknown => counts[&(key, local)] >= counts[&(key, remote)],
        };
        let service = if is_local { local } else { remote };
        let index = *indices.entry((key, service)).or_insert_with(|| {
            groups.push(Group { service, members: Vec::new() });
            groups.len() - 1
        });
        groups[index].members.push((at, one));
    }
    groups
}

fn possible_services(record: &impl Groupable) -> [Service; 2] {
    let SocketId { local_port, remote_addr, remote_port, interface, .. } = *record.socket();
    let remote = match remote_addr {
        // The same link-local address on another interface is another host.
        IpAddr::V6(v6) if is_link_local(remote_addr) => {
            SocketAddrV6::new(v6, remote_port, 0, interface.unwrap_or(0).into()).into()
        }
        _ => SocketAddr::new(remote_addr, remote_port),
    };
    [Service::Local(local_port), Service::Remote(remote)]
}

/// Appends the local ends of a group: the port, with the address if all have the same one.
pub(crate) fn write_local_ends<T: Groupable>(line: &mut String, group: &Group<T>, zone: &str) {
    let (port, _) = group.service.shown_ports();
    if count_addresses(group, |socket| socket.local_addr) == 1 {
        write_endpoint(line, group.members[0].1.socket().local_addr, zone, port);
    } else {
        line.push_str("*:");
        write_port(line, port);
    }
}

/// Appends the remote ends of a group: the remote service, or for a local one the peer's address,
/// or how many addresses there are.
pub(crate) fn write_remote_ends<T: Groupable>(line: &mut String, group: &Group<T>, zone: &str) {
    match group.service {
        Service::Remote(address) => write_endpoint(line, address.ip(), zone, address.port()),
        Service::Local(_) => match count_addresses(group, |socket| socket.remote_addr) {
            1 => write_endpoint(line, group.members[0].1.socket().remote_addr, zone, 0),
            hosts => {
                let _infallible = write!(line, "{hosts} hosts");
            }
        },
    }
}

/// Counts the different addresses. A link-local address on two interfaces counts as two.
fn count_addresses<T: Groupable>(group: &Group<T>, address_of: impl Fn(&SocketId) -> IpAddr) -> usize {
    let host = |socket: &SocketId| {
        let address = address_of(socket);
        (address, socket.interface.filter(|_| is_link_local(address)))
    };
    group.members.iter().map(|(_, one)| host(one.socket())).collect::<FxHashSet<_>>().len()
}
