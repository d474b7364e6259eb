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

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use rustix::io::Errno;
use tcptrace_common::{
    ACTOR_KNOWN, COMM_LEN, EXITING, PROCESS_NAMED, SocketRow, TAKEN_OVER, Transition, Tuple, state,
};

use crate::{age::Since, walk::Walk};

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
}

/// The task that caused a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Thread group id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// The process's name, NUL-padded; `None` where only that of another of its threads can be read.
    pub comm: Option<[u8; COMM_LEN]>,
    /// The thread's name, NUL-padded.
    pub thread_comm: [u8; COMM_LEN],
}

impl Actor {
    fn of(transition: &Transition) -> Option<Self> {
        let Transition { flags, pid, tid, uid, comm, thread_comm, .. } = *transition;
        // The first thread has the process's name.
        let leader = Some(thread_comm).filter(|_| pid == tid);
        let comm = Some(comm).filter(|_| flags & PROCESS_NAMED != 0).or(leader);
        (flags & ACTOR_KNOWN != 0).then_some(Self { pid, tid, uid, comm, thread_comm })
    }
}

/// Where a socket came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The task that called connect(2) or listen(2).
    pub actor: Actor,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
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
    /// Who connected it, or made it listen.
    pub origin: Option<Origin>,
    /// When something was last heard of it, `CLOCK_MONOTONIC` nanoseconds.
    heard_ns: u64,
    /// When it is to be judged next, likewise; [`NEVER`] where it is not.
    due_ns: u64,
    /// Whether it has been found stuck in this state.
    reported: bool,
}

const NEVER: u64 = u64::MAX;

/// What the tracker has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A socket changed its state.
    Transition {
        /// The record, its tuple completed.
        transition: Transition,
        /// How long it was in the old state, nanoseconds, where both ends of that time were seen.
        in_old_state_ns: Option<u64>,
        /// Who caused it.
        actor: Option<Actor>,
        /// Who connected the socket, or made it listen.
        origin: Option<Origin>,
    },
    /// A socket has been in a watched state for longer than the threshold, and a walk has just seen it so.
    Stuck {
        /// The socket's identity.
        cookie: u64,
        /// What is known of it.
        socket: Socket,
        /// When the walk saw it, `CLOCK_MONOTONIC` nanoseconds.
        seen_ns: u64,
    },
    /// A socket that was found stuck has left that state.
    Cleared {
        /// The socket's identity.
        cookie: u64,
        /// What was known of it while it was stuck.
        socket: Socket,
        /// The state it left for.
        new_state: u8,
        /// When, `CLOCK_MONOTONIC` nanoseconds; where the transition was lost, when that was noticed.
        at_ns: u64,
        /// Who caused it.
        actor: Option<Actor>,
        /// In which way.
        how: Ending,
    },
}

/// How a socket left a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its process closed it, or shut down its side.
    Closed,
    /// Its process exited, and the kernel closed it.
    Exited,
    /// The peer reset the connection.
    Reset,
    /// The kernel gave up waiting for the peer.
    TimedOut,
    /// An administrator destroyed it (`ss --kill`).
    Destroyed,
    /// The connection went its way, and no process had a part in that.
    Peer,
    /// Nobody saw it.
    Unknown,
}

impl Ending {
    fn of(transition: &Transition) -> Self {
        let Transition { flags, old_state, new_state, sk_err, .. } = *transition;
        if flags & EXITING != 0 {
            return Self::Exited;
        }
        if flags & ACTOR_KNOWN != 0 {
            return Self::Closed;
        }
        match new_state {
            state::CLOSE if sk_err == Errno::TIMEDOUT.raw_os_error() => Self::TimedOut,
            state::CLOSE if sk_err == Errno::CONNABORTED.raw_os_error() => Self::Destroyed,
            state::CLOSE if sk_err != 0 => Self::Reset,
            // With no error it is the process's doing, which here was not seen.
            state::CLOSE if matches!(old_state, state::SYN_SENT | state::ESTABLISHED | state::CLOSE_WAIT) => {
                Self::Unknown
            }
            _ => Self::Peer,
        }
    }
}

