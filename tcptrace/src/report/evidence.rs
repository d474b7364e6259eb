//! What a walk proves about the sockets that are about to be reported: who holds them, whose accept queue they are
//! in, where they came from, and what their other end is doing.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tcptrace_common::{IN_ACCEPT_QUEUE, Origin, SocketRow, Tuple, state, v4_mapped};

use crate::{
    kernel::Process,
    walk::{Holder, Named, Walk},
};

/// What was looked up for the sockets about to be reported, by their identity.
#[derive(Debug, Default)]
pub struct Evidence {
    rows: FxHashMap<u64, SocketRow>,
    origins: FxHashMap<u64, Origin>,
    listeners: FxHashMap<u64, Vec<SocketRow>>,
    peers: FxHashMap<u64, SocketRow>,
    /// In the order of socket, pid and descriptor.
    holders: Vec<Holder>,
    processes: FxHashMap<u32, Process>,
}

impl Evidence {
    /// Gathers from a walk what concerns the sockets `cookies`, and looks up each process once.
    pub fn gather(
        walk: &Walk,
        cookies: &FxHashSet<u64>,
        look_up: impl Fn(u32, Option<Named>) -> Process,
    ) -> Self {
        let mut evidence = Self::default();
        for row in walk.sockets.iter().filter(|row| cookies.contains(&row.cookie)) {
            evidence.rows.insert(row.cookie, *row);
            if let Some(origin) = walk.origins.get(&row.cookie) {
                evidence.origins.insert(row.cookie, *origin);
            }
        }
        evidence.find_listeners(walk);
        evidence.find_peers(walk);
        let beside = evidence.peers.values().chain(evidence.listeners.values().flatten());
        let wanted: FxHashSet<u64> = beside.map(|row| row.cookie).chain(cookies.iter().copied()).collect();
        for holder in walk.holders.iter().filter(|holder| wanted.contains(&holder.cookie)) {
            let process = || look_up(holder.pid, holder.process);
            evidence.processes.entry(holder.pid).or_insert_with(process);
            evidence.holders.push(*holder);
        }
        evidence.holders.sort_unstable_by_key(|holder| (holder.cookie, holder.pid, holder.fd));
        evidence.holders.dedup();
        for Holder { cookie, .. } in &evidence.holders {
            // Accepted since the walk came by: the descriptors are read after the sockets.
            if let Some(row) = evidence.rows.get_mut(cookie).filter(|row| row.flags & IN_ACCEPT_QUEUE != 0) {
                row.flags &= !IN_ACCEPT_QUEUE;
                evidence.listeners.remove(cookie);
            }
        }
        evidence
    }

    /// The socket as the walk saw it.
    pub fn row(&self, cookie: u64) -> Option<&SocketRow> {
        self.rows.get(&cookie)
    }

    /// Where it came from, if the kernel remembers.
    pub fn origin(&self, cookie: u64) -> Option<&Origin> {
        self.origins.get(&cookie)
    }

    /// The listeners in whose accept queue it can be: one, or those of a group that shares the port.
    pub fn listeners(&self, cookie: u64) -> &[SocketRow] {
        self.listeners.get(&cookie).map_or(&[], Vec::as_slice)
    }

    /// Its other end, where that is on this host.
    pub fn peer(&self, cookie: u64) -> Option<&SocketRow> {
        self.peers.get(&cookie)
    }

    /// Every descriptor that holds it, in the order of pid and fd, with what is known of the process.
    pub fn holders(&self, cookie: u64) -> impl Iterator<Item = (&Holder, Option<&Process>)> {
        let first = self.holders.partition_point(|holder| holder.cookie < cookie);
        let holders = self.holders[first..].iter().take_while(move |holder| holder.cookie == cookie);
        holders.map(|holder| (holder, self.processes.get(&holder.pid)))
    }

    fn find_listeners(&mut self, walk: &Walk) {
        let waiting: Vec<&SocketRow> = self.rows.values().filter(|row| is_waiting(row)).collect();
        if waiting.is_empty() {
            return;
        }
        let mut by_port: FxHashMap<(u32, u16), Vec<&SocketRow>> = FxHashMap::default();
        for row in walk.sockets.iter().filter(|row| row.state == state::LISTEN) {
            by_port.entry((row.netns, row.tuple.local_port)).or_default().push(row);
        }
        for row in waiting {
            let there = by_port.get(&(row.netns, row.tuple.local_port)).map_or(&[][..], Vec::as_slice);
            let found = listeners_of(&row.tuple, there);
            if !found.is_empty() {
                self.listeners.insert(row.cookie, found);
            }
        }
    }

