//! A recorded stream in the kernel's place: its records are judged as the kernel's transitions
//! would have been, whatever the recording was asked for.
//!
//! In a recording everything is told, so what is not told has not happened: a socket is judged
//! without a walk. What no transition tells, a recorded `stuck` or `found` does: sockets from before
//! the start, holders, queues, peers.

use bytemuck::Zeroable as _;
use rustc_hash::FxHashMap;
use tcptrace_common::{OpenCall, SocketRow, state};

use crate::{
    clock::WallClock,
    engine::{
        Engine,
        age::Since,
        assemble,
        exit_signs::ExitSigns,
        ownership::walk_index::WalkIndex,
        process_info::ProcessInfo,
        reporter::ProcessIds,
        state_change::{Actor, StateChange},
        tracker::{Exit, Tracker, finding::Finding},
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

impl<P: ProcessInfo> Engine<P> {
    /// Applies a line of a recording.
    pub(super) fn apply_recorded(&mut self, at: Instant, event: Option<Event>, out: &mut impl EventSink) {
        let mono_ns = at.mono_ns;
        if matches!(event, Some(Event::Start(_))) {
            self.begin_recorded_run(mono_ns, out);
        }
        self.reporter.wall = WallClock::with_offset_ns(at.wall_ns - i128::from(mono_ns));
        if self.recorded.began_ns.is_none() {
            self.reporter.processes.restart(mono_ns);
            self.recorded.began_ns = Some(mono_ns);
        }
        self.recorded.now_ns = self.recorded.now_ns.max(mono_ns);
        self.judge_recorded(self.recorded.now_ns.saturating_sub(DISORDER_NS), out);
        if let Some(event) = event {
            self.apply_recorded_event(Record { at, event }, out);
        }
        self.roll_up_recorded(out);
    }

    /// Begins another run, appended to the one before: nothing is known of its sockets.
    fn begin_recorded_run(&mut self, mono_ns: u64, out: &mut impl EventSink) {
        if self.recorded.began_ns.is_some() {
            self.judge_recorded(self.recorded.now_ns, out);
            let all = self.reporter.processes.all_reported();
            self.reporter.roll_up(all, self.recorded.now_ns, out);
            self.tracker = Tracker::new(self.settings.policy);
            self.recorded.is_incomplete = false;
            self.recorded.seen.clear();
            self.reporter.processes.restart(mono_ns);
        }
        self.recorded.now_ns = mono_ns;
    }

    fn apply_recorded_event(&mut self, record: Record, out: &mut impl EventSink) {
        let Record { at, event } = record;
        match event {
            Event::Start(_) => out.publish(Record { at, event }),
            Event::Transition(transition) => self.apply_recorded_transition(
                at.mono_ns,
                Record { at, event: Event::Transition(transition) },
                out,
            ),
            Event::Stuck(stuck) => self.apply_recorded_stuck(at.mono_ns, stuck, out),
            Event::Found(found) => {
                let shown = self.settings.views.transitions.then(|| found.clone());
                self.apply_recorded_stuck(at.mono_ns, found, out);
                if let Some(found) = shown
                    && self.reporter.admission.admits_found(&found)
                {
                    out.publish(Record { at, event: Event::Found(found) });
                }
            }
            Event::Cleared(cleared) => self.apply_recorded_exit(at.mono_ns, &cleared, out),
            Event::Life(_) => {
                if self.settings.views.lives {
                    self.reporter.report_life(Record { at, event }, out);
                }
            }
            Event::Lost(lost) => {
                self.tracker.suspend_deadlines();
                self.recorded.is_incomplete |= lost.reason == LostReason::ReaderSlow;
                let lost = self.reporter.totals.count_lost(lost.lost, lost.reason);
                out.publish(Record { at, event: Event::Lost(lost) });
            }
            Event::Resync(resync) => {
                // What was found to be otherwise has been told before.
                if resync.found.is_some() && !self.recorded.is_incomplete {
                    self.tracker.resume_deadlines(at.mono_ns);
                }
                self.reporter.report_resync(resync, at.mono_ns, out);
            }
            // Sums of other records: this run makes its own.
            Event::Process(_) | Event::Summary(_) => {}
        }
    }

    fn apply_recorded_transition(&mut self, mono_ns: u64, record: Record, out: &mut impl EventSink) {
        let Event::Transition(transition) = &record.event else { return };
        let change = change_of(transition, mono_ns);
        let cookie = change.cookie;
        self.judge_recorded_socket(cookie, mono_ns, out);
        let by = transition.owner.clone().filter(|_| transition.owner_how == OwnerHow::Close);
        let mut findings = Vec::new();
        self.tracker.apply_transition(&change, &mut |finding| findings.push(finding));
        let mut record = Some(record);
        for finding in &findings {
            match finding {
                // As it was recorded: that has all that can be known of it.
                Finding::Transition { .. } => {
                    if let Some(record) = record.take() {
                        self.reporter.totals.count_transition();
                        if self.settings.views.transitions {
                            self.reporter.report_transition(record, out);
                        }
                    }
                }
                _ => self.report_recorded_exit(finding, by.as_ref(), out),
            }
        }
        self.recorded.seen.remove(&cookie);
    }

    /// Emits that a stuck socket left its state; `by` is who caused it, as recorded.
    fn report_recorded_exit(&mut self, finding: &Finding, by: Option<&Owner>, out: &mut impl EventSink) {
        if let Finding::Cleared { cookie, socket, new_state, at_ns, actor, how } = finding {
            self.recorded.seen.remove(cookie);
            let exit = Exit { new_state: *new_state, at_ns: *at_ns, actor: *actor, how: *how };
            let by = by.cloned().or_else(|| actor.as_ref().map(assemble::owner));
            self.reporter.report_cleared(*cookie, socket, &exit, by, out);
        }
    }

    /// Applies a recorded `cleared`.
    fn apply_recorded_exit(&mut self, mono_ns: u64, cleared: &Cleared, out: &mut impl EventSink) {
        let exit = Exit {
            new_state: cleared.new_state.0,
            at_ns: mono_ns,
            actor: cleared.by.as_ref().map(actor_of),
            how: cleared.how,
        };
        let cookie = cleared.socket.cookie;
        self.judge_recorded_socket(cookie, mono_ns, out);
        let mut findings = Vec::new();
        self.tracker.apply_exit(cookie, cleared.state.0, exit, &mut |finding| findings.push(finding));
        for finding in &findings {
            self.report_recorded_exit(finding, cleared.by.as_ref(), out);
        }
    }

    /// Applies a recorded `stuck` or `found`: the socket was seen in that state, for that long.
    fn apply_recorded_stuck(&mut self, mono_ns: u64, stuck: Box<Stuck>, out: &mut impl EventSink) {
        let before = |ms: f64| mono_ns.saturating_sub(nanoseconds(ms));
        let since = if stuck.exact {
            Since::exact(before(stuck.age_ms))
        } else {
            Since::between(stuck.age_max_ms.map(before), before(stuck.age_ms))
        };
        let observation = SocketRow {
            ktime_ns: mono_ns,
            cookie: stuck.socket.cookie,
            netns: stuck.socket.netns.unwrap_or(0),
            state: stuck.state.0,
            tuple: stuck.socket.tuple(),
            ..SocketRow::zeroed()
        };
        let mut findings = Vec::new();
        self.tracker.observe_socket(&observation, since, &mut |finding| findings.push(finding));
        for finding in &findings {
            self.report_recorded_exit(finding, None, out);
        }
        if observation.state == state::CLOSE {
            self.recorded.seen.remove(&observation.cookie);
        } else {
            self.recorded.seen.insert(observation.cookie, stuck);
        }
    }

    /// Reports what has been stuck for long enough by then.
    fn judge_recorded(&mut self, until_ns: u64, out: &mut impl EventSink) {
        let mut findings = Vec::new();
        self.tracker.judge_until(until_ns, &mut |finding| findings.push(finding));
        self.report_recorded_stuck(&findings, out);
    }

    /// Reports one socket, of which there is news of that time, as often as it was stuck until then.
    fn judge_recorded_socket(&mut self, cookie: u64, until_ns: u64, out: &mut impl EventSink) {
        let mut findings = Vec::new();
        while self.tracker.judge_socket_until(cookie, until_ns, &mut |finding| findings.push(finding)) {}
        self.report_recorded_stuck(&findings, out);
    }

    fn report_recorded_stuck(&mut self, findings: &[Finding], out: &mut impl EventSink) {
        if !self.settings.views.stuck {
            return;
        }
        for finding in findings {
            let Finding::Stuck(found) = finding else { continue };
            let seen = self.recorded.seen.get(&found.cookie);
            let details = match seen.filter(|seen| seen.state.0 == found.socket.state) {
                Some(seen) => seen.details.clone(),
                None => WalkIndex::default().details_of(found, &self.reporter.wall),
            };
            for owner in &details.owners {
                self.reporter.info.note_owner(owner);
            }
            self.reporter.report_stuck(found, details, &mut ProcessIds::default(), out);
        }
    }

    /// Rolls up the processes for which that is due.
    fn roll_up_recorded(&mut self, out: &mut impl EventSink) {
        let Self { reporter, recorded: RecordedStream { now_ns, .. }, .. } = self;
        for id in reporter.processes.due_samples(*now_ns) {
            let stats = reporter.info.process_stats(id);
            reporter.processes.apply_sample(id, stats.as_ref(), *now_ns);
        }
        if reporter.processes.next_due_ns().is_some_and(|due| due <= *now_ns) {
            let due = reporter.processes.due(*now_ns);
            reporter.roll_up(due, *now_ns, out);
        }
    }

    /// Ends a recording: judges what was stuck at its end, rolls all up, and sums up.
    pub fn end_recording(&mut self, out: &mut impl EventSink) -> Summary {
        let now_ns = self.recorded.now_ns;
        self.judge_recorded(now_ns, out);
        let began_ns = self.recorded.began_ns.unwrap_or(now_ns);
        self.end(began_ns, now_ns, out);
        self.summary(began_ns, now_ns)
    }

    /// Whether any record has been applied.
    pub const fn has_recorded(&self) -> bool {
        self.recorded.began_ns.is_some()
    }

    /// When the latest record happened, `CLOCK_MONOTONIC` nanoseconds.
    pub const fn recorded_now_ns(&self) -> u64 {
        self.recorded.now_ns
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
        ExitSigns { old_state, new_state, is_timewait, has_actor, ..ExitSigns::default() }.ending()
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