/// All sockets that are followed.
#[derive(Debug)]
pub struct Tracker {
    policy: Policy,
    sockets: FxHashMap<u64, Socket>,
    /// (when to judge, whom), so that the next one is the first.
    due: BTreeSet<(u64, u64)>,
    told_twice: u64,
}

impl Tracker {
    /// A tracker that knows no socket yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, sockets: FxHashMap::default(), due: BTreeSet::new(), told_twice: 0 }
    }

    /// How many sockets are followed.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// How many transitions two programs have written: the second record of each counts for nothing.
    pub const fn told_twice(&self) -> u64 {
        self.told_twice
    }

    /// Takes in a transition.
    pub fn transition(&mut self, transition: &Transition, found: &mut impl FnMut(Finding)) {
        let actor = Actor::of(transition);
        let Transition { ktime_ns, cookie, netns, old_state, new_state, .. } = *transition;
        let known = self.sockets.get(&cookie).copied();
        if is_told_twice(transition, known) {
            self.told_twice += 1;
            return;
        }
        let tuple = complete(transition.tuple, known.map(|socket| socket.tuple));
        let netns = if netns == 0 { known.map_or(0, |socket| socket.netns) } else { netns };
        let opens = old_state == state::CLOSE && matches!(new_state, state::SYN_SENT | state::LISTEN);
        let origin = if opens {
            actor.map(|actor| Origin { actor, at_ns: ktime_ns })
        } else {
            known.and_then(|socket| socket.origin)
        };
        let in_old_state_ns = known
            .filter(|socket| socket.state == old_state)
            .and_then(|socket| socket.since.exact_ns())
            .and_then(|since| ktime_ns.checked_sub(since));
        found(Finding::Transition {
            transition: Transition { tuple, netns, ..*transition },
            in_old_state_ns,
            actor,
            origin,
        });
        if let Some(socket) = known.filter(|socket| ktime_ns < socket.heard_ns) {
            // A walk has already seen where this led to, or beyond; it still tells when that began.
            if socket.state == new_state && socket.since.includes(ktime_ns) {
                self.put(cookie, Socket { since: Since::exact(ktime_ns), tuple, ..socket });
            }
            return;
        }
        if let Some(socket) = known.filter(|socket| socket.reported) {
            found(Finding::Cleared {
                cookie,
                socket,
                new_state,
                at_ns: ktime_ns,
                actor,
                how: Ending::of(transition),
            });
        }
        self.put(
            cookie,
            Socket {
                tuple,
                netns,
                state: new_state,
                since: Since::exact(ktime_ns),
                origin,
                heard_ns: ktime_ns,
                due_ns: NEVER,
                reported: false,
            },
        );
    }

    /// Takes in a socket that a walk saw, with what its clocks say about its age. Says whether this repaired
    /// something: the state tracked so far was not the right one.
    pub fn row(&mut self, row: &SocketRow, since: Since, found: &mut impl FnMut(Finding)) -> bool {
        let SocketRow { ktime_ns, cookie, netns, state, .. } = *row;
        let seen = Socket {
            tuple: row.tuple,
            netns,
            state,
            since,
            origin: None,
            heard_ns: ktime_ns,
            due_ns: NEVER,
            reported: false,
        };
        let Some(known) = self.sockets.get(&cookie).copied() else {
            self.put(cookie, seen);
            return false;
        };
        let (tuple, origin) = (complete(row.tuple, Some(known.tuple)), known.origin);
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
        // It came here at some time after it was last heard of.
        let since = since.narrowed_by(Since::between(Some(known.heard_ns), ktime_ns));
        self.put(cookie, Socket { tuple, since, origin, ..seen });
        true
    }

    /// Ends a walk of all the followed states: forgets the sockets that it should have seen and did not.
    /// Returns how many those were.
    pub fn walked(&mut self, walk: &Walk, found: &mut impl FnMut(Finding)) -> usize {
        let vanished: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| {
                socket.heard_ns < walk.started_ns
                    && (socket.netns == 0 || walk.namespaces.contains(&socket.netns))
            })
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in &vanished {
            self.vanish(*cookie, walk.started_ns, found);
        }
        vanished.len()
    }

    /// When the next socket is to be judged, `CLOCK_MONOTONIC` nanoseconds: a walk after that time, and then
    /// [`Self::judge`], tell whether it is stuck.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Judges every socket that was due before the walk began. The walk's rows, and the transitions that
    /// happened during it, have been taken in.
    pub fn judge(&mut self, walk: &Walk, found: &mut impl FnMut(Finding)) {
        while let Some((due, cookie)) = self.due.first().copied().filter(|(due, _)| *due <= walk.started_ns) {
            let Some(socket) = self.sockets.get(&cookie).copied() else {
                self.due.remove(&(due, cookie));
                continue;
            };
            if socket.heard_ns < walk.started_ns {
                self.vanish(cookie, walk.started_ns, found);
                continue;
            }
            found(Finding::Stuck { cookie, socket, seen_ns: socket.heard_ns });
            let again =
                self.policy.remind_ns.map_or(NEVER, |remind| socket.heard_ns.saturating_add(remind.max(1)));
            self.replace(cookie, Socket { reported: true, due_ns: again, ..socket });
        }
    }

    /// Judges every socket by what was last heard of it, without waiting for those whose time has yet to come: for one
    /// walk, taken in just before. Returns those in a watched state that are not proven to be stuck there.
    pub fn judge_as_heard(&self, found: &mut impl FnMut(Finding)) -> Vec<(u64, Socket)> {
        let is_stuck = |socket: &Socket| socket.due_ns <= socket.heard_ns;
        let watched = self.sockets.iter().filter(|(_, socket)| socket.due_ns != NEVER);
        let (mut stuck, others): (Vec<_>, Vec<_>) = watched.partition(|(_, socket)| is_stuck(socket));
        stuck.sort_unstable_by_key(|(cookie, socket)| (socket.due_ns, **cookie));
        for (cookie, socket) in stuck {
            found(Finding::Stuck { cookie: *cookie, socket: *socket, seen_ns: socket.heard_ns });
        }
        others.into_iter().map(|(cookie, socket)| (*cookie, *socket)).collect()
    }

    /// Forgets a socket that is no longer there, its closing never heard of.
    fn vanish(&mut self, cookie: u64, at_ns: u64, found: &mut impl FnMut(Finding)) {
        if let Some(socket) = self.sockets.remove(&cookie) {
            self.due.remove(&(socket.due_ns, cookie));
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
        let followed = socket.state != state::CLOSE && self.policy.followed & state::bit(socket.state) != 0;
        let before =
            if followed { self.sockets.insert(cookie, socket) } else { self.sockets.remove(&cookie) };
        let due_before = before.map_or(NEVER, |before| before.due_ns);
        let due_now = if followed { socket.due_ns } else { NEVER };
        if due_before != due_now {
            self.due.remove(&(due_before, cookie));
            if due_now != NEVER {
                self.due.insert((due_now, cookie));
            }
        }
    }
}

/// Whether the program that stands in for the first one wrote a transition that the first had written already: the
/// socket is known to have made it. One cannot make it twice without leaving that state in between.
fn is_told_twice(transition: &Transition, known: Option<Socket>) -> bool {
    transition.flags & TAKEN_OVER != 0
        && match known {
            Some(socket) => socket.state == transition.new_state && socket.since.exact_ns().is_some(),
            None => transition.new_state == state::CLOSE,
        }
}

/// A tuple with what is missing filled in from an earlier sight of the same socket: the port that the kernel
/// had not chosen yet, the peer that a child of a listener does not have yet on older kernels.
fn complete(mut tuple: Tuple, known: Option<Tuple>) -> Tuple {
    let Some(known) = known else { return tuple };
    if tuple.local_port == 0 {
        tuple.local_port = known.local_port;
    }
    if tuple.remote_port == 0 {
        (tuple.remote_addr, tuple.remote_port) = (known.remote_addr, known.remote_port);
    }
    tuple
}

#[cfg(test)]
mod tests;
