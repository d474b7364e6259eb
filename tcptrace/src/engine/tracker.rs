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
use tcptrace_common::{Closing, SocketRow, Transition, TransitionFlags, Tuple, state};

use self::lives::Lives;
use self::sockets::Sockets;
use crate::events::Ending;
use crate::{
    engine::ring_event::RingEvent,
    engine::{age::Since, walk::Walk},
};
use finding::ending_of_leaving;
pub use finding::{Actor, Finding, Origin, is_opening, signs};
pub use found::Found;
pub use lives::Life;

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The states that are followed, as a mask. Sockets in others are forgotten.
    pub followed: u32,
    /// The states in which a socket can be stuck, as a mask; a part of `followed`.
    pub watched: u32,
    /// How long in a watched state is stuck, nanoseconds.
    pub threshold_ns: u64,
    /// After how long a socket that is still stuck is found stuck again, nanoseconds.
    pub remind_ns: Option<u64>,
    /// Whether a connection's life is told when it is over. All states are followed then.
    pub lives: bool,
}

/// What is known of one live socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its two ends, as complete as they have been seen.
    pub tuple: Tuple,
    /// Its network namespace; 0 where it is not known.
    pub netns: u32,
    /// Its state.
    pub state: u8,
    /// Since when it is in that state.
    pub since: Since,
    /// When something was last heard of it, `CLOCK_MONOTONIC` nanoseconds.
    heard_ns: u64,
    /// When it is to be judged next, likewise; [`NEVER`] where it is not.
    due_ns: u64,
    /// Whether it has been found stuck in this state.
    reported: bool,
}

const NEVER: u64 = u64::MAX;

/// The sockets that a walk did not see.
#[derive(Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Those that are gone, as they were known.
    pub gone: Vec<(u64, Socket)>,
    /// How many others may still be there: the walk does not cover their namespaces.
    pub unknown: usize,
}

/// How a socket left its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The state it left for.
    pub new_state: u8,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Who caused it.
    pub actor: Option<Actor>,
    /// In which way.
    pub how: Ending,
}

/// All sockets that are followed.
#[derive(Debug)]
pub struct Tracker {
    policy: Policy,
    sockets: Sockets,
    told_twice: u64,
    /// Where lives are to be told.
    lives: Option<Lives>,
}

impl Tracker {
    /// A tracker that knows no socket yet.
    pub fn new(policy: Policy) -> Self {
        let lives = policy.lives.then(Lives::default);
        Self { policy, sockets: Sockets::new(policy.lives), told_twice: 0, lives }
    }

    /// How many sockets are followed.
    pub const fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether none is.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that are followed, with their cookies, in no order.
    pub fn sockets(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.sockets.iter()
    }

    /// How many transitions two programs have written: the second record of each counts for nothing.
    pub const fn told_twice(&self) -> u64 {
        self.told_twice
    }

    /// Takes in what came through the ring.
    pub fn hear(&mut self, heard: &RingEvent, found: &mut impl FnMut(Finding)) {
        match heard {
            RingEvent::Transition(transition) => self.take(transition, None, found),
            RingEvent::Closing(closing) => self.take(&closing.transition, Some(closing), found),
        }
    }

    /// Takes in a transition, and what its socket's life came to where it is the last one and that is told.
    fn take(&mut self, transition: &Transition, closing: Option<&Closing>, found: &mut impl FnMut(Finding)) {
        let actor = Actor::of(transition);
        let Transition { ktime_ns, cookie, netns, old_state, new_state, .. } = *transition;
        let (known, origin) = self.sockets.known(cookie).unzip();
        if is_told_twice(transition, known) {
            self.told_twice += 1;
            return;
        }
        let tuple = complete(transition.tuple, known.map(|socket| socket.tuple));
        let netns = if netns == 0 { known.map_or(0, |socket| socket.netns) } else { netns };
        let origin = if is_opening(transition) {
            actor.map(|actor| Origin { actor, at_ns: ktime_ns })
        } else {
            origin.flatten()
        };
        let in_old_state_ns = known
            .filter(|socket| socket.state == old_state)
            .and_then(|socket| socket.since.exact_ns())
            .and_then(|since| ktime_ns.checked_sub(since));
        found(Finding::Transition {
            transition: Transition { tuple, netns, ..*transition },
            in_old_state_ns,
            actor,
            origin: origin.map(|origin| origin.actor).or_else(|| Actor::before(transition)),
        });
        if let Some(socket) = known.filter(|socket| ktime_ns < socket.heard_ns) {
            self.note(transition, None, actor);
            // A walk has already seen where this led to, or beyond; it still tells when that began.
            if socket.state == new_state && socket.since.includes(ktime_ns) {
                self.put(cookie, Socket { since: Since::exact(ktime_ns), tuple, ..socket });
            }
            return;
        }
        let ends = is_last(transition);
        if let Some(socket) = known.filter(|socket| socket.reported) {
            found(Finding::Cleared {
                cookie,
                socket,
                // A stand-in in the same state is not the socket, which is closed.
                new_state: if ends && new_state == old_state { state::CLOSE } else { new_state },
                at_ns: ktime_ns,
                actor,
                how: ending_of_leaving(transition),
            });
        }
        if let Some(lives) = self.lives.as_mut().filter(|_| ends)
            && let Some(life) =
                lives.end(self.sockets.course(cookie), transition, known.as_ref(), closing, actor, origin)
        {
            found(Finding::Life { cookie, tuple, netns, at_ns: ktime_ns, life });
        }
        self.put(
            cookie,
            Socket {
                tuple,
                netns,
                state: if ends { state::CLOSE } else { new_state },
                since: Since::exact(ktime_ns),
                heard_ns: ktime_ns,
                due_ns: NEVER,
                reported: false,
            },
        );
        if is_opening(transition) {
            self.sockets.set_origin(cookie, origin);
        }
        if !ends {
            self.note(transition, known.as_ref(), actor);
        }
    }

