//! Findings in, events out: adds who is responsible, asks the filter, rolls up, and counts.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::state;

use crate::{
    clock::WallClock,
    engine::{
        assemble::{
            self, instant_at,
            life::life_record,
            owner_of_actor,
            process::{add_owner, process_record},
        },
        filter::admission::Admission,
        ownership::{responsible::add_details, walk_index::WalkIndex},
        process_info::ProcessInfo,
        processes::{ProcessId, Processes},
        settings::Settings,
        state_change::StateChange,
        totals::Totals,
        tracker::{
            finding::{Exit, Finding, Found},
            socket::Socket,
        },
        walk::{Named, Walk},
    },
    events::{
        Event, EventSink, LostReason, Name, Owner, OwnerHow, ProcessRecord, Record, Resync, SocketDetails,
        SocketId,
    },
};

/// Makes the events of a run.
#[derive(Debug)]
pub(crate) struct Reporter<P> {
    pub(crate) settings: Settings,
    pub(crate) processes: Processes,
    pub(crate) admission: Admission,
    pub(crate) totals: Totals,
    pub(crate) wall: WallClock,
    pub(crate) info: P,
}

impl<P: ProcessInfo> Reporter<P> {
    pub(crate) fn new(settings: Settings, began_ns: u64, info: P) -> Self {
        Self {
            processes: Processes::new(began_ns, settings.policy.threshold_ns),
            admission: Admission::of_filter(settings.filter.clone(), settings.views.lives),
            totals: Totals::default(),
            wall: WallClock::default(),
            info,
            settings,
        }
    }

    /// Emits what a finding comes to. One that a socket is stuck takes a walk: see
    /// [`Self::report_judged`].
    pub(crate) fn report_finding(&mut self, finding: &Finding, out: &mut impl EventSink) {
        match finding {
            Finding::Transition { change, in_old_state_ns } => {
                self.totals.count_transition();
                if self.settings.views.lives {
                    self.remember_actor(change);
                }
                if self.settings.views.transitions {
                    let record = assemble::transition_record(change, *in_old_state_ns, &self.wall);
                    self.report_transition(record, out);
                }
            }
            Finding::Stuck(_) => {}
            Finding::Cleared { cookie, socket, exit } => {
                let by = exit.actor.as_ref().map(owner_of_actor);
                self.report_cleared(*cookie, socket, exit, by, out);
            }
            Finding::Life { cookie, tuple, netns, at_ns, life } => {
                if self.settings.views.lives {
                    let socket = SocketId::new(*cookie, *netns, tuple);
                    let life = life_record(socket, *at_ns, life, |ns| instant_at(&self.wall, ns));
                    self.report_life(
                        Record { at: instant_at(&self.wall, *at_ns), event: Event::Life(life) },
                        out,
                    );
                }
            }
        }
    }

    /// Remembers the process that acts on a socket while it can be looked up: the record of its
    /// life, which comes at its end, is filtered by it.
    fn remember_actor(&mut self, change: &StateChange) {
        let Some(actor) = &change.actor else { return };
        if change.old_state == state::LISTEN {
            // A listener has no life; what was noted for one is not needed any more.
            return self.admission.forget_socket(change.cookie);
        }
        let mut owner = owner_of_actor(actor);
        self.describe_actor(&mut owner, change.at_ns);
        if self.admission.asks_for_processes() {
            self.admission.learn_owners(change.cookie, [&owner]);
        }
    }

    /// Adds what can be looked up of a process that acted at `at_ns`.
    fn describe_actor(&mut self, owner: &mut Owner, at_ns: u64) {
        let comm = owner.comm.as_ref().map(Name::bytes);
        if let Some(details) = self.info.actor_details(owner.pid, comm, at_ns) {
            add_details(owner, details);
        }
    }

    /// Emits the record of a transition, if the filter admits it.
    pub(crate) fn report_transition(&mut self, mut record: Record, out: &mut impl EventSink) {
        let Event::Transition(transition) = &mut record.event else { return };
        let asks = self.admission.asks_for_processes();
        // Only filters for processes depend on what is looked up.
        let mut is_admitted = asks || self.admission.admits_transition(transition);
        if is_admitted
            && (asks || self.settings.describes_actors)
            && let Some(owner) = &mut transition.owner
        {
            self.describe_actor(owner, record.at.mono_ns);
        }
        if asks {
            is_admitted = self.admission.admits_transition(transition);
        }
        self.report_of_view(record, is_admitted, out);
    }

