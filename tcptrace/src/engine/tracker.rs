//! Follows each socket from what the kernel tells, and judges which are stuck.
//!
//! Pure: transitions, rows of a walk and the time come in as arguments, findings go out. It knows no clock,
//! kernel, process or format. Memory is bounded by the sockets there are: an entry per live socket, none for a
//! closed one.
//!
//! Three rules make it right across the start, and after a loss:
//! - What is newer wins. A row and a transition each carry the kernel's time; one that is older than what is
//!   known refines it and never turns it back.
//! - What cannot be is repaired. A row in another state than the one tracked means that transitions were
//!   lost; the row is right.
//! - Nothing is reported unseen. A socket is found stuck only where a walk that began after its threshold
//!   had passed saw it in that state.

pub mod dense;
pub mod due;
pub mod finding;
pub mod found;
pub mod judge;
pub mod lives;
pub mod origins;
pub mod places;
pub mod sockets;

use rustc_hash::FxHashSet;
use tcptrace_common::{Tuple, state};

use self::{finding::Finding, lives::Lives, sockets::Sockets};
use crate::{
    engine::{
        age::Since,
        observation::Observation,
        state_change::{Actor, Origin, StateChange},
        walk::Walk,
    },
    events::Ending,
};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The states in which sockets are tracked, as a mask. Sockets in other states are forgotten.
    pub followed: u32,
    /// The states in which a socket can be stuck, as a mask; a part of `followed`.
    pub watched: u32,
    /// How long a socket has to be in a watched state to be stuck, nanoseconds.
    pub threshold_ns: u64,
    /// The time between two reports of a socket that is still stuck, nanoseconds; `None`: it is reported once.
    pub remind_ns: Option<u64>,
    /// Whether connections are followed to their end and reported then. All states are followed if so.
    pub lives: bool,
}

/// What is known of one live socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its two ends, as complete as they have been seen.
    pub tuple: Tuple,
    /// Its network namespace; 0 if unknown.
    pub netns: u32,
    /// Its state.
    pub state: u8,
    /// Since when it is in that state.
    pub since: Since,
    /// When it was last seen, in a transition or by a walk, `CLOCK_MONOTONIC` nanoseconds.
    last_seen_ns: u64,
    /// When it is to be judged next, `CLOCK_MONOTONIC` nanoseconds; [`NEVER`] if it is not.
    deadline_ns: u64,
    /// Whether it has been reported stuck in this state.
    is_reported: bool,
}

const NEVER: u64 = u64::MAX;

/// The sockets that a walk did not see.
#[derive(Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Those that are gone, as they were known.
    pub gone: Vec<(u64, Socket)>,
    /// How many others may still be open: the walk does not cover their namespaces.
    pub unknown: usize,
}

/// How a socket left its state, as a record other than a transition says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The state it entered.
    pub new_state: u8,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The task that caused it.
    pub actor: Option<Actor>,
    /// How it left.
    pub how: Ending,
}

/// All sockets that are tracked.
#[derive(Debug)]
pub struct Tracker {
    policy: Policy,
    sockets: Sockets,
    duplicates: u64,
    /// Present if connections are followed to their end.
    lives: Option<Lives>,
}

impl Tracker {
    /// Makes a tracker that knows no socket yet.
    pub fn new(policy: Policy) -> Self {
        let lives = policy.lives.then(Lives::default);
        Self { policy, sockets: Sockets::new(policy.lives), duplicates: 0, lives }
    }

    /// The number of sockets that are tracked.
    pub const fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket is tracked.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All sockets that are tracked, with their cookies, in no order.
    pub fn sockets(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.sockets.iter()
    }