    /// Notes what a transition adds to its connection's course.
    fn note(&mut self, transition: &Transition, known: Option<&Socket>, actor: Option<Actor>) {
        if let Some(lives) = &mut self.lives
            && let Some(course) = self.sockets.course_mut(transition.cookie)
        {
            lives.hear(course, transition, known, actor);
        }
    }

    /// Takes in a socket that a walk saw, with what its clocks say about its age. Says whether this is a repair, after the
    /// first walk: it was not known, or thought to be in another state.
    pub fn row(&mut self, row: &SocketRow, since: Since, found: &mut impl FnMut(Finding)) -> bool {
        let SocketRow { ktime_ns, cookie, netns, state, .. } = *row;
        let seen = Socket {
            tuple: row.tuple,
            netns,
            state,
            since,
            heard_ns: ktime_ns,
            due_ns: NEVER,
            reported: false,
        };
        let Some(known) = self.sockets.get(cookie).copied() else {
            self.put(cookie, seen);
            if let Some(lives) = &self.lives
                && let Some(course) = self.sockets.course_mut(cookie)
            {
                *course = lives.meet(row);
            }
            return self.follows(state);
        };
        let tuple = complete(row.tuple, Some(known.tuple));
        if ktime_ns < known.heard_ns {
            return false;
        }
        if known.state == state {
            let since = known.since.narrowed_by(since);
            self.put(cookie, Socket { tuple, netns, since, heard_ns: ktime_ns, ..known });
            return false;
        }
        if known.reported {
            found(Finding::Cleared {
                cookie,
                socket: known,
                new_state: state,
                at_ns: ktime_ns,
                actor: None,
                how: Ending::Unknown,
            });
        }
        if let Some(course) = self.sockets.course_mut(cookie) {
            course.leave(&known, known.heard_ns);
        }
        // It came here at some time after it was last heard of.
        let since = since.narrowed_by(Since::between(Some(known.heard_ns), ktime_ns));
        self.put(cookie, Socket { tuple, since, ..seen });
        true
    }

    /// Ends a walk of all the followed states: forgets the sockets that it should have seen and did not.
    /// A socket is kept if the walk does not cover its namespace: it may still be there.
    pub fn walked(&mut self, walk: &Walk, found: &mut impl FnMut(Finding)) -> Unseen {
        if let Some(lives) = &mut self.lives {
            lives.forget_vanished();
        }
        let unseen = self.sockets.iter().filter(|(_, socket)| socket.heard_ns < walk.started_ns);
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
    pub fn left(&mut self, cookie: u64, from: u8, left: Left, found: &mut impl FnMut(Finding)) {
        let Left { new_state, at_ns, actor, how } = left;
        let Some(socket) = self.sockets.get(cookie).copied().filter(|socket| socket.state == from) else {
            return;
        };
        if socket.reported {
            found(Finding::Cleared { cookie, socket, new_state, at_ns, actor, how });
        }
        let since = Since::exact(at_ns);
        self.put(cookie, Socket { state: new_state, since, heard_ns: at_ns, reported: false, ..socket });
    }

    /// Forgets a socket that is no longer there, its closing never heard of.
    fn vanish(&mut self, cookie: u64, at_ns: u64, found: &mut impl FnMut(Finding)) {
        let (course, origin) = (self.sockets.course(cookie), self.sockets.origin(cookie));
        if let Some(socket) = self.sockets.remove(cookie) {
            self.count_listeners(Some(&socket), None);
            if socket.reported {
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
        let due_ns = if !watched {
            NEVER
        } else if socket.reported {
            socket.due_ns
        } else {
            socket.since.latest_ns().saturating_add(self.policy.threshold_ns)
        };
        self.replace(cookie, Socket { due_ns, ..socket });
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

/// Whether a socket is gone after it: closed, or replaced by a stand-in.
const fn is_last(transition: &Transition) -> bool {
    transition.new_state == state::CLOSE || transition.flags.contains(TransitionFlags::TIMEWAIT)
}

/// Whether the program that stands in for the first one wrote a transition that the first had written already: the
/// socket is known to have made it. One cannot make it twice without leaving that state in between; and one that is
/// known has not made its last.
fn is_told_twice(transition: &Transition, known: Option<Socket>) -> bool {
    transition.flags.contains(TransitionFlags::FALLBACK_RECORDED)
        && match known {
            Some(_) if is_last(transition) => false,
            Some(socket) => socket.state == transition.new_state && socket.since.exact_ns().is_some(),
            None => is_last(transition),
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
