//! The holders of a socket: which process a line names, with which descriptor, and what it says
//! about the others.

use std::{cmp::Reverse, fmt::Write as _};

use rustc_hash::FxHashMap;
use tcptrace_common::COMM_LEN;

use crate::{
    events::{Name, Owner, Peer, Stuck},
    humanize::name::{ProcessName, printable_name},
};

/// The most names of other holders that a line has.
const MAX_NAMES: usize = 3;

/// The processes that hold a socket, or its listener.
#[derive(Debug)]
pub(crate) struct Holders<'a> {
    /// The first descriptor of the process that the line names.
    first: Option<&'a Owner>,
    /// How many more descriptors of the socket that process has.
    more_descriptors: usize,
    /// How many other processes hold the socket.
    other_processes: usize,
    /// The descriptors that the record lists.
    listed: &'a [Owner],
    /// One descriptor of each process for which the record has no room.
    unlisted: &'a [Owner],
    /// How many descriptors there are, listed or not.
    descriptors_total: usize,
}

impl<'a> Holders<'a> {
    /// The holders of a stuck socket.
    pub(crate) fn of_socket(record: &'a Stuck) -> Self {
        let details = &record.details;
        Self::new(&details.owners, &details.unlisted, details.owners_total)
    }

    /// The holders of the other end of a stuck socket.
    pub(crate) fn of_peer(peer: &'a Peer) -> Self {
        Self::new(&peer.owners, &[], peer.owners_total)
    }

    /// The processes that these descriptors belong to. Those of one process follow each other.
    pub(crate) fn of_descriptors(all: &'a [Owner]) -> Self {
        Self::new(all, &[], all.len())
    }

    fn new(listed: &'a [Owner], unlisted: &'a [Owner], descriptors_total: usize) -> Self {
        let mut processes = by_process(listed);
        let of_first = processes.next().map_or(0, <[Owner]>::len);
        let other_processes = processes.count() + unlisted.len();
        // If there is no other process, the descriptors that are not listed are those of the
        // first.
        let of_first = if other_processes == 0 { descriptors_total } else { of_first };
        Self {
            first: listed.first(),
            more_descriptors: of_first.saturating_sub(1),
            other_processes,
            listed,
            unlisted,
            descriptors_total,
        }
    }

    /// Formats the descriptor: `57`, or `57+2` if the same process has two more of the socket.
    pub(crate) fn format_descriptors(&self) -> String {
        let first = self.first.and_then(|first| first.fd);
        let mut text = first.map_or_else(|| "-".to_owned(), |fd| fd.to_string());
        if self.more_descriptors > 0 {
            let _infallible = write!(text, "+{}", self.more_descriptors);
        }
        text
    }

    /// Formats the process: `java/4242`, or `java/4242+20` if 20 others hold the socket as well.
    /// It takes at most `width` columns, unless that leaves no room for a letter of the name.
    pub(crate) fn format_process(&self, width: usize) -> String {
        match self.first {
            Some(first) => ProcessName::from(first).format_with_others(self.other_processes, width),
            None => "-".to_owned(),
        }
    }

    /// Says which other processes hold the socket: each with its descriptor, or how many there are
    /// of each name. `None` if there is no other.
    pub(crate) fn describe_others(&self) -> Option<String> {
        let names = match self.other_processes {
            0 => return None,
            1 | 2 => self.other_processes().map(describe_process).collect::<Vec<_>>(),
            _ => self.count_names(),
        };
        let mut words = format!("also held by {}", names.join(", "));
        if self.descriptors_total > self.listed.len() + self.unlisted.len() {
            let _infallible = write!(words, ", by {} descriptors in all", self.descriptors_total);
        }
        Some(words)
    }

    /// Iterates over the other processes, each as its descriptors.
    fn other_processes(&self) -> impl Iterator<Item = &'a [Owner]> {
        by_process(self.listed).skip(1).chain(self.unlisted.iter().map(std::slice::from_ref))
    }

    /// Counts the other processes by name, the most frequent names first: `20 python3`.
    fn count_names(&self) -> Vec<String> {
        let mut counts: FxHashMap<Option<[u8; COMM_LEN]>, usize> = FxHashMap::default();
        for process in self.other_processes() {
            *counts.entry(process[0].comm.map(|name| name.0)).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|(name, count)| (Reverse(*count), *name));
        let left_out: usize = counts.drain(MAX_NAMES.min(counts.len())..).map(|(_, count)| count).sum();
        let shown = |name: Option<_>| name.map_or_else(|| "?".to_owned(), |name| printable_name(&Name(name)));
        let named = counts.into_iter().map(|(name, count)| format!("{count} {}", shown(name)));
        named.chain((left_out > 0).then(|| format!("{left_out} more"))).collect()
    }
}

/// Splits descriptors by process.
fn by_process(descriptors: &[Owner]) -> impl Iterator<Item = &[Owner]> {
    descriptors.chunk_by(|one, next| one.pid == next.pid)
}

/// Names a process, given its descriptors of a socket: `java/4242 fd 57+2`.
fn describe_process(descriptors: &[Owner]) -> String {
    let holders = Holders::of_descriptors(descriptors);
    format!("{} fd {}", holders.format_process(usize::MAX), holders.format_descriptors())
}
