//! Findings → records: names, clocks and counts are added, nothing is judged.

pub mod life;
pub mod process;

use rustc_hash::FxHashSet;

use self::life::life_record;
use crate::{
    clock::WallClock,
    engine::{
        cause::{cause, recv_queue, send_queue},
        ownership::{responsible::Charged, walk_index::Evidence},
        state_change::{Actor, Origin, StateChange},
        tracker::{Socket, finding::Finding, found::Found},
    },
    events::{
        Cause, Cleared, Event, Instant, Listener, Lost, LostReason, Name, OriginHow, OriginRecord, Owner,
        OwnerHow, Peer, Record, Resync, SocketDetails, SocketId, State, Stuck, Summary, Transition, Views,
        milliseconds,
    },
};

/// Makes the records of a run, and counts them.
#[derive(Debug)]
pub struct Reporter {
    views: Views,
    threshold_ns: u64,
    totals: Summary,
    /// Sockets reported stuck, and not yet cleared.
    stuck: FxHashSet<u64>,
}

impl Reporter {
    /// Nothing reported yet.
    pub fn new(views: Views, threshold_ns: u64) -> Self {
        Self { views, threshold_ns, totals: Summary::default(), stuck: FxHashSet::default() }
    }

    /// The record of a finding, where a view wants it.
    pub fn finding(&mut self, finding: &Finding, evidence: &Evidence, wall: &WallClock) -> Option<Record> {
        let at = |mono_ns| Instant { wall_ns: wall.at(mono_ns), mono_ns };
        match finding {
            Finding::Transition { change, in_old_state_ns } => {
                self.heard();
                self.views.transitions.then(|| {
                    let (owner, owner_how) = charge(change);
                    Record {
                        at: at(change.at_ns),
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
                })
            }
            Finding::Stuck(found) => {
                let threshold_ms = Some(milliseconds(self.threshold_ns));
                let stuck = || Box::new(state_of(found, threshold_ms, evidence, at));
                self.views.stuck.then(|| Record { at: at(found.seen_ns), event: Event::Stuck(stuck()) })
            }
            Finding::Cleared { cookie, socket, new_state, at_ns, actor, how } => {
                self.views.stuck.then(|| Record {
                    at: at(*at_ns),
                    event: Event::Cleared(Cleared {
                        socket: SocketId::new(*cookie, socket.netns, &socket.tuple),
                        state: State(socket.state),
                        new_state: State(*new_state),
                        in_state_ms: milliseconds(at_ns.saturating_sub(socket.since.latest_ns())),
                        by: actor.as_ref().map(owner),
                        how: *how,
                    }),
                })
            }
            Finding::Life { cookie, tuple, netns, at_ns, life } => self.views.lives.then(|| {
                let record = life_record(SocketId::new(*cookie, *netns, tuple), *at_ns, life, at);
                Record { at: at(*at_ns), event: Event::Life(record) }
            }),
        }
    }

    /// What is wanted.
    pub const fn views(&self) -> Views {
        self.views
    }

    /// The totals so far; how long the run is is not among them.
    pub const fn totals(&self) -> &Summary {
        &self.totals
    }

    /// Counts a transition that has reached the tracker.
    pub fn heard(&mut self) {
        self.totals.transitions += 1;
    }

    /// Counts a record that is reported. A socket that is still stuck is counted once, however often it is reported.
    pub fn reported(&mut self, event: &Event) {
        match event {
            Event::Stuck(stuck) if self.stuck.insert(stuck.socket.cookie) => self.totals.stuck += 1,
            Event::Cleared(cleared) => {
                self.stuck.remove(&cleared.socket.cookie);
                self.totals.cleared += 1;
            }
            Event::Life(_) => self.totals.lives += 1,
            _ => {}
        }
    }

    /// Counts a record that a filter kept back.
    pub fn filtered(&mut self) {
        self.totals.filtered += 1;
    }

    /// The record of transitions that were lost for this reason, or of records that were left out for it.
    pub fn lost(&mut self, lost: u64, reason: LostReason, at: Instant) -> Record {
        let Summary { lost: transitions, skipped, dropped, .. } = &mut self.totals;
        let lost_total = match reason {
            LostReason::RingFull => {
                *transitions += lost;
                *transitions - *skipped
            }
            LostReason::Skipped => {
                *transitions += lost;
                *skipped += lost;
                *skipped
            }
            LostReason::ReaderSlow => {
                *dropped += lost;
                *dropped
            }
        };
        Record { at, event: Event::Lost(Lost { lost, lost_total, reason }) }
    }

    /// The record of how a look at all sockets found this one.
    pub fn found(found: &Found, evidence: &Evidence, wall: &WallClock) -> Record {
        let at = |mono_ns| Instant { wall_ns: wall.at(mono_ns), mono_ns };
        let state = state_of(found, None, evidence, at);
        Record { at: at(found.seen_ns), event: Event::Found(Box::new(state)) }
    }

    /// The record of a look at all sockets after a loss.
    pub fn resync(&mut self, resync: Resync, at: Instant) -> Record {
        self.totals.resyncs += 1;
        Record { at, event: Event::Resync(resync) }
    }

    /// The totals of a run that began at `started_ns`, up to `at`.
    pub fn summary(&self, started_ns: u64, at: Instant) -> Summary {
        Summary { duration_ms: milliseconds(at.mono_ns.saturating_sub(started_ns)), ..self.totals.clone() }
    }
}

/// All that is known of a socket in a state, seen then.
fn state_of(
    found: &Found,
    threshold_ms: Option<f64>,
    evidence: &Evidence,
    at: impl Fn(u64) -> Instant,
) -> Stuck {
    let Found { cookie, ref socket, ref origin, seen_ns, is_reminder } = *found;
    let row = evidence.row(cookie);
    let listeners = evidence.listeners(cookie);
    let Charged { mut owners, total: mut owners_total, unlisted, how: mut owner_how } =
        Charged::of(cookie, evidence);
    let origin = origin_of(cookie, socket, origin.as_ref(), evidence, &at);
    if let (true, Some(origin)) = (owners.is_empty(), &origin) {
        owners.push(Owner::once(origin.pid));
        (owners_total, owner_how) = (1, OwnerHow::Origin);
    }
    let age_ms = |since_ns: u64| milliseconds(seen_ns.saturating_sub(since_ns));
    Stuck {
        socket: SocketId::new(cookie, socket.netns, &socket.tuple),
        state: State(socket.state),
        threshold_ms,
        age_ms: age_ms(socket.since.latest_ns()),
        age_max_ms: socket.since.earliest_ns().map(age_ms),
        exact: socket.since.exact_ns().is_some(),
        since: at(socket.since.latest_ns()),
        details: SocketDetails {
            recv_queue: row.as_ref().map_or(0, recv_queue),
            send_queue: row.as_ref().map_or(0, send_queue),
            cause: row.as_ref().map_or(Cause::Unknown, cause),
            owner_how,
            owners,
            owners_total,
            unlisted,
            origin,
            listener: listeners.first().map(|row| Listener {
                cookie: row.cookie,
                local_addr: SocketId::new(row.cookie, row.netns, &row.tuple).local_addr,
                local_port: row.tuple.local_port,
                backlog: row.unread,
                backlog_limit: row.unsent,
            }),
            peer: evidence.peer(cookie).map(|row| {
                let Charged { owners, total: owners_total, how: owner_how, .. } =
                    Charged::of(row.cookie, evidence);
                Peer {
                    cookie: row.cookie,
                    netns: SocketId::new(row.cookie, row.netns, &row.tuple).netns,
                    state: State(row.state),
                    owners,
                    owners_total,
                    owner_how,
                    gone: evidence.is_gone(row.cookie),
                }
            }),
        },
        is_reminder,
    }
}

/// Who has to do with a socket that changed its state: who acts, or else who brought it into its process.
pub(crate) fn charge(change: &StateChange) -> (Option<Owner>, OwnerHow) {
    match (&change.actor, &change.opener) {
        (Some(actor), _) if change.is_opening() => (Some(owner(actor)), OwnerHow::Origin),
        (Some(actor), _) => (Some(owner(actor)), OwnerHow::Close),
        (None, Some(opener)) => (Some(owner(opener)), OwnerHow::Origin),
        (None, None) => (None, OwnerHow::None),
    }
}

/// The process of a task that acted.
pub(crate) fn owner(actor: &Actor) -> Owner {
    Owner { comm: actor.comm.map(Name), uid: Some(actor.uid), ..Owner::once(actor.pid) }
}

/// Where a socket came from: what the kernel keeps with it, or else what the tracker saw.
fn origin_of(
    cookie: u64,
    socket: &Socket,
    seen: Option<&Origin>,
    evidence: &Evidence,
    at: impl Fn(u64) -> Instant,
) -> Option<OriginRecord> {
    if let Some(kept) = evidence.origin(cookie) {
        return Some(OriginRecord {
            pid: kept.task.pid,
            tid: kept.task.tid,
            comm: Name(kept.task.thread_comm),
            how: OriginHow::of(kept.call)?,
            time: at(kept.ktime_ns),
        });
    }
    seen.map(|seen| OriginRecord {
        pid: seen.actor.pid,
        tid: seen.actor.tid,
        comm: Name(seen.actor.thread_comm),
        how: if socket.tuple.remote_port == 0 { OriginHow::Listen } else { OriginHow::Connect },
        time: at(seen.at_ns),
    })
}