    /// Emits the record of a socket that was stuck and no longer is, if that it was stuck was
    /// reported.
    pub(crate) fn report_cleared(
        &mut self,
        cookie: u64,
        socket: &Socket,
        exit: &Exit,
        mut by: Option<Owner>,
        out: &mut impl EventSink,
    ) {
        self.processes.clear_socket(cookie, exit.at_ns);
        if !self.settings.views.stuck {
            return;
        }
        let is_admitted = self.admission.admits_cleared(cookie);
        if is_admitted && let Some(by) = &mut by {
            self.describe_actor(by, exit.at_ns);
        }
        let record = assemble::cleared_record(cookie, socket, exit, by, &self.wall);
        self.report_of_view(record, is_admitted, out);
    }

    /// Emits the record of a connection's life, if the filter admits it.
    pub(crate) fn report_life(&mut self, mut record: Record, out: &mut impl EventSink) {
        let Event::Life(life) = &mut record.event else { return };
        let asks = self.admission.asks_for_processes();
        let mut is_admitted = asks || self.admission.admits_life(life);
        if is_admitted && let Some(owner) = &mut life.owner {
            let at_ns = record.at.mono_ns;
            match life.owned_ns {
                Some(owned_ns) => {
                    if let Some(details) = self.info.opener_details(owner.pid, owned_ns, at_ns) {
                        add_details(owner, details);
                    }
                }
                None => self.describe_actor(owner, at_ns),
            }
        }
        if asks {
            is_admitted = self.admission.admits_life(life);
        }
        self.report_of_view(record, is_admitted, out);
    }

    /// Emits a record of a view, or counts that a filter keeps it back.
    fn report_of_view(&mut self, record: Record, is_admitted: bool, out: &mut impl EventSink) {
        if !out.is_open() {
            return;
        }
        if is_admitted {
            self.totals.count_reported(&record.event);
            out.publish(record);
        } else {
            self.totals.count_filtered();
        }
    }

    /// Learns who holds what was open before the start: a filter may ask for it.
    pub(crate) fn learn_holders(&mut self, walk: &Walk) {
        if self.admission.asks_for_processes() {
            let all = walk.sockets.iter().map(|row| row.cookie).collect();
            let index = self.index_walk(walk, &all);
            for row in &walk.sockets {
                self.admission.learn_owners(row.cookie, index.responsible_owners(row.cookie).processes());
            }
        }
    }

    /// Counts the sockets, as a walk has seen them, that the filter admits.
    pub(crate) fn count_admitted(&self, sockets: &[(u64, Socket)], walk: &Walk) -> usize {
        if self.admission.filter.is_empty() {
            return sockets.len();
        }
        let cookies = sockets.iter().map(|(cookie, _)| *cookie).collect();
        let index = self.index_walk(walk, &cookies);
        let is_admitted = |(cookie, socket): &&(u64, Socket)| {
            let id = SocketId::new(*cookie, socket.netns, &socket.tuple);
            self.admission.filter.admits(&id, index.responsible_owners(*cookie).processes())
        };
        sockets.iter().filter(is_admitted).count()
    }