    /// How many transitions both the primary and the fallback program wrote. The second record of each is dropped.
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Applies a state change.
    pub fn apply_transition(&mut self, change: &StateChange, found: &mut impl FnMut(Finding)) {
        let StateChange { at_ns, cookie, old_state, new_state, actor, .. } = *change;
        let (known, origin) = self.sockets.known(cookie).unzip();
        if is_duplicate(change, known) {
            self.duplicates += 1;
            return;
        }
        let tuple = complete(change.tuple, known.map(|socket| socket.tuple));
        let netns = if change.netns == 0 { known.map_or(0, |socket| socket.netns) } else { change.netns };
        let origin =
            if change.is_opening() { actor.map(|actor| Origin { actor, at_ns }) } else { origin.flatten() };
        let in_old_state_ns = known
            .filter(|socket| socket.state == old_state)
            .and_then(|socket| socket.since.exact_ns())
            .and_then(|since| at_ns.checked_sub(since));
        let opener = origin.map(|origin| origin.actor).or(change.opener);
        found(Finding::Transition {
            change: StateChange { tuple, netns, opener, final_stats: None, ..*change },
            in_old_state_ns,
        });
        if let Some(socket) = known.filter(|socket| at_ns < socket.last_seen_ns) {
            self.note(change, None);
            // A walk has already seen the new state, or a later one. The change still says when that began.
            if socket.state == new_state && socket.since.includes(at_ns) {
                self.put(cookie, Socket { since: Since::exact(at_ns), tuple, ..socket });
            }
            return;
        }
        let is_last = change.is_last();
        if let Some(socket) = known.filter(|socket| socket.is_reported) {
            found(Finding::Cleared {
                cookie,
                socket,
                // A timewait socket in the same state is not the socket, which is closed.
                new_state: if is_last && new_state == old_state { state::CLOSE } else { new_state },
                at_ns,
                actor,
                how: change.ending,
            });
        }
        if let Some(lives) = self.lives.as_mut().filter(|_| is_last)
            && let Some(life) = lives.end(self.sockets.course(cookie), change, known.as_ref(), origin)
        {
            found(Finding::Life { cookie, tuple, netns, at_ns, life });
        }
        self.put(
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
            self.note(change, known.as_ref());
        }
    }

    /// Notes what a state change adds to its connection's course.
    fn note(&mut self, change: &StateChange, known: Option<&Socket>) {
        if let Some(lives) = &mut self.lives
            && let Some(course) = self.sockets.course_mut(change.cookie)
        {
            lives.hear(course, change, known);
        }
    }

