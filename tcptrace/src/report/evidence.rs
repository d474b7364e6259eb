//! What a walk proves about the sockets that are about to be reported: who holds them, whose accept queue they are
//! in, where they came from, and what their other end is doing.

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use tcptrace_common::{IN_ACCEPT_QUEUE, Origin, SocketRow, Tuple, state, v4_mapped};

use crate::{
    kernel::Process,
    walk::{Holder, Named, Walk},
};

/// What was looked up for the sockets about to be reported.
#[derive(Debug, Default)]
pub struct Evidence<'w> {
    /// Those sockets, and the listeners and other ends that belong to them, by identity.
    seen: FxHashMap<u64, Seen<'w>>,
    listeners: FxHashMap<u64, Vec<&'w SocketRow>>,
    origins: Option<&'w FxHashMap<u64, Origin>>,
    processes: FxHashMap<u32, Process>,
}

/// One socket.
#[derive(Debug)]
struct Seen<'w> {
    row: &'w SocketRow,
    /// The descriptors that hold it.
    holders: &'w [Holder],
    /// Its other end, where that is on this host.
    peer: Option<&'w SocketRow>,
}

impl<'w> Seen<'w> {
    const fn new(row: &'w SocketRow) -> Self {
        Self { row, holders: &[], peer: None }
    }

    /// Accepted since the walk came by: a descriptor holds it.
    const fn was_accepted(&self) -> bool {
        self.row.flags & IN_ACCEPT_QUEUE != 0 && !self.holders.is_empty()
    }
}

impl<'w> Evidence<'w> {
    /// Gathers from a walk what concerns the sockets `cookies`, and looks up each process once.
    pub fn gather(
        walk: &'w Walk,
        cookies: &FxHashSet<u64>,
        look_up: impl Fn(u32, Option<Named>) -> Process,
    ) -> Self {
        let mut evidence = Self { origins: Some(&walk.origins), ..Self::default() };
        // Most have another end on this host, or none has.
        evidence.seen.reserve(2 * cookies.len());
        let wanted: Vec<_> = walk.sockets.iter().filter(|row| cookies.contains(&row.cookie)).collect();
        evidence.seen.extend(wanted.iter().map(|row| (row.cookie, Seen::new(row))));
        evidence.find_listeners(&wanted, walk);
        evidence.find_peers(&wanted, walk);
        for holders in walk.holders.chunk_by(|one, next| one.cookie == next.cookie) {
            let [Holder { cookie, .. }, ..] = holders else { continue };
            if let Some(seen) = evidence.seen.get_mut(cookie) {
                seen.holders = holders;
                for Holder { pid, process, .. } in holders {
                    evidence.processes.entry(*pid).or_insert_with(|| look_up(*pid, *process));
                }
            }
        }
        evidence
    }

    /// The socket as the walk saw it.
    pub fn row(&self, cookie: u64) -> Option<SocketRow> {
        let seen = self.seen.get(&cookie)?;
        let no_longer = if seen.was_accepted() { IN_ACCEPT_QUEUE } else { 0 };
        Some(SocketRow { flags: seen.row.flags & !no_longer, ..*seen.row })
    }

    /// Where it came from, if the kernel remembers.
    pub fn origin(&self, cookie: u64) -> Option<&Origin> {
        self.origins?.get(&cookie)
    }

    /// The listeners in whose accept queue it can be: one, or those of a group that shares the port.
    pub fn listeners(&self, cookie: u64) -> &[&'w SocketRow] {
        match self.listeners.get(&cookie) {
            Some(listeners) if !self.seen.get(&cookie).is_some_and(Seen::was_accepted) => listeners,
            _ => &[],
        }
    }