    fn find_peers(&mut self, walk: &Walk) {
        // Nearly always there is one of a kind.
        let mut ours: FxHashMap<Ends, SmallVec<[&SocketRow; 1]>> = FxHashMap::default();
        for row in self.rows.values() {
            ours.entry(Ends::of(&row.tuple)).or_default().push(row);
        }
        let mut candidates: FxHashMap<u64, SmallVec<[&SocketRow; 1]>> = FxHashMap::default();
        let others = walk.sockets.iter().filter(|row| row.state != state::LISTEN).chain(&walk.stand_ins);
        for row in others {
            for our in ours.get(&Ends::of(&row.tuple).seen_from_the_other()).into_iter().flatten() {
                if our.cookie != row.cookie {
                    candidates.entry(our.cookie).or_default().push(row);
                }
            }
        }
        for (cookie, candidates) in candidates {
            let Some(our) = self.rows.get(&cookie) else { continue };
            let near: SmallVec<[_; 1]> = candidates.iter().filter(|row| row.netns == our.netns).collect();
            let anywhere: SmallVec<[_; 1]> =
                candidates.iter().filter(|_| !is_loopback(our.tuple.local_addr)).collect();
            // The same two ends may exist in several namespaces: which of them is meant cannot be told.
            if let ([row], _) | ([], [row]) = (near.as_slice(), anywhere.as_slice()) {
                self.peers.insert(cookie, ***row);
            }
        }
    }
}

/// A connection's two ends, without what tells two ends of one connection apart.
#[derive(PartialEq, Eq, Hash)]
struct Ends {
    local: ([u8; 16], u16),
    remote: ([u8; 16], u16),
}

impl Ends {
    const fn of(tuple: &Tuple) -> Self {
        let Tuple { local_addr, local_port, remote_addr, remote_port, .. } = *tuple;
        Self { local: (local_addr, local_port), remote: (remote_addr, remote_port) }
    }

    fn seen_from_the_other(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

/// Whether nothing of another namespace can be at the other end.
fn is_loopback(addr: [u8; 16]) -> bool {
    std::net::Ipv6Addr::from(addr).to_canonical().is_loopback()
}

/// Whether no process has accepted it: a socket without a file that is not closing.
fn is_waiting(row: &SocketRow) -> bool {
    row.flags & IN_ACCEPT_QUEUE != 0 && matches!(row.state, state::ESTABLISHED | state::CLOSE_WAIT)
}

/// Those among the listeners of a port that took a connection in: of its family, which a listener's child has from it;
/// bound to its address rather than to all; and, where several share both, with something in the queue.
fn listeners_of(child: &Tuple, there: &[&SocketRow]) -> Vec<SocketRow> {
    let is_any = |addr: [u8; 16]| addr == [0; 16] || addr == v4_mapped([0; 4]);
    let of_family = || there.iter().filter(|row| row.tuple.family == child.family);
    let mut found: Vec<SocketRow> =
        of_family().filter(|row| row.tuple.local_addr == child.local_addr).map(|row| **row).collect();
    if found.is_empty() {
        found = of_family().filter(|row| is_any(row.tuple.local_addr)).map(|row| **row).collect();
    }
    if found.iter().any(|row| row.unread > 0) {
        found.retain(|row| row.unread > 0);
    }
    found
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use tcptrace_common::{AF_INET, AF_INET6};

    use super::*;

    const HERE: u32 = 7;
    const US: [u8; 16] = v4_mapped([10, 0, 0, 5]);
    const THEM: [u8; 16] = v4_mapped([10, 0, 0, 9]);

    fn row(cookie: u64, state: u8, local: ([u8; 16], u16), remote: ([u8; 16], u16)) -> SocketRow {
        let tuple = Tuple {
            local_addr: local.0,
            local_port: local.1,
            remote_addr: remote.0,
            remote_port: remote.1,
            family: AF_INET,
            pad: 0,
        };
        SocketRow { cookie, state, netns: HERE, tuple, ..SocketRow::zeroed() }
    }

    fn listener(cookie: u64, addr: [u8; 16], queued: u32) -> SocketRow {
        SocketRow { unread: queued, ..row(cookie, state::LISTEN, (addr, 80), ([0; 16], 0)) }
    }

    fn waiting() -> SocketRow {
        SocketRow { flags: IN_ACCEPT_QUEUE, ..row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000)) }
    }

