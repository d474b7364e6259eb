//! One state change of one socket, as the tracker takes it.
//!
//! A live run decodes it from a record of the ring, a replay from a recorded `transition`.

use tcptrace_common::{COMM_LEN, Counters, OpenCall, Tuple, state};

use crate::{
    engine::exit_signs::ExitSigns,
    events::{Ending, OriginHow},
};

/// One state change of one socket, and who caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// When it happened, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The socket's network namespace, by inode number; 0 if unknown.
    pub netns: u32,
    /// The socket's two ends at that moment. A port of 0 is one that the kernel has not chosen yet.
    pub tuple: Tuple,
    /// The state it left; see [`state`].
    pub old_state: u8,
    /// The state it entered; see [`state`].
    pub new_state: u8,
    /// The task that caused the change; `None` if no task of this host did, or it is unknown.
    pub actor: Option<Actor>,
    /// The task that connected or accepted the socket, if the record names it. A record names it
    /// only where it names no actor.
    pub opener: Option<Actor>,
    /// Whether the socket is gone: what is in the new state is the kernel's timewait socket, which
    /// no process holds.
    pub is_timewait: bool,
    /// Whether a fallback program wrote the record. The primary program may have written it too.
    pub is_fallback: bool,
    /// How the socket left its old state.
    pub ending: Ending,
    /// What the kernel knows of the whole connection. Only a connection's last change has it, and
    /// only if connections are followed to their end.
    pub final_stats: Option<FinalStats>,
}

impl StateChange {
    /// Makes a state change of which only this is known. Neither an actor nor an opener is, nor the
    /// namespace.
    pub fn new(at_ns: u64, cookie: u64, tuple: Tuple, old_state: u8, new_state: u8) -> Self {
        Self {
            at_ns,
            cookie,
            netns: 0,
            tuple,
            old_state,
            new_state,
            actor: None,
            opener: None,
            is_timewait: false,
            is_fallback: false,
            ending: ExitSigns { old_state, new_state, ..ExitSigns::default() }.infer_ending(),
            final_stats: None,
        }
    }

    /// Whether a process opens the socket by it: connect(2) or listen(2). The actor is the opener
    /// then.
    pub const fn is_opening(&self) -> bool {
        OpenCall::of_transition(self.old_state, self.new_state).is_some()
    }

    /// Whether the socket is gone after it: closed, or replaced by a timewait socket.
    pub const fn is_last(&self) -> bool {
        self.new_state == state::CLOSE || self.is_timewait
    }

    /// How the socket left its old state; `None` while a connection or a listener is opening.
    pub const fn ending_unless_opening(&self) -> Option<Ending> {
        let opens =
            self.old_state == state::CLOSE || matches!(self.new_state, state::SYN_RECV | state::ESTABLISHED);
        if opens { None } else { Some(self.ending) }
    }
}

/// A task that acted on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Thread group id.
    pub pid: u32,
    /// The id of the thread that acted.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// The process's name, NUL-padded; `None` if only another thread's name could be read.
    pub comm: Option<[u8; COMM_LEN]>,
    /// The thread's name, NUL-padded.
    pub thread_comm: [u8; COMM_LEN],
}

/// Who opened a socket: who called connect(2), accept(2) or listen(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The task that made the call.
    pub actor: Actor,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
}

/// What the kernel knows of a connection at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalStats {
    /// What the kernel counted.
    pub counters: Counters,
    /// The socket's pending error, an errno; 0 if none.
    pub sk_err: i32,
    /// Whether the actor threw the connection away, so that the kernel reset it: it closed the
    /// socket with data unread or with SO_LINGER 0, or disconnected it.
    pub is_aborted: bool,
    /// Who opened the socket and by which call, if the kernel noted it.
    pub origin: Option<(Origin, OriginHow)>,
}
