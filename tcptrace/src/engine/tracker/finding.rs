//! What the tracker has to say: findings, the actors in them, and how a socket left its state.

use rustix::io::Errno;
use tcptrace_common::{COMM_LEN, OpenCall, OpenerFlags, Task, Transition, TransitionFlags, Tuple, state};

use crate::{
    engine::tracker::{Socket, found::Found, lives::Life},
    events::Ending,
};

/// The task that caused a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Who caused it.
    pub(crate) fn of(transition: &Transition) -> Option<Self> {
        Self::told(transition, TransitionFlags::ACTOR_KNOWN)
    }

    /// Who had accepted or connected the socket before, where the kernel tells that instead.
    pub(crate) fn before(transition: &Transition) -> Option<Self> {
        Self::told(transition, TransitionFlags::OPENER_KNOWN)
    }

    fn told(transition: &Transition, known: TransitionFlags) -> Option<Self> {
        transition
            .flags
            .contains(known)
            .then(|| Self::new(&transition.task, transition.flags.contains(TransitionFlags::PROCESS_NAMED)))
    }

    /// Takes the task from a record; `is_named` says whether the record has the process's name.
    pub fn new(task: &Task, is_named: bool) -> Self {
        let Task { pid, tid, uid, comm, thread_comm } = *task;
        // The first thread has the process's name.
        let leader = Some(thread_comm).filter(|_| pid == tid);
        let comm = Some(comm).filter(|_| is_named).or(leader);
        Self { pid, tid, uid, comm, thread_comm }
    }
}

/// Where a socket came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The task that called connect(2), accept(2) or listen(2).
    pub actor: Actor,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
}

/// What the kernel has noted with a socket.
impl From<&tcptrace_common::Opener> for Origin {
    fn from(noted: &tcptrace_common::Opener) -> Self {
        Self {
            actor: Actor::new(&noted.task, noted.flags.contains(OpenerFlags::PROCESS_NAMED)),
            at_ns: noted.ktime_ns,
        }
    }
}

/// Whether a transition is the beginning of a socket that its process opens: who acts is where it comes from.
pub const fn is_opening(transition: &Transition) -> bool {
    OpenCall::of_transition(transition.old_state, transition.new_state).is_some()
}

/// What the tracker has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A socket changed its state.
    Transition {
        /// The record, its tuple completed.
        transition: Transition,
        /// How long it was in the old state, nanoseconds, where both ends of that time were seen.
        in_old_state_ns: Option<u64>,
        /// Who caused it.
        actor: Option<Actor>,
        /// Who connected or accepted the socket, or made it listen.
        origin: Option<Actor>,
    },
    /// A socket has been in a watched state for longer than the threshold, and a walk has just seen it so.
    Stuck(Found),
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
    /// A connection's life is over.
    Life {
        /// The socket's identity.
        cookie: u64,
        /// Its two ends.
        tuple: Tuple,
        /// Its network namespace; 0 where it is not known.
        netns: u32,
        /// When it ended, `CLOCK_MONOTONIC` nanoseconds; where that was lost, when it was noticed.
        at_ns: u64,
        /// What it came to.
        life: Life,
    },
}

/// What makes a transition one that came about in this way: (flags, `sk_err`), the inverse of [`ending`].
pub const fn signs(how: Option<Ending>) -> (TransitionFlags, i32) {
    match how {
        Some(Ending::Closed) => (TransitionFlags::ACTOR_KNOWN, 0),
        Some(Ending::Exited) => (TransitionFlags::ACTOR_KNOWN.union(TransitionFlags::EXITING), 0),
        Some(Ending::Reset) => (TransitionFlags::empty(), Errno::CONNRESET.raw_os_error()),
        Some(Ending::TimedOut) => (TransitionFlags::empty(), Errno::TIMEDOUT.raw_os_error()),
        Some(Ending::Destroyed) => (TransitionFlags::empty(), Errno::CONNABORTED.raw_os_error()),
        Some(Ending::Peer) => (TransitionFlags::COMPLETED, 0),
        Some(Ending::Unknown) | None => (TransitionFlags::empty(), 0),
    }
}

/// Returns how a transition came about; `None` for a connection or a listener that is opening.
pub fn ending(transition: &Transition) -> Option<Ending> {
    let Transition { old_state, new_state, .. } = *transition;
    let opens =
        matches!(old_state, state::CLOSE) || matches!(new_state, state::SYN_RECV | state::ESTABLISHED);
    (!opens).then(|| ending_of_leaving(transition))
}