    /// Takes in a socket that a walk saw, with what its clocks say about its age. Says whether this is a repair, after the
    /// first walk: it was not known, or thought to be in another state.
    pub fn observe_socket(&mut self, seen: &Observation, found: &mut impl FnMut(Finding)) -> bool {
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
            self.put(cookie, seen);
            if let Some(lives) = &self.lives
                && let Some(course) = self.sockets.course_mut(cookie)
            {
                *course = lives.meet(&seen);
            }
            return self.follows(state);
        };
        let tuple = complete(tuple, Some(known.tuple));
        if at_ns < known.last_seen_ns {
            return false;
        }
        if known.state == state {
            let since = known.since.narrowed_by(since);
            self.put(cookie, Socket { tuple, netns, since, last_seen_ns: at_ns, ..known });
            return false;
        }
        if known.is_reported {
            found(Finding::Cleared {
                cookie,
                socket: known,
                new_state: state,
                at_ns,
                actor: None,
                how: Ending::Unknown,
            });
        }
        if let Some(course) = self.sockets.course_mut(cookie) {
            course.leave(&known, known.last_seen_ns);
        }
        // It came here at some time after it was last heard of.
        let since = since.narrowed_by(Since::between(Some(known.last_seen_ns), at_ns));
        self.put(cookie, Socket { tuple, since, ..seen });
        true
    }

    /// Ends a walk of all the followed states: forgets the sockets that it should have seen and did not.
    /// A socket is kept if the walk does not cover its namespace: it may still be there.
    pub fn sweep_unseen(&mut self, walk: &Walk, found: &mut impl FnMut(Finding)) -> Unseen {
        if let Some(lives) = &mut self.lives {
            lives.forget_vanished();
        }
        let unseen = self.sockets.iter().filter(|(_, socket)| socket.last_seen_ns < walk.started_ns);
        let unseen = unseen.map(|(cookie, socket)| (cookie, *socket));
        let (gone, unknown): (Vec<_>, Vec<_>) = unseen.partition(|(_, socket)| walk.covers(socket.netns));
        for (cookie, _) in &gone {
            self.vanish(*cookie, walk.started_ns, found);
        }
        Unseen { gone, unknown: unknown.len() }
    }

    /// The namespaces of all sockets.
    pub fn namespaces(&self) -> FxHashSet<u32> {
        self.sockets.iter().map(|(_, socket)| socket.netns).collect()
    }

    /// Takes in that a socket left a state, where no transition tells it.
    pub fn apply_exit(&mut self, cookie: u64, from_state: u8, exit: Exit, found: &mut impl FnMut(Finding)) {
        let Exit { new_state, at_ns, actor, how } = exit;
        let Some(socket) = self.sockets.get(cookie).copied().filter(|socket| socket.state == from_state)
        else {
            return;
        };
        if socket.is_reported {
            found(Finding::Cleared { cookie, socket, new_state, at_ns, actor, how });
        }
        let since = Since::exact(at_ns);
        self.put(
            cookie,
            Socket { state: new_state, since, last_seen_ns: at_ns, is_reported: false, ..socket },
        );
    }

    /// Forgets a socket that is no longer there, its closing never heard of.
    fn vanish(&mut self, cookie: u64, at_ns: u64, found: &mut impl FnMut(Finding)) {
        let (course, origin) = (self.sockets.course(cookie), self.sockets.origin(cookie));
        if let Some(socket) = self.sockets.remove(cookie) {
            self.count_listeners(Some(&socket), None);
            if socket.is_reported {
                found(Finding::Cleared {
                    cookie,
                    socket,
                    new_state: state::CLOSE,
                    at_ns,
                    actor: None,
                    how: Ending::Unknown,
                });
            }
            let lives = self.lives.as_mut();
            if let Some(life) = lives.and_then(|lives| lives.vanish(course, cookie, &socket, origin)) {
                let Socket { tuple, netns, .. } = socket;
                found(Finding::Life { cookie, tuple, netns, at_ns, life });
            }
        }
    }

    /// Puts a socket in its place with the time at which it is to be judged, or drops it where its state is not
    /// followed.
    fn put(&mut self, cookie: u64, socket: Socket) {
        let watched = self.policy.watched & state::bit(socket.state) != 0;
        let deadline_ns = if !watched {
            NEVER
        } else if socket.is_reported {
            socket.deadline_ns
        } else {
            socket.since.latest_ns().saturating_add(self.policy.threshold_ns)
        };
        self.replace(cookie, Socket { deadline_ns, ..socket });
    }

    fn replace(&mut self, cookie: u64, socket: Socket) {
        let followed = self.follows(socket.state);
        let before = if followed { self.sockets.insert(cookie, socket) } else { self.sockets.remove(cookie) };
        self.count_listeners(before.as_ref(), followed.then_some(&socket));
    }

    const fn follows(&self, state: u8) -> bool {
        state != state::CLOSE && self.policy.followed & state::bit(state) != 0
    }

    /// Keeps count of who listens, where what was known of a socket gives way to what is.
    fn count_listeners(&mut self, before: Option<&Socket>, now: Option<&Socket>) {
        if let Some(lives) = &mut self.lives {
            lives.count_listeners(before, now);
        }
    }
}

/// Whether the primary program has already written the transition that a fallback program wrote: the socket is known to have
/// made it. A socket cannot make the same transition twice without leaving the state in between, and one that is still known
/// has not made its last.
fn is_duplicate(change: &StateChange, known: Option<Socket>) -> bool {
    change.is_fallback
        && match known {
            Some(_) if change.is_last() => false,
            Some(socket) => socket.state == change.new_state && socket.since.exact_ns().is_some(),
            None => change.is_last(),
        }
}

/// A tuple with what is missing filled in from an earlier sight of the same socket: the port that the kernel
/// had not chosen yet, the peer that a child of a listener does not have yet on older kernels, the interface that a
/// transition does not tell without BTF.
fn complete(mut tuple: Tuple, known: Option<Tuple>) -> Tuple {
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
