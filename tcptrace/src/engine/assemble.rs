//! Findings as records: adds names, instants and units, and judges nothing.

pub mod life;
pub mod process;

use crate::{
    clock::WallClock,
    engine::{
        state_change::{Actor, StateChange},
        tracker::{
            finding::{Exit, Found},
            socket::Socket,
        },
    },
    events::{
        Cleared, Event, Instant, Name, Owner, OwnerHow, Record, SocketDetails, SocketId, State, Stuck,
        Transition, milliseconds,
    },
};

/// Makes the record of a transition.
pub(crate) fn transition_record(
    change: &StateChange,
    in_old_state_ns: Option<u64>,
    wall: &WallClock,
) -> Record {
    let (owner, owner_how) = owner_of_transition(change);
    Record {
        at: instant_at(wall, change.at_ns),
        event: Event::Transition(Transition {
            socket: SocketId::new(change.cookie, change.netns, &change.tuple),
            old_state: State(change.old_state),
            new_state: State(change.new_state),
            stand_in: change.is_timewait,
            in_old_state_ms: in_old_state_ns.map(milliseconds),
            owner,
            owner_how,
            how: change.ending_unless_opening(),
        }),
    }
}

/// Makes the record of a socket in a state: `stuck` with a threshold, `found` without.
pub(crate) fn stuck_record(
    found: &Found,
    threshold_ns: Option<u64>,
    details: SocketDetails,
    wall: &WallClock,
) -> Box<Stuck> {
    let Found { cookie, ref socket, seen_ns, is_reminder, .. } = *found;
    let since = socket.since;
    let age_ms = |since_ns: u64| milliseconds(seen_ns.saturating_sub(since_ns));
    Box::new(Stuck {
        socket: SocketId::new(cookie, socket.netns, &socket.tuple),
        state: State(socket.state),
        threshold_ms: threshold_ns.map(milliseconds),
        age_ms: age_ms(since.latest_ns()),
        age_max_ms: since.earliest_ns().map(age_ms),
        exact: since.exact_ns().is_some(),
        since: instant_at(wall, since.latest_ns()),
        details,
        is_reminder,
    })
}

/// Makes the record of a socket that was stuck and no longer is; `by` is who caused it.
pub(crate) fn cleared_record(
    cookie: u64,
    socket: &Socket,
    exit: &Exit,
    by: Option<Owner>,
    wall: &WallClock,
) -> Record {
    let Exit { new_state, at_ns, how, .. } = *exit;
    Record {
        at: instant_at(wall, at_ns),
        event: Event::Cleared(Cleared {
            socket: SocketId::new(cookie, socket.netns, &socket.tuple),
            state: State(socket.state),
            new_state: State(new_state),
            in_state_ms: milliseconds(at_ns.saturating_sub(socket.since.latest_ns())),
            by,
            how,
        }),
    }
}

/// Names who has to do with a transition: the task that acts, or else the one that opened the
/// socket.
fn owner_of_transition(change: &StateChange) -> (Option<Owner>, OwnerHow) {
    match (&change.actor, &change.opener) {
        (Some(actor), _) if change.is_opening() => (Some(owner_of_actor(actor)), OwnerHow::Origin),
        (Some(actor), _) => (Some(owner_of_actor(actor)), OwnerHow::Close),
        (None, Some(opener)) => (Some(owner_of_actor(opener)), OwnerHow::Origin),
        (None, None) => (None, OwnerHow::None),
    }
}

/// The process of a task that acted.
pub(crate) fn owner_of_actor(actor: &Actor) -> Owner {
    Owner { comm: actor.comm.map(Name), uid: Some(actor.uid), ..Owner::once(actor.pid) }
}

/// An instant, given in `CLOCK_MONOTONIC` nanoseconds.
pub(crate) fn instant_at(wall: &WallClock, mono_ns: u64) -> Instant {
    Instant { wall_ns: wall.wall_ns_at(mono_ns), mono_ns }
}
