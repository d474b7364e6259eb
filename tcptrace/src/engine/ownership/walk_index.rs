//! What a walk proves about the sockets that are about to be reported: who holds them, whose accept
//! queue they are in, where they came from, and what their other end is doing.

use crate::engine::ownership::ends;
use std::hash::{BuildHasher as _, Hash};

use hashbrown::{HashTable, hash_table::Entry};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use tcptrace_common::{OpenerRecord, RowFlags, SocketRow, Tuple, state, v4_mapped};

use crate::engine::ownership::ends::EndsMatch;
use crate::{
    engine::process_info::ProcessDetails,
    engine::walk::{Holder, Named, Walk},
};

/// What was looked up for the sockets about to be reported.
#[derive(Debug, Default)]
pub struct WalkIndex<'w> {
    /// Those sockets, and the listeners and other ends that belong to them.
    seen: Vec<Seen<'w>>,
    /// The place of each among them, by identity: thousands in a table of their own size would not
    /// stay in the CPU's cache.
    places: HashTable<u32>,
    listeners: FxHashMap<u64, Vec<&'w SocketRow>>,
    origins: Option<&'w FxHashMap<u64, OpenerRecord>>,
    processes: FxHashMap<u32, ProcessDetails>,
}

/// What a walk has seen of one socket.
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
        self.row.flags.contains(RowFlags::IN_ACCEPT_QUEUE) && !self.holders.is_empty()
    }
}

impl<'w> WalkIndex<'w> {
    /// Gathers from a walk what concerns the sockets `cookies`, and looks up each process once.
    pub fn for_sockets(
        walk: &'w Walk,
        cookies: &FxHashSet<u64>,
        look_up: impl Fn(u32, Option<Named>) -> ProcessDetails,
    ) -> Self {
        let mut index = Self {
            origins: Some(&walk.origins),
            seen: Vec::with_capacity(cookies.len()),
            places: HashTable::with_capacity(cookies.len()),
            ..Self::default()
        };
        let mut wanted: Vec<&SocketRow> = Vec::with_capacity(cookies.len());
        wanted.extend(walk.sockets.iter().filter(|row| cookies.contains(&row.cookie)));
        // The newest word about a socket.
        wanted.iter().for_each(|row| *index.note_row(row) = Seen::new(row));
        let peers = index.find_peers(&wanted, walk);
        index.find_listeners(wanted.iter().chain(&peers), walk);
        for holders in walk.holders.chunk_by(|one, next| one.cookie == next.cookie) {
            let [Holder { cookie, .. }, ..] = holders else { continue };
            if let Some(place) = index.place_of(*cookie) {
                index.seen[place].holders = holders;
                for Holder { pid, process, .. } in holders {
                    index.processes.entry(*pid).or_insert_with(|| look_up(*pid, *process));
                }
            }
        }
        index
    }

    /// The socket as the walk saw it.
    pub fn row_of(&self, cookie: u64) -> Option<SocketRow> {
        let seen = self.get_seen(cookie)?;
        let no_longer = if seen.was_accepted() { RowFlags::IN_ACCEPT_QUEUE } else { RowFlags::empty() };
        Some(SocketRow { flags: seen.row.flags & !no_longer, ..*seen.row })
    }

    /// Where it came from, if the kernel remembers.
    pub fn kept_origin(&self, cookie: u64) -> Option<&OpenerRecord> {
        self.origins?.get(&cookie)
    }

    /// The listeners in whose accept queue it can be: one, or those of a group that shares the
    /// port.
    pub fn listeners_of_queued(&self, cookie: u64) -> &[&'w SocketRow] {
        match self.listeners.get(&cookie) {
            Some(listeners) if !self.get_seen(cookie).is_some_and(Seen::was_accepted) => listeners,
            _ => &[],
        }
    }

