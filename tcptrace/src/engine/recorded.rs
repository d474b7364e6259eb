//! A recorded stream in the kernel's place: its records are judged as the kernel's transitions
//! would have been, whatever the recording was asked for.
//!
//! In a recording everything is told, so what is not told has not happened: a socket is judged
//! without a walk. What no transition tells, a recorded `stuck` or `found` does: sockets from
//! before the start, holders, queues, peers.

use rustc_hash::FxHashMap;
use tcptrace_common::{OpenCall, state};

use crate::{
    clock::WallClock,
    engine::{
        age::Since,
        assemble,
        exit_signs::ExitSigns,
        observation::Observation,
        ownership::walk_index::WalkIndex,
        pipeline::Pipeline,
        process_info::ProcessInfo,
        reporter::ProcessIds,
        state_change::{Actor, StateChange},
        tracker::{
            Tracker,
            finding::{Exit, Finding},
        },
    },
    events::{
        Cleared, Event, EventSink, Instant, LostReason, Owner, OwnerHow, Record, Stuck, Summary, Transition,
        nanoseconds,
    },
};

/// Records may be out of order by as much as those of several processors in one ring are,
/// nanoseconds.
const DISORDER_NS: u64 = 100_000_000;

/// How far a recorded stream has come.
#[derive(Debug, Default)]
pub(crate) struct RecordedStream {
    /// When its first record happened, `CLOCK_MONOTONIC` nanoseconds.
    began_ns: Option<u64>,
    /// When the latest record happened.
    now_ns: u64,
    /// What was last recorded of each stuck socket while it is in that state.
    seen: FxHashMap<u64, Box<Stuck>>,
    /// Whether the recording lacks records that its tracer had made: no resync makes up for them.
    is_incomplete: bool,
}

impl RecordedStream {
    /// Applies a line of a recording.
    pub(crate) fn apply(
        &mut self,
        at: Instant,
        event: Option<Event>,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let mono_ns = at.mono_ns;
        if matches!(event, Some(Event::Start(_))) {
            self.begin_run(mono_ns, pipeline, out);
        }
        pipeline.reporter.wall = WallClock::with_offset_ns(at.wall_ns - i128::from(mono_ns));
        if self.began_ns.is_none() {
            pipeline.reporter.processes.restart_at(mono_ns);
            self.began_ns = Some(mono_ns);
        }
        self.now_ns = self.now_ns.max(mono_ns);
        self.judge_until(self.now_ns.saturating_sub(DISORDER_NS), pipeline, out);
        if let Some(event) = event {
            self.apply_event(Record { at, event }, pipeline, out);
        }
        self.roll_up_due(pipeline, out);
    }

    /// Begins another run, appended to the one before: nothing is known of its sockets.
    fn begin_run(
        &mut self,
        mono_ns: u64,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        if self.began_ns.is_some() {
            self.judge_until(self.now_ns, pipeline, out);
            let all = pipeline.reporter.processes.all_reported();
            pipeline.reporter.roll_up(all, self.now_ns, out);
            pipeline.tracker = Tracker::new(pipeline.reporter.settings.policy);
            self.is_incomplete = false;
            self.seen.clear();
            pipeline.reporter.processes.restart_at(mono_ns);
        }
        self.now_ns = mono_ns;
    }

    fn apply_event(
        &mut self,
        record: Record,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let Record { at, event } = record;
        match event {
            Event::Start(_) => out.publish(Record { at, event }),
            Event::Transition(transition) => self.apply_transition(
                at.mono_ns,
                Record { at, event: Event::Transition(transition) },
                pipeline,
                out,
            ),
            Event::Stuck(stuck) => self.apply_seen(at.mono_ns, stuck, pipeline, out),
            Event::Found(found) => {
                let shown = pipeline.reporter.settings.views.transitions.then(|| found.clone());
                self.apply_seen(at.mono_ns, found, pipeline, out);
                if let Some(found) = shown
                    && pipeline.reporter.admission.admits_found(&found)
                {
                    out.publish(Record { at, event: Event::Found(found) });
                }
            }
            Event::Cleared(cleared) => self.apply_exit(at.mono_ns, &cleared, pipeline, out),
            Event::Life(_) => {
                if pipeline.reporter.settings.views.lives {
                    pipeline.reporter.report_life(Record { at, event }, out);
                }
            }
            Event::Lost(lost) => {
                pipeline.tracker.suspend_deadlines();
                self.is_incomplete |= lost.reason == LostReason::ReaderSlow;
                let lost = pipeline.reporter.totals.count_lost(lost.lost, lost.reason);
                out.publish(Record { at, event: Event::Lost(lost) });
            }
            Event::Resync(resync) => {
                // What was found to be otherwise has been told before.
                if resync.found.is_some() && !self.is_incomplete {
                    pipeline.tracker.resume_deadlines(at.mono_ns);
                }
                pipeline.reporter.report_resync(resync, at.mono_ns, out);
            }
            // Sums of other records: this run makes its own.
            Event::Process(_) | Event::Summary(_) => {}
        }
    }