    fn gather(rows: &[SocketRow]) -> Evidence {
        let walk = Walk { sockets: rows.to_vec(), ..Walk::default() };
        Evidence::gather(&walk, &FxHashSet::from_iter([1]), |_, _| Process::default())
    }

    fn listeners(rows: &[SocketRow]) -> Vec<u64> {
        gather(rows).listeners(1).iter().map(|row| row.cookie).collect()
    }

    #[test]
    fn a_listener_of_the_address_comes_before_one_of_all() {
        let any = listener(2, v4_mapped([0; 4]), 1);
        assert_eq!(listeners(&[waiting(), any]), [2]);
        assert_eq!(listeners(&[waiting(), any, listener(3, US, 1)]), [3]);
        assert_eq!(listeners(&[waiting(), listener(4, THEM, 1)]), [0_u64; 0]);
    }

    #[test]
    fn of_listeners_that_share_a_port_those_with_a_queue_count() {
        let any = v4_mapped([0; 4]);
        let all = [waiting(), listener(2, any, 0), listener(3, any, 5), listener(4, any, 1)];
        assert_eq!(listeners(&all), [3, 4]);
    }

    #[test]
    fn a_listener_elsewhere_or_of_another_family_is_not_meant() {
        let any = v4_mapped([0; 4]);
        let elsewhere = SocketRow { netns: HERE + 1, ..listener(2, any, 1) };
        let mut other_family = listener(3, any, 1);
        other_family.tuple.family = AF_INET6;
        assert_eq!(listeners(&[waiting(), elsewhere, other_family]), [0_u64; 0]);
    }

    #[test]
    fn an_accepted_socket_has_no_listener() {
        let accepted = SocketRow { flags: 0, ..waiting() };
        assert_eq!(listeners(&[accepted, listener(2, US, 1)]), [0_u64; 0]);
    }

    #[test]
    fn a_socket_accepted_while_the_walk_went_on_no_longer_waits() {
        let holder = Holder { cookie: 1, pid: 42, fd: 5, process: None };
        let sockets = vec![waiting(), listener(2, US, 1)];
        let walk = Walk { sockets, holders: vec![holder], ..Walk::default() };
        let evidence = Evidence::gather(&walk, &FxHashSet::from_iter([1]), |_, _| Process::default());
        assert_eq!(evidence.row(1).map(|row| row.flags), Some(0));
        assert!(evidence.listeners(1).is_empty());
    }

    #[test]
    fn the_other_end_is_found_here_or_in_another_namespace() {
        let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
        let theirs = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
        let elsewhere = SocketRow { cookie: 3, netns: HERE + 1, ..theirs };
        let peer = |rows: &[SocketRow]| gather(rows).peer(1).map(|row| row.cookie);
        assert_eq!(peer(&[ours, theirs]), Some(2));
        assert_eq!(peer(&[ours, elsewhere]), Some(3));
        assert_eq!(peer(&[ours, theirs, elsewhere]), Some(2));
        assert_eq!(peer(&[ours]), None);
        let also_elsewhere = SocketRow { cookie: 4, netns: HERE + 2, ..theirs };
        assert_eq!(peer(&[ours, elsewhere, also_elsewhere]), None, "which one cannot be told");
    }

    #[test]
    fn the_other_end_of_a_loopback_connection_is_in_its_namespace() {
        for local in [v4_mapped([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.octets()] {
            let ours = row(1, state::CLOSE_WAIT, (local, 80), (local, 4000));
            let theirs = row(2, state::FIN_WAIT2, (local, 4000), (local, 80));
            assert_eq!(gather(&[ours, theirs]).peer(1), Some(&theirs));
            assert!(gather(&[ours, SocketRow { netns: HERE + 1, ..theirs }]).peer(1).is_none());
        }
    }

    #[test]
    fn the_other_end_may_be_a_stand_in() {
        let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
        let stand_in = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
        let walk = Walk { sockets: vec![ours], stand_ins: vec![stand_in], ..Walk::default() };
        let evidence = Evidence::gather(&walk, &FxHashSet::from_iter([1]), |_, _| Process::default());
        assert_eq!(evidence.peer(1), Some(&stand_in));
    }

    #[test]
    fn a_socket_connected_to_itself_is_not_its_own_peer() {
        let itself = row(1, state::CLOSE_WAIT, (US, 80), (US, 80));
        assert!(gather(&[itself]).peer(1).is_none());
    }
}