    /// Its other end, where that is on this host.
    pub fn peer_of(&self, cookie: u64) -> Option<&'w SocketRow> {
        self.get_seen(cookie)?.peer
    }

    /// Whether no process has it any more, neither by a descriptor nor in any other way.
    pub fn is_gone(&self, cookie: u64) -> bool {
        self.get_seen(cookie).is_some_and(|seen| seen.holders.is_empty() && is_gone(seen.row))
    }

    /// Every descriptor that holds it, in the order of pid and fd, with what is known of the
    /// process.
    pub fn holders_of(&self, cookie: u64) -> impl Iterator<Item = (&Holder, Option<&ProcessDetails>)> {
        let holders = self.get_seen(cookie).map_or(&[][..], |seen| seen.holders);
        holders.iter().map(|holder| (holder, self.processes.get(&holder.pid)))
    }

    fn get_seen(&self, cookie: u64) -> Option<&Seen<'w>> {
        Some(&self.seen[self.place_of(cookie)?])
    }

    fn place_of(&self, cookie: u64) -> Option<usize> {
        let is_it = |place: &u32| self.seen[*place as usize].row.cookie == cookie;
        self.places.find(hash_of(&cookie), is_it).map(|place| *place as usize)
    }

    /// What is known of the socket of this row, from now on if not before.
    #[expect(clippy::cast_possible_truncation, reason = "a walk has fewer than 2^32 sockets")]
    fn note_row(&mut self, row: &'w SocketRow) -> &mut Seen<'w> {
        let cookie_at = |place: &u32| self.seen[*place as usize].row.cookie;
        let new = self.seen.len();
        let is_it = |place: &u32| cookie_at(place) == row.cookie;
        let place = match self.places.entry(hash_of(&row.cookie), is_it, |place| hash_of(&cookie_at(place))) {
            Entry::Occupied(known) => *known.get() as usize,
            Entry::Vacant(vacant) => {
                vacant.insert(new as u32);
                new
            }
        };
        if place == new {
            self.seen.push(Seen::new(row));
        }
        &mut self.seen[place]
    }

    fn find_listeners<'a>(&mut self, of: impl Iterator<Item = &'a &'w SocketRow>, walk: &'w Walk)
    where
        'w: 'a,
    {
        let mut waiting = of.filter(|row| is_waiting(row)).peekable();
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
                self.note_row(listener);
            }
            if !found.is_empty() {
                self.listeners.insert(row.cookie, found);
            }
        }
    }

    /// Finds the other ends of these, and returns them.
    #[expect(clippy::cast_possible_truncation, reason = "a walk has fewer than 2^32 sockets")]
    fn find_peers(&mut self, wanted: &[&'w SocketRow], walk: &'w Walk) -> Vec<&'w SocketRow> {
        let mut ours: Vec<Ours<'_>> = Vec::with_capacity(wanted.len());
        // One of those with these ends; it leads to the next.
        let mut by_ends: HashTable<u32> = HashTable::with_capacity(wanted.len());
        for row in wanted {
            let ends = Ends::for_sockets(&row.tuple);
            let ends_at = |place: &u32| Ends::for_sockets(&ours[*place as usize].row.tuple);
            let new = ours.len() as u32;
            let next = match by_ends.entry(
                hash_of(&ends),
                |place| ends_at(place) == ends,
                |place| hash_of(&ends_at(place)),
            ) {
                Entry::Occupied(mut known) => Some(std::mem::replace(known.get_mut(), new)),
                Entry::Vacant(vacant) => {
                    vacant.insert(new);
                    None
                }
            };
            ours.push(Ours { row, others: OtherEnds::default(), next });
        }
        let others = walk.sockets.iter().filter(|row| row.state != state::LISTEN).chain(&walk.stand_ins);
        for row in others {
            let ends = Ends::for_sockets(&row.tuple).seen_from_the_other();
            let is_theirs = |place: &u32| Ends::for_sockets(&ours[*place as usize].row.tuple) == ends;
            let mut place = by_ends.find(hash_of(&ends), is_theirs).copied();
            while let Some(our) = place.and_then(|place| ours.get_mut(place as usize)) {
                if our.row.cookie != row.cookie {
                    our.others.add(our.row, row, ends::compare_ends(our.row, row));
                }
                place = our.next;
            }
        }
        let mut peers = Vec::new();
        for Ours { row, others, .. } in ours {
            if let Some(peer) = others.only_match() {
                self.note_row(row).peer = Some(peer);
                self.note_row(peer);
                peers.push(peer);
            }
        }
        peers
    }
}

/// One of the wanted sockets.
struct Ours<'w> {
    row: &'w SocketRow,
    others: OtherEnds<'w>,
    /// The place of the next one with the same two ends: in another namespace, or closed.
    next: Option<u32>,
}

/// The sockets that may be the other end of one.
#[derive(Clone, Copy, Debug, Default)]
struct OtherEnds<'w> {
    /// In its namespace.
    near: Matches<'w>,
    /// In any namespace, by their sequence numbers.
    proven: Matches<'w>,
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
    fn add(&mut self, our: &SocketRow, row: &'w SocketRow, found: EndsMatch) {
        // Within a namespace only one connection has these two ends, so that its states are enough.
        if row.netns == our.netns && found != EndsMatch::Differ {
            self.near.add(row);
        }
        if found == EndsMatch::Agree && !is_loopback(our.tuple.local_addr) {
            self.proven.add(row);
        }
    }

    /// If several fit, none is named: whoever has a namespace of their own can make sockets with
    /// any two ends.
    const fn only_match(self) -> Option<&'w SocketRow> {
        match (self.near, self.proven) {
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
    const fn for_sockets(tuple: &Tuple) -> Self {
        let Tuple { local_addr, local_port, remote_addr, remote_port, .. } = *tuple;
        Self { local: (local_addr, local_port), remote: (remote_addr, remote_port) }
    }

    fn seen_from_the_other(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

fn hash_of(key: &impl Hash) -> u64 {
    FxBuildHasher.hash_one(key)
}

/// Whether nothing of another namespace can be at the other end.
fn is_loopback(addr: [u8; 16]) -> bool {
    std::net::Ipv6Addr::from(addr).to_canonical().is_loopback()
}

/// Whether no process has it any more: its process has closed it, and the kernel ends the
/// connection alone.
fn is_gone(row: &SocketRow) -> bool {
    row.flags.contains(RowFlags::TIMEWAIT)
        || (row.flags.contains(RowFlags::IN_ACCEPT_QUEUE) && !is_waiting(row))
}

/// Whether no process has accepted it: a socket without a file that is not closing.
fn is_waiting(row: &SocketRow) -> bool {
    row.flags.contains(RowFlags::IN_ACCEPT_QUEUE)
        && matches!(row.state, state::ESTABLISHED | state::CLOSE_WAIT)
}

/// Those among the listeners of a port that took a connection in: of its family, which a listener's
/// child has from it; bound to its address rather than to all; and, where several share both, with
/// something in the queue.
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
mod tests;