    fn index_walk<'w>(&self, walk: &'w Walk, cookies: &FxHashSet<u64>) -> WalkIndex<'w> {
        WalkIndex::for_sockets(walk, cookies, |pid, named| self.info.holder_details(pid, named))
    }

    /// Emits how a walk has found these sockets, where the filter admits them. Such records are of
    /// no view: nobody counts them.
    pub(crate) fn report_found(&mut self, found: &[Found], walk: &Walk, out: &mut impl EventSink) {
        let cookies = found.iter().map(|found| found.cookie).collect();
        let index = self.index_walk(walk, &cookies);
        for found in found {
            let details = index.details_of(found, &self.wall);
            let found_socket = assemble::stuck_record(found, None, details, &self.wall);
            if self.admission.admits_found(&found_socket) {
                let at = instant_at(&self.wall, found.seen_ns);
                out.publish(Record { at, event: Event::Found(found_socket) });
            }
        }
    }

    /// Emits what judging by a walk has found, with the owners that the walk has seen, and counts
    /// the stuck sockets in their processes. `stuck` are the cookies of those among `findings`.
    pub(crate) fn report_judged(
        &mut self,
        stuck: &FxHashSet<u64>,
        findings: impl Iterator<Item = Finding>,
        walk: &Walk,
        out: &mut impl EventSink,
    ) {
        let index = self.index_walk(walk, stuck);
        let mut ids = ProcessIds::of_walk(walk);
        for finding in findings {
            match finding {
                Finding::Stuck(found) if self.settings.views.stuck => {
                    let details = index.details_of(&found, &self.wall);
                    self.report_stuck(&found, details, &mut ids, out);
                }
                _ => self.report_finding(&finding, out),
            }
        }
    }

    /// Emits the record of a stuck socket, if the filter admits it, and counts it in its processes.
    pub(crate) fn report_stuck(
        &mut self,
        found: &Found,
        details: SocketDetails,
        ids: &mut ProcessIds,
        out: &mut impl EventSink,
    ) {
        let threshold_ns = self.settings.policy.threshold_ns;
        let mut stuck = assemble::stuck_record(found, Some(threshold_ns), details, &self.wall);
        // The first one that a filter admits is news, however often the socket was found stuck
        // before.
        stuck.is_reminder &= self.admission.has_reported(found.cookie);
        let is_admitted = self.admission.admits_stuck(&stuck);
        if self.admission.asks_for_processes() {
            self.admission.mark_requested(&mut stuck.details);
        }
        let responsible: Vec<_> = match stuck.details.owner_how {
            OwnerHow::Fd | OwnerHow::Listener => {
                stuck.details.processes().map(|owner| ids.resolve_pid(owner.pid, &self.info)).collect()
            }
            _ => Vec::new(),
        };
        self.processes.add_stuck(found.cookie, found.socket.since, found.seen_ns, &responsible);
        let asks = self.admission.asks_for_processes();
        for (owner, id) in stuck.details.processes().zip(responsible).filter(|_| is_admitted) {
            if owner.is_requested || !asks {
                self.processes.mark_reported(id);
                self.processes.keep_owner(id, owner);
            }
        }
        self.report_of_view(
            Record { at: instant_at(&self.wall, found.seen_ns), event: Event::Stuck(stuck) },
            is_admitted,
            out,
        );
    }

    /// Emits that transitions, or records, were lost.
    pub(crate) fn report_lost(
        &mut self,
        lost: u64,
        reason: LostReason,
        at_ns: u64,
        out: &mut impl EventSink,
    ) {
        if lost > 0 {
            let lost = self.totals.count_lost(lost, reason);
            out.publish(Record { at: instant_at(&self.wall, at_ns), event: Event::Lost(lost) });
        }
    }

    /// Emits that all sockets were looked at again.
    pub(crate) fn report_resync(&mut self, resync: Resync, at_ns: u64, out: &mut impl EventSink) {
        let event = Event::Resync(resync);
        self.totals.count_reported(&event);
        out.publish(Record { at: instant_at(&self.wall, at_ns), event });
    }

    /// Emits the roll-ups of these processes.
    pub(crate) fn roll_up(&mut self, which: Vec<ProcessId>, now_ns: u64, out: &mut impl EventSink) {
        let at = instant_at(&self.wall, now_ns);
        for id in which {
            let shared_with = self.processes.first_sharer(id).map(|id| id.pid);
            let stats = self.info.process_stats(id);
            let owner = self.processes.owner_of(id).cloned();
            if let Some(rollup) = self.processes.roll_up(id, stats.as_ref(), now_ns) {
                let mut record = ProcessRecord { shared_with, ..process_record(id.pid, &rollup) };
                owner.iter().for_each(|owner| add_owner(&mut record, owner));
                out.publish(Record { at, event: Event::Process(record) });
            }
        }
        self.processes.forget_ended(|id| self.info.is_alive(id));
    }
}

/// Tells which process each pid of a walk is.
#[derive(Debug, Default)]
pub(crate) struct ProcessIds {
    named: FxHashMap<u32, Option<Named>>,
    known: FxHashMap<u32, ProcessId>,
}

impl ProcessIds {
    /// Takes from a walk what the kernel said of each process.
    pub(crate) fn of_walk(walk: &Walk) -> Self {
        let mut named = FxHashMap::default();
        for holders in walk.holders.chunk_by(|one, next| one.pid == next.pid) {
            named.extend(holders.last().map(|holder| (holder.pid, holder.process)));
        }
        Self { named, known: FxHashMap::default() }
    }

    fn resolve_pid(&mut self, pid: u32, info: &impl ProcessInfo) -> ProcessId {
        let named = self.named.get(&pid).copied().flatten();
        *self.known.entry(pid).or_insert_with(|| info.process_id(pid, named))
    }
}
