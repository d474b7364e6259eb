//! Follows each socket through its states, and judges which are stuck.
//!
//! Pure: transitions, rows of a walk and the time come in as arguments, findings go out. It reads
//! no clock, kernel, process or format. Memory is bounded by the sockets that are open.
//!
//! Three rules keep it right from the start on, and after a loss:
//! - **The newest observation wins.** A row and a transition each carry the kernel's time. One
//!   that is older than what is known refines it and never reverts it.
//! - **A contradiction is repaired.** A row in another state than the tracked one means that
//!   transitions were lost; the row is right.
//! - **A report is confirmed.** A socket is reported stuck only if a walk that began after its
//!   threshold had passed saw it in that state.
//!
//! `judge.rs` has the deadlines and the judgement, `found.rs` what a walk adds to the transitions,
//! `lives.rs` what `--lives` reports, `containers.rs` how a million sockets are stored.

mod containers;
pub mod finding;
mod found;
mod judge;
pub mod lives;
pub mod socket;

use rustc_hash::FxHashSet;
use tcptrace_common::{Tuple, state};

use self::{
    containers::socket_table::SocketTable,
    finding::{Exit, Finding},
    lives::Lives,
    socket::{NEVER, Socket},
};
use crate::{
    engine::{
        age::Since,
        observation::Observation,
        state_change::{Origin, StateChange},
        walk::Walk,
    },
    events::Ending,
};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The states in which sockets are tracked, as a mask. A socket in another state is dropped.
    pub followed: u32,
    /// The states in which a socket can be stuck, as a mask; a part of `followed`.
    pub watched: u32,
    /// How long a socket has to be in a watched state to be stuck, nanoseconds.
    pub threshold_ns: u64,
    /// The time between two reports of a socket that is still stuck, nanoseconds; `None` to
    /// report it once.
    pub remind_ns: Option<u64>,
    /// Whether connections are followed to their end and reported then. If so, all states are
    /// followed.
    pub lives: bool,
}

/// The sockets that a walk did not see.
#[derive(Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The sockets that are gone, as they were known.
    pub gone: Vec<(u64, Socket)>,
    /// How many others may still be open: the walk does not cover their namespaces.
    pub unknown: usize,
}

/// All tracked sockets, and what is to be reported of them.
#[derive(Debug)]
pub struct Tracker {
    policy: Policy,
    sockets: SocketTable,
    duplicates: u64,
    /// Present if connections are followed to their end.
    lives: Option<Lives>,
}

/// What a state change and the socket before it say together.
struct Merged {
    tuple: Tuple,
    netns: u32,
    origin: Option<Origin>,
}

impl Tracker {
    /// Makes a tracker without sockets.
    pub fn new(policy: Policy) -> Self {
        let lives = policy.lives.then(Lives::default);
        Self { policy, sockets: SocketTable::new(policy.lives), duplicates: 0, lives }
    }

    /// The number of tracked sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket is tracked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tracked sockets with their cookies, in no order.
    pub fn sockets(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.sockets.iter()
    }

    /// The namespaces of all tracked sockets.
    pub fn namespaces(&self) -> FxHashSet<u32> {
        self.sockets.iter().map(|(_, socket)| socket.netns).collect()
    }

    /// How many transitions both the primary and the fallback program wrote. The second record of
    /// each is dropped.
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Applies a state change.
    pub fn apply_transition(&mut self, change: &StateChange, report: &mut impl FnMut(Finding)) {
        let (known, origin) = self.sockets.get_with_origin(change.cookie).unzip();
        if is_duplicate(change, known) {
            self.duplicates += 1;
            return;
        }
        let merged = Merged::new(change, known.as_ref(), origin.flatten());
        let Merged { tuple, netns, origin } = merged;
        let opener = origin.map(|origin| origin.actor).or(change.opener);
        report(Finding::Transition {
            change: StateChange { tuple, netns, opener, final_stats: None, ..*change },
            in_old_state_ns: time_in_old_state(change, known.as_ref()),
        });
        match known {
            Some(known) if change.at_ns < known.last_seen_ns => self.apply_late(change, tuple, known),
            _ => self.apply_newest(change, &merged, known.as_ref(), report),
        }
    }

    /// Applies a state change that is older than what is known: a walk has already seen the new
    /// state, or a later one. The change still says when the new state began.
    fn apply_late(&mut self, change: &StateChange, tuple: Tuple, known: Socket) {
        self.note_progress(change, None);
        if known.state == change.new_state && known.since.includes(change.at_ns) {
            self.store(change.cookie, Socket { since: Since::exact(change.at_ns), tuple, ..known });
        }
    }