    /// Its other end, where that is on this host.
    pub fn peer(&self, cookie: u64) -> Option<&'w SocketRow> {
        self.seen.get(&cookie)?.peer
    }

    /// Every descriptor that holds it, in the order of pid and fd, with what is known of the process.
    pub fn holders(&self, cookie: u64) -> impl Iterator<Item = (&Holder, Option<&Process>)> {
        let holders = self.seen.get(&cookie).map_or(&[][..], |seen| seen.holders);
        holders.iter().map(|holder| (holder, self.processes.get(&holder.pid)))
    }

    fn find_listeners(&mut self, wanted: &[&'w SocketRow], walk: &'w Walk) {
        let mut waiting = wanted.iter().filter(|row| is_waiting(row)).peekable();
        if waiting.peek().is_none() {
            return;
        }
        let mut by_port: FxHashMap<(u32, u16), Vec<&SocketRow>> = FxHashMap::default();
        for row in walk.sockets.iter().filter(|row| row.state == state::LISTEN) {
            by_port.entry((row.netns, row.tuple.local_port)).or_default().push(row);
        }
        for row in waiting {
            let there = by_port.get(&(row.netns, row.tuple.local_port)).map_or(&[][..], Vec::as_slice);
            let found = listeners_of(&row.tuple, there);
            for listener in &found {
                self.seen.entry(listener.cookie).or_insert(Seen::new(listener));
            }
            if !found.is_empty() {
                self.listeners.insert(row.cookie, found);
            }
        }
    }

    fn find_peers(&mut self, wanted: &[&'w SocketRow], walk: &'w Walk) {
        let mut ours = Vec::with_capacity(wanted.len());
        // One of those with these ends; it leads to the next.
        let mut by_ends = FxHashMap::with_capacity_and_hasher(wanted.len(), FxBuildHasher);
        for row in wanted {
            let next = by_ends.insert(Ends::of(&row.tuple), ours.len());
            ours.push(Ours { row, others: OtherEnds::default(), next });
        }
        let others = walk.sockets.iter().filter(|row| row.state != state::LISTEN).chain(&walk.stand_ins);
        for row in others {
            let mut place = by_ends.get(&Ends::of(&row.tuple).seen_from_the_other()).copied();
            while let Some(our) = place.and_then(|place| ours.get_mut(place)) {
                if our.row.cookie != row.cookie {
                    our.others.add(our.row, row);
                }
                place = our.next;
            }
        }
        for Ours { row, others, .. } in ours {
            if let Some(peer) = others.one() {
                self.seen.entry(row.cookie).and_modify(|seen| seen.peer = Some(peer));
                self.seen.entry(peer.cookie).or_insert(Seen::new(peer));
            }
        }
    }
}

/// One of the wanted sockets.
struct Ours<'w> {
    row: &'w SocketRow,
    others: OtherEnds<'w>,
    /// The place of the next one with the same two ends: in another namespace, or closed.
    next: Option<usize>,
}

/// The sockets that may be the other end of one.
#[derive(Clone, Copy, Debug, Default)]
struct OtherEnds<'w> {
    /// In its namespace.
    near: Matches<'w>,
    /// In any.
    anywhere: Matches<'w>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Matches<'w> {
    #[default]
    None,
    One(&'w SocketRow),
    More,
}

impl<'w> Matches<'w> {
    fn add(&mut self, row: &'w SocketRow) {
        *self = if let Self::None = self { Self::One(row) } else { Self::More };
    }
}

impl<'w> OtherEnds<'w> {
    fn add(&mut self, our: &SocketRow, row: &'w SocketRow) {
        if row.netns == our.netns {
            self.near.add(row);
        }
        if !is_loopback(our.tuple.local_addr) {
            self.anywhere.add(row);
        }
    }

    /// The same two ends may exist in several namespaces: which of them is meant cannot be told.
    const fn one(self) -> Option<&'w SocketRow> {
        match (self.near, self.anywhere) {
            (Matches::One(row), _) | (Matches::None, Matches::One(row)) => Some(row),
            _ => None,
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
fn listeners_of<'w>(child: &Tuple, there: &[&'w SocketRow]) -> Vec<&'w SocketRow> {
    let is_any = |addr: [u8; 16]| addr == [0; 16] || addr == v4_mapped([0; 4]);
    let of_family = || there.iter().copied().filter(|row| row.tuple.family == child.family);
    let mut found: Vec<_> = of_family().filter(|row| row.tuple.local_addr == child.local_addr).collect();
    if found.is_empty() {
        found = of_family().filter(|row| is_any(row.tuple.local_addr)).collect();
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

    fn walk(rows: &[SocketRow]) -> Walk {
        Walk { sockets: rows.to_vec(), ..Walk::default() }
    }

    fn gather(walk: &Walk) -> Evidence<'_> {
        Evidence::gather(walk, &FxHashSet::from_iter([1]), |_, _| Process::default())
    }

    fn listeners(rows: &[SocketRow]) -> Vec<u64> {
        gather(&walk(rows)).listeners(1).iter().map(|row| row.cookie).collect()
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
        let evidence = gather(&walk);
        assert_eq!(evidence.row(1).map(|row| row.flags), Some(0));
        assert!(evidence.listeners(1).is_empty());
    }

    #[test]
    fn the_other_end_is_found_here_or_in_another_namespace() {
        let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
        let theirs = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
        let elsewhere = SocketRow { cookie: 3, netns: HERE + 1, ..theirs };
        let peer = |rows: &[SocketRow]| gather(&walk(rows)).peer(1).map(|row| row.cookie);
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
            assert_eq!(gather(&walk(&[ours, theirs])).peer(1), Some(&theirs));
            assert!(gather(&walk(&[ours, SocketRow { netns: HERE + 1, ..theirs }])).peer(1).is_none());
        }
    }

    #[test]
    fn the_other_end_may_be_a_stand_in() {
        let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
        let stand_in = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
        let walk = Walk { sockets: vec![ours], stand_ins: vec![stand_in], ..Walk::default() };
        let evidence = gather(&walk);
        assert_eq!(evidence.peer(1), Some(&stand_in));
    }

    #[test]
    fn a_socket_connected_to_itself_is_not_its_own_peer() {
        let itself = row(1, state::CLOSE_WAIT, (US, 80), (US, 80));
        assert!(gather(&walk(&[itself])).peer(1).is_none());
    }
}
