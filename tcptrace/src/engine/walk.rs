//! What one look at all the kernel's sockets found: plain data, filled in by [`crate::host`].

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::{COMM_LEN, OpenCall, OpenerRecord, RowFlags, SocketRow, state};

/// What one walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// `CLOCK_MONOTONIC`, nanoseconds: when it began. Every row was read after this.
    pub started_ns: u64,
    /// The CPU time of the thread that took the most of it, nanoseconds. Unlike the wall clock it
    /// stands still while the walk is stopped, throttled or waiting for a CPU.
    pub cpu_ns: u64,
    /// The namespaces that were walked to the end, by inode number.
    pub namespaces: FxHashSet<u32>,
    /// Namespaces that exist and were not walked: they could not be entered, or need not be.
    pub left_out: FxHashSet<u32>,
    /// Namespaces that were not walked and to which only descriptors lead: no process lives there.
    pub led_to: FxHashSet<u32>,
    /// Namespaces that were looked for and are no more: nothing leads to one.
    pub ended: FxHashSet<u32>,
    /// Whether every namespace of this host was found, as far as processes and names lead to them.
    pub found_all: bool,
    /// Every socket found in a wanted state, once, in the order of the time it was read.
    pub sockets: Vec<SocketRow>,
    /// The stand-ins for sockets that nobody holds any more, in FIN_WAIT2. They are nobody's to be
    /// stuck with, but the other end of somebody's.
    pub stand_ins: Vec<SocketRow>,
    /// Where each socket came from, by identity, as far as the kernel remembers.
    pub origins: FxHashMap<u64, OpenerRecord>,
    /// Every descriptor that holds one of them, by socket, pid and number.
    pub holders: Vec<Holder>,
}

impl Walk {
    /// How many namespaces were walked, or have sockets that only descriptors lead to.
    pub fn count_namespaces(&self) -> usize {
        let of_sockets = self.sockets.iter().map(|row| row.netns).filter(|netns| *netns != 0);
        of_sockets.chain(self.namespaces.iter().copied()).collect::<FxHashSet<_>>().len()
    }

    /// Adds a socket, or the stand-in for one.
    pub fn add(&mut self, row: SocketRow, origin: Option<OpenerRecord>) {
        if row.flags.contains(RowFlags::TIMEWAIT) {
            self.stand_ins.push(row);
            return;
        }
        if let Some(origin) = origin.filter(|origin| origin.call != OpenCall::UNKNOWN) {
            self.origins.insert(row.cookie, origin);
        }
        self.sockets.push(row);
    }

    /// Adds what another part of the same walk found in other namespaces.
    pub fn append(&mut self, other: Self) {
        let Self {
            started_ns: _,
            cpu_ns,
            namespaces,
            left_out,
            led_to,
            ended,
            found_all: _,
            mut sockets,
            mut stand_ins,
            origins,
            mut holders,
        } = other;
        self.cpu_ns = self.cpu_ns.max(cpu_ns);
        self.namespaces.extend(namespaces);
        self.left_out.extend(left_out);
        self.led_to.extend(led_to);
        self.ended.extend(ended);
        self.sockets.append(&mut sockets);
        self.stand_ins.append(&mut stand_ins);
        self.origins.extend(origins);
        self.holders.append(&mut holders);
    }

    /// Whether this walk would have seen a socket of a namespace if it were still there; 0 stands
    /// for a namespace that is not known.
    pub fn covers(&self, netns: u32) -> bool {
        if netns == 0 {
            return self.found_all && self.left_out.is_empty() && self.led_to.is_empty();
        }
        self.namespaces.contains(&netns) || self.ended.contains(&netns)
    }

    /// Whether a file was seen of a connection in one of `states` (a mask), and no descriptor of
    /// it.
    pub fn misses_a_holder(&self, states: u32) -> bool {
        let has_file = |row: &&SocketRow| {
            row.flags.contains(RowFlags::HAS_FILE)
                && row.state != state::LISTEN
                && states & state::bit(row.state) != 0
        };
        let is_held =
            |row: &SocketRow| self.holders.binary_search_by_key(&row.cookie, |holder| holder.cookie).is_ok();
        self.sockets.iter().filter(has_file).any(|row| !is_held(row))
    }
}