    /// Applies a state change that is the newest that is known of its socket.
    fn apply_newest(
        &mut self,
        change: &StateChange,
        merged: &Merged,
        known: Option<&Socket>,
        report: &mut impl FnMut(Finding),
    ) {
        let StateChange { at_ns, cookie, new_state, .. } = *change;
        let Merged { tuple, netns, origin } = *merged;
        let is_last = change.is_last();
        report_cleared(change, known, report);
        if let Some(lives) = self.lives.as_mut().filter(|_| is_last)
            && let Some(life) = lives.end_connection(self.sockets.progress_of(cookie), change, known, origin)
        {
            report(Finding::Life { cookie, tuple, netns, at_ns, life });
        }
        self.store(
            cookie,
            Socket {
                tuple,
                netns,
                state: if is_last { state::CLOSE } else { new_state },
                since: Since::exact(at_ns),
                last_seen_ns: at_ns,
                deadline_ns: NEVER,
                is_reported: false,
            },
        );
        if change.is_opening() {
            self.sockets.set_origin(cookie, origin);
        }
        if !is_last {
            self.note_progress(change, known);
        }
    }

    /// Adds a state change to the progress of its connection. `known`: the socket before, if the
    /// change is the newest that is known of it.
    fn note_progress(&mut self, change: &StateChange, known: Option<&Socket>) {
        if let Some(lives) = &mut self.lives
            && let Some(progress) = self.sockets.progress_mut(change.cookie)
        {
            lives.apply_change(progress, change, known);
        }
    }

    /// Applies how a socket was observed. Returns whether this repaired something: the socket was
    /// unknown, or tracked in another state.
    pub fn observe_socket(&mut self, seen: &Observation, report: &mut impl FnMut(Finding)) -> bool {
        let Observation { at_ns, cookie, netns, tuple, state, since } = *seen;
        let seen = Socket {
            tuple,
            netns,
            state,
            since,
            last_seen_ns: at_ns,
            deadline_ns: NEVER,
            is_reported: false,
        };
        let Some(known) = self.sockets.get(cookie).copied() else {
            self.store(cookie, seen);
            if let Some(lives) = &self.lives
                && let Some(progress) = self.sockets.progress_mut(cookie)
            {
                *progress = lives.progress_at_first_sight(&seen);
            }
            return self.is_followed(state);
        };
        if at_ns < known.last_seen_ns {
            return false;
        }
        let tuple = completed(tuple, Some(known.tuple));
        if known.state == state {
            let since = known.since.narrowed_by(since);
            self.store(cookie, Socket { tuple, netns, since, last_seen_ns: at_ns, ..known });
            return false;
        }
        if known.is_reported {
            report(cleared_unseen(cookie, known, state, at_ns));
        }
        if let Some(progress) = self.sockets.progress_mut(cookie) {
            progress.leave_state(&known, known.last_seen_ns);
        }
        // It entered the state at some time after it was last seen.
        let since = since.narrowed_by(Since::between(Some(known.last_seen_ns), at_ns));
        self.store(cookie, Socket { tuple, since, ..seen });
        true
    }

    /// Ends a walk of all followed states: drops the sockets that it should have seen and did not.
    /// A socket is kept if the walk does not cover its namespace: it may still be open.
    pub fn sweep_unseen(&mut self, walk: &Walk, report: &mut impl FnMut(Finding)) -> Unseen {
        if let Some(lives) = &mut self.lives {
            lives.forget_reported_gone();
        }
        let unseen = self.sockets.iter().filter(|(_, socket)| socket.last_seen_ns < walk.started_ns);
        let unseen = unseen.map(|(cookie, socket)| (cookie, *socket));
        let (gone, unknown): (Vec<_>, Vec<_>) = unseen.partition(|(_, socket)| walk.covers(socket.netns));
        for (cookie, _) in &gone {
            self.remove_gone(*cookie, walk.started_ns, report);
        }
        Unseen { gone, unknown: unknown.len() }
    }

    /// Applies that a socket left a state, told by a record other than a transition. Does nothing
    /// if the socket is not tracked in that state.
    pub fn apply_exit(&mut self, cookie: u64, from_state: u8, exit: Exit, report: &mut impl FnMut(Finding)) {
        let Exit { new_state, at_ns, .. } = exit;
        let is_in_state = |socket: &Socket| socket.state == from_state;
        let Some(socket) = self.sockets.get(cookie).copied().filter(is_in_state) else { return };
        if socket.is_reported {
            report(Finding::Cleared { cookie, socket, exit });
        }
        let since = Since::exact(at_ns);
        self.store(
            cookie,
            Socket { state: new_state, since, last_seen_ns: at_ns, is_reported: false, ..socket },
        );
    }

