//! Stuck sockets that have everything that matters in common, put together: a few lines in place of thousands.
//!
//! What they have in common is the process, the reason, the states, and the service: the port that the process serves,
//! or the address and port that it is a client of.

use std::{
    fmt::Write as _,
    hash::{Hash, Hasher as _},
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use crate::{
    events::{Cause, Cleared, Instant, OriginHow, SocketId, Stuck, is_link_local},
    outputs::text::{
        columns::{end, port},
        words::cause_words,
    },
};

/// A group of so many is still shown socket by socket.
pub(crate) const FEW: usize = 3;

/// Which end of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// That of the service.
    Server,
    /// That of its client.
    Client,
    /// Not known.
    Unknown,
}

/// What connections have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    /// Served here, at this port.
    Here(u16),
    /// Served there.
    There(SocketAddr),
}

impl Service {
    /// The ports here and there, 0 where it is not the service's.
    pub(crate) const fn ports(self) -> (u16, u16) {
        match self {
            Self::Here(port) => (port, 0),
            Self::There(address) => (0, address.port()),
        }
    }
}

/// Sockets with the same key and service, and when each was found so.
pub(crate) type Group<T> = (Service, Vec<(Instant, T)>);

/// What can be put together with others of its kind.
pub(crate) trait Groupable {
    /// What has to be the same, beside the service.
    type Key: Copy + Eq + Hash;
    fn key(&self) -> Self::Key;
    fn socket(&self) -> &SocketId;
    fn side(&self) -> Side;
}

impl Groupable for Box<Stuck> {
    /// Processes, cause, state, namespace.
    type Key = (u64, &'static str, u8, Option<u32>);

    fn key(&self) -> Self::Key {
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

    fn side(&self) -> Side {
        match (&self.details.origin, self.details.cause) {
            (_, Cause::NotAccepted) => Side::Server,
            (Some(origin), _) if matches!(origin.how, OriginHow::Accept | OriginHow::Listen) => Side::Server,
            (Some(origin), _) if origin.how == OriginHow::Connect => Side::Client,
            _ => Side::Unknown,
        }
    }
}

impl Groupable for Cleared {
    /// Process, states, namespace.
    type Key = (Option<u32>, u8, u8, Option<u32>);

    fn key(&self) -> Self::Key {
        let by = self.by.as_ref().map(|owner| owner.pid);
        (by, self.state.0, self.new_state.0, self.socket.netns)
    }

    fn socket(&self) -> &SocketId {
        &self.socket
    }

    fn side(&self) -> Side {
        Side::Unknown
    }
}

/// Puts together what belongs together, in the order in which each group's first one came. A socket whose side is not
/// known goes where there are more like it: to those with the same local port, or to those with the same other end.
pub(crate) fn group<T: Groupable>(all: Vec<(Instant, T)>) -> Vec<Group<T>> {
    let mut alike: FxHashMap<(T::Key, Service), usize> = FxHashMap::default();
    for (_, one) in &all {
        for service in services(one) {
            *alike.entry((one.key(), service)).or_default() += 1;
        }
    }
    let mut groups: Vec<Group<T>> = Vec::new();
    let mut places: FxHashMap<(T::Key, Service), usize> = FxHashMap::default();
    for (at, one) in all {
        let key = one.key();
        let [here, there] = services(&one);
        let is_here = match one.side() {
            Side::Server => true,
            Side::Client => false,
            Side::Unknown => alike[&(key, here)] >= alike[&(key, there)],
        };
        let service = if is_here { here } else { there };
        let place = *places.entry((key, service)).or_insert_with(|| {
            groups.push((service, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push((at, one));
    }
    groups
}

fn services(one: &impl Groupable) -> [Service; 2] {
    let SocketId { local_port, remote_addr, remote_port, interface, .. } = *one.socket();
    let there = match remote_addr {
        // The same address on another link is another host.
        IpAddr::V6(v6) if is_link_local(remote_addr) => {
            SocketAddrV6::new(v6, remote_port, 0, interface.unwrap_or(0).into()).into()
        }
        _ => SocketAddr::new(remote_addr, remote_port),
    };
    [Service::Here(local_port), Service::There(there)]
}

/// Appends the local ends of a group: the port that they have in common, with the address if that is one.
pub(crate) fn local_ends<T: Groupable>(line: &mut String, (service, group): &Group<T>, zone: &str) {
    if addresses(group, |socket| socket.local_addr).len() == 1 {
        end(line, group[0].1.socket().local_addr, zone, service.ports().0);
    } else {
        line.push_str("*:");
        port(line, service.ports().0);
    }
}

/// Appends the remote ends of a group: one address or their number for a service here, the service otherwise.
pub(crate) fn remote_ends<T: Groupable>(line: &mut String, (service, group): &Group<T>, zone: &str) {
    let _infallible = match service {
        Service::There(address) => return end(line, address.ip(), zone, address.port()),
        Service::Here(_) => match addresses(group, |socket| socket.remote_addr).len() {
            1 => return end(line, group[0].1.socket().remote_addr, zone, 0),
            hosts => write!(line, "{hosts} hosts"),
        },
    };
}

/// The different addresses; one on two links is two.
fn addresses<T: Groupable>(
    group: &[(Instant, T)],
    of: impl Fn(&SocketId) -> IpAddr,
) -> FxHashSet<(IpAddr, Option<u16>)> {
    let address = |socket: &SocketId| {
        let address = of(socket);
        (address, socket.interface.filter(|_| is_link_local(address)))
    };
    group.iter().map(|(_, one)| address(one.socket())).collect()
}

/// How many, in the width of a descriptor: `×412`, `×12k`, `×3M`.
pub(crate) fn times(count: usize) -> String {
    match count {
        0..10_000 => format!("×{count}"),
        10_000..1_000_000 => format!("×{}k", count / 1_000),
        _ => format!("×{}M", count / 1_000_000),
    }
}