/// Puts the descriptors that hold sockets into the order of [`Walk::holders`], each once.
pub fn in_order(mut holders: Vec<Holder>) -> Vec<Holder> {
    holders.sort_unstable();
    holders.dedup_by_key(|holder| (holder.cookie, holder.pid, holder.fd));
    holders
}

/// The states of sockets that tell more about those in `watched` (both masks): listeners, whose
/// accept queue they may be in, and the states that the other end of such a connection is in.
pub fn beside(watched: u32) -> u32 {
    let other_ends = OTHER_ENDS.iter().filter(|(state, _)| watched & state::bit(*state) != 0);
    other_ends
        .flat_map(|(_, ends)| *ends)
        .fold(state::bit(state::LISTEN), |mask, end| mask | state::bit(*end))
}

/// For each state of a connection's end, the states that the other end can be in at the same
/// moment, whatever packets are lost or on their way (RFC 9293, 3.3.2). Not TIME_WAIT: what is in
/// it is no socket any more.
const OTHER_ENDS: [(u8, &[u8]); 8] = [
    (state::ESTABLISHED, &[state::ESTABLISHED, state::SYN_SENT, state::SYN_RECV, state::FIN_WAIT1]),
    (state::SYN_SENT, &[state::SYN_SENT, state::SYN_RECV, state::ESTABLISHED]),
    (state::SYN_RECV, &[state::SYN_SENT, state::SYN_RECV, state::ESTABLISHED, state::FIN_WAIT1]),
    (
        state::FIN_WAIT1,
        &[
            state::SYN_RECV,
            state::ESTABLISHED,
            state::FIN_WAIT1,
            state::CLOSE_WAIT,
            state::CLOSING,
            state::LAST_ACK,
        ],
    ),
    (state::FIN_WAIT2, &[state::CLOSE_WAIT, state::LAST_ACK, state::CLOSING]),
    (state::CLOSING, &[state::CLOSING, state::FIN_WAIT1, state::FIN_WAIT2]),
    (state::CLOSE_WAIT, &[state::FIN_WAIT1, state::FIN_WAIT2]),
    (state::LAST_ACK, &[state::FIN_WAIT1, state::FIN_WAIT2]),
];

/// Whether the two ends of one connection can be in these states at the same moment.
pub fn can_be_ends(one: u8, other: u8) -> bool {
    OTHER_ENDS.iter().any(|(state, ends)| *state == one && ends.contains(&other))
}

/// The network namespaces that a walk has to enter.
#[derive(Clone, Debug)]
pub enum Reach {
    /// All namespaces. One of these that is not found is looked for again before it counts as
    /// ended.
    Everywhere(FxHashSet<u32>),
    /// Those of these sockets, given with their namespaces, unless a descriptor leads to the
    /// socket. Others are entered as long as that is cheap: their sockets may be the other ends.
    Sockets(Vec<(u64, u32)>),
}

impl Reach {
    /// Returns the same with the namespaces of the same sockets, and all others.
    #[must_use]
    pub fn everywhere(self) -> Self {
        match self {
            Self::Everywhere(_) => self,
            Self::Sockets(sockets) => Self::Everywhere(sockets.into_iter().map(|(_, netns)| netns).collect()),
        }
    }
}

impl Default for Reach {
    /// Everywhere, with nothing known before.
    fn default() -> Self {
        Self::Everywhere(FxHashSet::default())
    }
}

/// A descriptor that holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The socket's identity, as in [`SocketRow::cookie`].
    pub cookie: u64,
    /// The process (thread group), as this host's initial pid namespace numbers it.
    pub pid: u32,
    /// The number of the descriptor.
    pub fd: u32,
    /// What the kernel said of the process in the same breath, where it did.
    pub process: Option<Named>,
}