    fn apply_transition(
        &mut self,
        mono_ns: u64,
        record: Record,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let Event::Transition(transition) = &record.event else { return };
        let change = change_of(transition, mono_ns);
        let cookie = change.cookie;
        self.judge_socket(cookie, mono_ns, pipeline, out);
        let by = transition.owner.clone().filter(|_| transition.owner_how == OwnerHow::Close);
        let mut findings = Vec::new();
        pipeline.tracker.apply_transition(&change, &mut |finding| findings.push(finding));
        let mut record = Some(record);
        for finding in &findings {
            match finding {
                // As it was recorded: that has all that can be known of it.
                Finding::Transition { .. } => {
                    if let Some(record) = record.take() {
                        pipeline.reporter.totals.count_transition();
                        if pipeline.reporter.settings.views.transitions {
                            pipeline.reporter.report_transition(record, out);
                        }
                    }
                }
                _ => self.report_exit(finding, by.as_ref(), pipeline, out),
            }
        }
        self.seen.remove(&cookie);
    }

    /// Emits that a stuck socket left its state; `by` is who caused it, as recorded.
    fn report_exit(
        &mut self,
        finding: &Finding,
        by: Option<&Owner>,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        if let Finding::Cleared { cookie, socket, exit } = finding {
            self.seen.remove(cookie);
            let by = by.cloned().or_else(|| exit.actor.as_ref().map(assemble::owner_of_actor));
            pipeline.reporter.report_cleared(*cookie, socket, exit, by, out);
        }
    }

    /// Applies a recorded `cleared`.
    fn apply_exit(
        &mut self,
        mono_ns: u64,
        cleared: &Cleared,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let exit = Exit {
            new_state: cleared.new_state.0,
            at_ns: mono_ns,
            actor: cleared.by.as_ref().map(actor_of),
            how: cleared.how,
        };
        let cookie = cleared.socket.cookie;
        self.judge_socket(cookie, mono_ns, pipeline, out);
        let mut findings = Vec::new();
        pipeline.tracker.apply_exit(cookie, cleared.state.0, exit, &mut |finding| findings.push(finding));
        for finding in &findings {
            self.report_exit(finding, cleared.by.as_ref(), pipeline, out);
        }
    }

    /// Applies a recorded `stuck` or `found`: the socket was seen in that state, for that long.
    fn apply_seen(
        &mut self,
        mono_ns: u64,
        stuck: Box<Stuck>,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let before = |ms: f64| mono_ns.saturating_sub(nanoseconds(ms));
        let since = if stuck.exact {
            Since::exact(before(stuck.age_ms))
        } else {
            Since::between(stuck.age_max_ms.map(before), before(stuck.age_ms))
        };
        let seen = Observation {
            at_ns: mono_ns,
            cookie: stuck.socket.cookie,
            netns: stuck.socket.netns.unwrap_or(0),
            tuple: stuck.socket.tuple(),
            state: stuck.state.0,
            since,
        };
        let mut findings = Vec::new();
        pipeline.tracker.observe_socket(&seen, &mut |finding| findings.push(finding));
        for finding in &findings {
            self.report_exit(finding, None, pipeline, out);
        }
        if seen.state == state::CLOSE {
            self.seen.remove(&seen.cookie);
        } else {
            self.seen.insert(seen.cookie, stuck);
        }
    }