/// Returns how a transition came about that leaves a state for good.
pub(crate) fn ending_of_leaving(transition: &Transition) -> Ending {
    let Transition { flags, old_state, new_state, sk_err, .. } = *transition;
    if flags.contains(TransitionFlags::EXITING) {
        return Ending::Exited;
    }
    if flags.contains(TransitionFlags::ACTOR_KNOWN) {
        return Ending::Closed;
    }
    let is = |errno: Errno| sk_err == errno.raw_os_error();
    match new_state {
        // Its process had closed it before.
        state::FIN_WAIT2 if flags.contains(TransitionFlags::TIMEWAIT) => Ending::Unknown,
        // A walk of descriptors dropped the last reference: its actor is not named (`kernel/walker.rs`).
        state::FIN_WAIT1 if old_state == state::ESTABLISHED => Ending::Unknown,
        state::LAST_ACK if old_state == state::CLOSE_WAIT => Ending::Unknown,
        state::CLOSE if is(Errno::CONNABORTED) => Ending::Destroyed,
        state::CLOSE if is(Errno::CONNRESET) || is(Errno::PIPE) || is(Errno::CONNREFUSED) => Ending::Reset,
        // While it connects a router turns it down as well: unreachable.
        state::CLOSE if sk_err != 0 && !is(Errno::TIMEDOUT) && old_state == state::SYN_SENT => Ending::Reset,
        // A peer that is unreachable is told when the time is up (`tcp_write_err`, `net/ipv4/tcp_timer.c`).
        state::CLOSE if sk_err != 0 => Ending::TimedOut,
        state::CLOSE if flags.contains(TransitionFlags::COMPLETED) => Ending::Peer,
        // It is the process's doing, which here was not seen, or a timer's; or the error is not known.
        state::CLOSE => Ending::Unknown,
        _ => Ending::Peer,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    const ENDINGS: [Ending; 7] = [
        Ending::Closed,
        Ending::Exited,
        Ending::Reset,
        Ending::TimedOut,
        Ending::Destroyed,
        Ending::Peer,
        Ending::Unknown,
    ];

    fn ended(old_state: u8, flags: TransitionFlags, sk_err: i32) -> Ending {
        let transition =
            Transition { old_state, new_state: state::CLOSE, flags, sk_err, ..Transition::zeroed() };
        ending_of_leaving(&transition)
    }

    #[test]
    fn the_signs_of_an_ending_are_read_as_that_ending() {
        for how in ENDINGS {
            let (flags, sk_err) = signs(Some(how));
            for old_state in [state::FIN_WAIT1, state::FIN_WAIT2, state::CLOSING, state::LAST_ACK] {
                assert_eq!(ended(old_state, flags, sk_err), how, "{old_state}");
            }
        }
    }

    #[test]
    fn an_error_says_who_ended_it() {
        let of = |old_state, errno: Errno| ended(old_state, TransitionFlags::empty(), errno.raw_os_error());
        for old_state in [state::ESTABLISHED, state::CLOSE_WAIT, state::FIN_WAIT1, state::LAST_ACK] {
            assert_eq!(of(old_state, Errno::CONNRESET), Ending::Reset);
            assert_eq!(of(old_state, Errno::PIPE), Ending::Reset);
            assert_eq!(of(old_state, Errno::CONNABORTED), Ending::Destroyed);
            assert_eq!(of(old_state, Errno::TIMEDOUT), Ending::TimedOut);
            assert_eq!(of(old_state, Errno::HOSTUNREACH), Ending::TimedOut, "after as many attempts");
        }
        assert_eq!(of(state::SYN_SENT, Errno::CONNREFUSED), Ending::Reset);
        assert_eq!(of(state::SYN_SENT, Errno::HOSTUNREACH), Ending::Reset, "a router turned it down");
        assert_eq!(of(state::SYN_SENT, Errno::TIMEDOUT), Ending::TimedOut);
    }

    #[test]
    fn a_stand_in_takes_the_place_of_what_its_process_or_the_peer_has_ended() {
        let replaced = |new_state, flags| {
            let flags = flags | TransitionFlags::TIMEWAIT;
            let transition =
                Transition { old_state: state::FIN_WAIT2, new_state, flags, ..Transition::zeroed() };
            ending_of_leaving(&transition)
        };
        assert_eq!(replaced(state::FIN_WAIT2, TransitionFlags::ACTOR_KNOWN), Ending::Closed);
        assert_eq!(
            replaced(state::FIN_WAIT2, TransitionFlags::ACTOR_KNOWN | TransitionFlags::EXITING),
            Ending::Exited
        );
        assert_eq!(
            replaced(state::FIN_WAIT2, TransitionFlags::empty()),
            Ending::Unknown,
            "it had been closed before"
        );
        assert_eq!(replaced(state::TIME_WAIT, TransitionFlags::COMPLETED), Ending::Peer);
        assert_eq!(replaced(state::TIME_WAIT, TransitionFlags::empty()), Ending::Peer);
    }
}