/// A process as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// Its real user id.
    pub uid: u32,
    /// Its name, NUL-padded.
    pub comm: [u8; COMM_LEN],
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    const CLOSE_WAIT: u32 = state::bit(state::CLOSE_WAIT);

    fn row(cookie: u64, state: u8, flags: RowFlags) -> SocketRow {
        SocketRow { cookie, state, flags, ..SocketRow::zeroed() }
    }

    fn misses(rows: &[SocketRow], held: &[u64]) -> bool {
        let holders = held.iter().map(|cookie| Holder { cookie: *cookie, pid: 42, fd: 5, process: None });
        let holders = in_order(holders.collect());
        Walk { sockets: rows.to_vec(), holders, ..Walk::default() }.misses_a_holder(CLOSE_WAIT)
    }

    #[test]
    fn which_states_the_two_ends_can_be_in_does_not_depend_on_who_asks() {
        for (one, other) in (1..=12).flat_map(|one| (1..=12).map(move |other| (one, other))) {
            assert_eq!(can_be_ends(one, other), can_be_ends(other, one), "{one} and {other}");
        }
        assert!(can_be_ends(state::CLOSE_WAIT, state::FIN_WAIT2));
        // It has not closed its side, so the end of its stream cannot have been received.
        assert!(!can_be_ends(state::CLOSE_WAIT, state::ESTABLISHED));
        assert!(!can_be_ends(state::CLOSE_WAIT, state::CLOSE_WAIT));
    }

    #[test]
    fn a_connection_with_a_file_has_a_holder() {
        let (ours, queued) =
            (row(1, state::CLOSE_WAIT, RowFlags::HAS_FILE), row(2, state::CLOSE_WAIT, RowFlags::empty()));
        assert!(misses(&[ours, queued], &[]));
        assert!(misses(&[ours], &[2]));
        assert!(!misses(&[ours, queued], &[1]));
        // Nobody asked for these: another state, and the kernel's own listener.
        let unasked =
            [row(1, state::ESTABLISHED, RowFlags::HAS_FILE), row(2, state::LISTEN, RowFlags::HAS_FILE)];
        assert!(!misses(&unasked, &[]));
    }

    #[test]
    fn a_walk_covers_what_it_walked_and_what_has_ended() {
        let walk = Walk {
            namespaces: [1, 2].into_iter().collect(),
            left_out: [3].into_iter().collect(),
            ended: [4].into_iter().collect(),
            found_all: true,
            ..Walk::default()
        };
        assert_eq!([1, 2, 3, 4, 5].map(|netns| walk.covers(netns)), [true, true, false, true, false]);
        assert!(!walk.covers(0), "it may be in the one that was left out");
        let all = Walk { left_out: FxHashSet::default(), ..walk };
        assert!(all.covers(0));
        let with_led_to = Walk { led_to: [5].into_iter().collect(), ..all };
        assert!(!with_led_to.covers(0), "it may be in the one that only descriptors lead to");
        let not_all = Walk { found_all: false, led_to: FxHashSet::default(), ..with_led_to };
        assert!(!not_all.covers(0), "it may be in one that was not found");
    }

    #[test]
    fn namespaces_are_counted_that_only_a_socket_is_seen_of() {
        let in_namespace = |netns| SocketRow { netns, ..row(1, state::CLOSE_WAIT, RowFlags::empty()) };
        let sockets = [1, 1, 7, 8, 0].map(in_namespace).to_vec();
        let walk = Walk { namespaces: [1, 2].into_iter().collect(), sockets, ..Walk::default() };
        assert_eq!(walk.count_namespaces(), 4);
    }

    #[test]
    fn a_descriptor_is_told_once() {
        let holder = |cookie, fd| Holder { cookie, pid: 42, fd, process: None };
        let holders = in_order(vec![holder(2, 5), holder(1, 7), holder(1, 7), holder(1, 6)]);
        assert_eq!(holders, [holder(1, 6), holder(1, 7), holder(2, 5)]);
    }
}