    /// Reports what has been stuck for long enough by then.
    fn judge_until(
        &mut self,
        until_ns: u64,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let mut findings = Vec::new();
        pipeline.tracker.judge_until(until_ns, &mut |finding| findings.push(finding));
        self.report_stuck(&findings, pipeline, out);
    }

    /// Reports one socket, of which there is news of that time, as often as it was stuck until
    /// then.
    fn judge_socket(
        &mut self,
        cookie: u64,
        until_ns: u64,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        let mut findings = Vec::new();
        while pipeline.tracker.judge_socket_until(cookie, until_ns, &mut |finding| findings.push(finding)) {}
        self.report_stuck(&findings, pipeline, out);
    }

    fn report_stuck(
        &mut self,
        findings: &[Finding],
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) {
        if !pipeline.reporter.settings.views.stuck {
            return;
        }
        for finding in findings {
            let Finding::Stuck(found) = finding else { continue };
            let seen = self.seen.get(&found.cookie);
            let details = match seen.filter(|seen| seen.state.0 == found.socket.state) {
                Some(seen) => seen.details.clone(),
                None => WalkIndex::default().details_of(found, &pipeline.reporter.wall),
            };
            for owner in &details.owners {
                pipeline.reporter.info.note_owner(owner);
            }
            pipeline.reporter.report_stuck(found, details, &mut ProcessIds::default(), out);
        }
    }

    /// Rolls up the processes for which that is due.
    fn roll_up_due(&mut self, pipeline: &mut Pipeline<impl ProcessInfo>, out: &mut impl EventSink) {
        let (reporter, now_ns) = (&mut pipeline.reporter, self.now_ns);
        for id in reporter.processes.due_samples(now_ns) {
            let stats = reporter.info.process_stats(id);
            reporter.processes.apply_sample(id, stats.as_ref(), now_ns);
        }
        if reporter.processes.next_due_ns().is_some_and(|due| due <= now_ns) {
            let due = reporter.processes.due_roll_ups(now_ns);
            reporter.roll_up(due, now_ns, out);
        }
    }

    /// Ends a recording: judges what was stuck at its end, rolls all up, and sums up.
    pub(crate) fn end(
        &mut self,
        pipeline: &mut Pipeline<impl ProcessInfo>,
        out: &mut impl EventSink,
    ) -> Summary {
        let now_ns = self.now_ns;
        self.judge_until(now_ns, pipeline, out);
        let began_ns = self.began_ns.unwrap_or(now_ns);
        pipeline.end(began_ns, now_ns, out);
        pipeline.summary(began_ns, now_ns)
    }

    /// Whether any record has been applied.
    pub(crate) const fn has_begun(&self) -> bool {
        self.began_ns.is_some()
    }

    /// When the latest record happened, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) const fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// A recorded transition, as the tracker takes it.
fn change_of(transition: &Transition, at_ns: u64) -> StateChange {
    let Transition { socket, old_state, new_state, stand_in, owner, owner_how, how, .. } = transition;
    let (old_state, new_state, is_timewait) = (old_state.0, new_state.0, *stand_in);
    let named = owner.as_ref().map(actor_of);
    // Who acts is named as the opener if it opens the socket.
    let acts = *owner_how == OwnerHow::Close || OpenCall::of_transition(old_state, new_state).is_some();
    let (actor, opener) = if acts { (named, None) } else { (None, named) };
    // A recording of an older version does not say how.
    let infer = || {
        let has_actor = actor.is_some();
        ExitSigns { old_state, new_state, is_timewait, has_actor, ..ExitSigns::default() }.infer_ending()
    };
    StateChange {
        netns: socket.netns.unwrap_or(0),
        actor,
        opener,
        is_timewait,
        ending: how.unwrap_or_else(infer),
        ..StateChange::new(at_ns, socket.cookie, socket.tuple(), old_state, new_state)
    }
}

/// A recorded owner as an actor. The recording does not say which of its threads acted.
fn actor_of(owner: &Owner) -> Actor {
    let comm = owner.comm.map(|comm| comm.0);
    Actor {
        pid: owner.pid,
        tid: if comm.is_some() { owner.pid } else { 0 },
        uid: owner.uid.unwrap_or(0),
        comm,
        thread_comm: comm.unwrap_or_default(),
    }
}