    /// Removes a socket that is no longer open, although its last transition was not seen.
    fn remove_gone(&mut self, cookie: u64, at_ns: u64, report: &mut impl FnMut(Finding)) {
        let (progress, origin) = (self.sockets.progress_of(cookie), self.sockets.origin_of(cookie));
        let Some(socket) = self.sockets.remove(cookie) else { return };
        self.count_listener(Some(&socket), None);
        if socket.is_reported {
            report(cleared_unseen(cookie, socket, state::CLOSE, at_ns));
        }
        if let Some(lives) = &mut self.lives
            && let Some(life) = lives.end_gone_connection(progress, cookie, &socket, origin)
        {
            let Socket { tuple, netns, .. } = socket;
            report(Finding::Life { cookie, tuple, netns, at_ns, life });
        }
    }

    /// Stores a socket with the deadline that its state gives it, or drops it if its state is not
    /// followed.
    fn store(&mut self, cookie: u64, socket: Socket) {
        let is_watched = self.policy.watched & state::bit(socket.state) != 0;
        let deadline_ns = if !is_watched {
            NEVER
        } else if socket.is_reported {
            socket.deadline_ns
        } else {
            socket.since.latest_ns().saturating_add(self.policy.threshold_ns)
        };
        self.store_as_is(cookie, Socket { deadline_ns, ..socket });
    }

    /// Stores a socket with the deadline it has, or drops it if its state is not followed.
    fn store_as_is(&mut self, cookie: u64, socket: Socket) {
        let is_followed = self.is_followed(socket.state);
        let before =
            if is_followed { self.sockets.insert(cookie, socket) } else { self.sockets.remove(cookie) };
        self.count_listener(before.as_ref(), is_followed.then_some(&socket));
    }

    const fn is_followed(&self, state: u8) -> bool {
        state != state::CLOSE && self.policy.followed & state::bit(state) != 0
    }

    fn count_listener(&mut self, before: Option<&Socket>, now: Option<&Socket>) {
        if let Some(lives) = &mut self.lives {
            lives.count_listener(before, now);
        }
    }
}

impl Merged {
    /// Completes a state change by what is known of its socket. `origin`: the task that opened it.
    fn new(change: &StateChange, known: Option<&Socket>, origin: Option<Origin>) -> Self {
        let origin = if change.is_opening() {
            change.actor.map(|actor| Origin { actor, at_ns: change.at_ns })
        } else {
            origin
        };
        let netns = if change.netns == 0 { known.map_or(0, |socket| socket.netns) } else { change.netns };
        Self { tuple: completed(change.tuple, known.map(|socket| socket.tuple)), netns, origin }
    }
}

/// Returns how long a socket was in the old state, nanoseconds, if it was seen entering it.
fn time_in_old_state(change: &StateChange, known: Option<&Socket>) -> Option<u64> {
    let since_ns = known.filter(|socket| socket.state == change.old_state)?.since.exact_ns()?;
    change.at_ns.checked_sub(since_ns)
}

/// Reports that a state change ends the stuck state of its socket, if it was reported.
fn report_cleared(change: &StateChange, known: Option<&Socket>, report: &mut impl FnMut(Finding)) {
    let Some(socket) = known.copied().filter(|socket| socket.is_reported) else { return };
    let StateChange { at_ns, cookie, old_state, new_state, actor, .. } = *change;
    // A timewait socket in the same state is not the socket, which is closed.
    let new_state = if change.is_last() && new_state == old_state { state::CLOSE } else { new_state };
    report(Finding::Cleared { cookie, socket, exit: Exit { new_state, at_ns, actor, how: change.ending } });
}

/// Makes the finding that a stuck socket has left its state without a transition that says how.
const fn cleared_unseen(cookie: u64, socket: Socket, new_state: u8, at_ns: u64) -> Finding {
    Finding::Cleared { cookie, socket, exit: Exit { new_state, at_ns, actor: None, how: Ending::Unknown } }
}

/// Whether the primary program has already written the transition that a fallback program wrote:
/// the socket is known to have made it. A socket cannot make the same transition twice without
/// leaving the state in between, and a socket that is still known has not made its last.
fn is_duplicate(change: &StateChange, known: Option<Socket>) -> bool {
    change.is_fallback
        && match known {
            Some(_) if change.is_last() => false,
            Some(socket) => socket.state == change.new_state && socket.since.exact_ns().is_some(),
            None => change.is_last(),
        }
}

/// Completes a tuple from an earlier observation of the same socket. A port is missing that the
/// kernel had not chosen yet; the peer of a listener's child, on older kernels; the interface, in
/// a transition without BTF.
fn completed(mut tuple: Tuple, known: Option<Tuple>) -> Tuple {
    let Some(known) = known else { return tuple };
    if tuple.local_port == 0 {
        tuple.local_port = known.local_port;
    }
    if tuple.remote_port == 0 {
        (tuple.remote_addr, tuple.remote_port) = (known.remote_addr, known.remote_port);
    }
    if tuple.interface == 0 {
        tuple.interface = known.interface;
    }
    tuple
}

#[cfg(test)]
mod tests;
