//! `--replay`: a recorded stream in place of the kernel. The tracker judges it as it would have judged the kernel's,
//! whatever the recording was asked for.
//!
//! What no transition tells, a recorded `stuck` does: sockets from before the start, holders, queues, peers. It needs no
//! privilege, and looks at nothing of the host it runs on.

pub mod recorded;

use rustc_hash::FxHashMap;
use tcptrace_common::{OpenCall, SocketRow, state};

use self::recorded::Recorded;
use crate::{
    cli::Plan,
    clock::WallClock,
    diagnostics::{inform, is_verbose, say, shortened},
    engine::{
        age::Since,
        exit_signs::ExitSigns,
        ownership::walk_index::Evidence,
        processes::{Condition, ProcessId},
        state_change::{Actor, StateChange},
        tracker::{Exit, Policy, Tracker, finding::Finding, found::Found},
    },
    events::{Event, LostReason, Owner, OwnerHow, Record, Start, Stuck, Transition},
    outputs::{
        publisher::{Format, Sink},
        writer::LineWriter,
    },
    sources::{
        live::{Failure, finish},
        recording::{Line, Recording, input::Lines},
    },
};

/// Lines may be out of order by as much as records of several processors in one ring are, nanoseconds.
const DISORDER_NS: u64 = 100_000_000;

/// Replays what `input` has recorded.
///
/// # Errors
/// See [`Failure`]. What came before the line that is no record has been delivered then. A reader that has gone is none.
pub fn run(plan: &Plan, input: impl Lines, output: LineWriter, format: Format) -> Result<(), Failure> {
    let mut replay = Replay {
        policy: plan.policy,
        tracker: Tracker::new(plan.policy),
        sink: Sink::new(plan, 0, format, output).without_a_host().patient(),
        seen: FxHashMap::default(),
        names: FxHashMap::default(),
        is_incomplete: false,
        began_ns: None,
        now_ns: 0,
        recorded: Recorded::default(),
    };
    let mut recording = Recording::new(input);
    let read = loop {
        if recording.has_to_wait() {
            // Somebody looks on while it is being recorded.
            replay.sink.flush_all();
        }
        match recording.next_line() {
            Ok(Some(line)) if !replay.is_done() => replay.take(line),
            Ok(_) => break Ok(()),
            Err(bad) => break Err(Failure::Recording(bad)),
        }
    };
    if read.is_err() && replay.began_ns.is_none() {
        // A file without any record is none that was recorded: there is nothing to sum up.
        return finish(replay.sink, None).and(read);
    }
    if read.is_ok() && !replay.is_done() && !recording.is_abandoned() {
        replay.recorded.shortcomings(plan).iter().for_each(say);
    }
    replay.end().and(read)
}

struct Replay {
    policy: Policy,
    tracker: Tracker,
    sink: Sink,
    /// What was last recorded of each stuck socket, as long as it is in that state.
    seen: FxHashMap<u64, Box<Stuck>>,
    /// The names of the processes that hold stuck sockets.
    names: FxHashMap<u32, crate::events::Name>,
    /// Whether records are missing that the recording tracer had: then no look at all sockets makes up for them.
    is_incomplete: bool,
    /// When the first line happened, and the latest, `CLOCK_MONOTONIC` nanoseconds.
    began_ns: Option<u64>,
    now_ns: u64,
    /// What there is in the recording.
    recorded: Recorded,
}

impl Replay {
    fn is_done(&self) -> bool {
        self.sink.is_done() || self.sink.output.has_ended()
    }

    fn take(&mut self, line: Line) {
        let Line { at, event, bytes, cut } = line;
        if let Some(number) = cut {
            say(format_args!(
                "line {number} of the recording is cut off: the run that wrote it was killed, or had no more room; going on \
                 with the next run"
            ));
        }
        let mono_ns = at.mono_ns;
        if let Some(event) = &event {
            self.recorded.note(event);
        }
        if let Some(Event::Start(start)) = &event {
            self.start(start, mono_ns);
        }
        self.sink.wall = WallClock::with_offset_ns(at.wall_ns - i128::from(mono_ns));
        if self.began_ns.is_none() {
            self.sink.rollup.begin(mono_ns);
            self.began_ns = Some(mono_ns);
        }
        self.now_ns = self.now_ns.max(mono_ns);
        self.judge(self.now_ns.saturating_sub(DISORDER_NS));
        match event {
            Some(Event::Start(_)) => self.sink.pass(&bytes),
            Some(Event::Transition(transition)) => {
                self.transition(Record { at, event: Event::Transition(transition) });
            }
            Some(Event::Stuck(stuck)) => self.stuck(mono_ns, stuck),
            Some(Event::Found(found)) => {
                let told = self.sink.reporter.views().transitions.then(|| found.clone());
                self.stuck(mono_ns, found);
                if let Some(found) = told {
                    self.sink.offer_found(Record { at, event: Event::Found(found) });
                }
            }
            Some(Event::Cleared(cleared)) => {
                let actor = cleared.by.as_ref().map(actor);
                let exit = Exit { new_state: cleared.new_state.0, at_ns: mono_ns, actor, how: cleared.how };
                let mut found = Vec::new();
                let cookie = cleared.socket.cookie;
                self.judge_one(cookie, mono_ns);
                self.tracker.apply_exit(cookie, cleared.state.0, exit, &mut |finding| found.push(finding));
                found.iter().for_each(|finding| self.cleared(finding, cleared.by.as_ref()));
            }
            Some(Event::Life(life)) => {
                if self.sink.reporter.views().lives {
                    self.sink.offer(Record { at, event: Event::Life(life) });
                }
            }
            Some(Event::Lost(lost)) => {
                self.tracker.suspend_deadlines();
                self.is_incomplete |= lost.reason == LostReason::ReaderSlow;
                let record = self.sink.reporter.lost(lost.lost, lost.reason, at);
                self.sink.record(record);
            }
            Some(Event::Resync(resync)) => {
                // What was found to be otherwise has been told before.
                if resync.found.is_some() && !self.is_incomplete {
                    self.tracker.resume_deadlines(mono_ns);
                }
                let record = self.sink.reporter.resync(resync, at);
                self.sink.record(record);
            }
            Some(Event::Process(_) | Event::Summary(_)) | None => {}
        }
        self.roll_up();
        self.sink.flush_when_full(self.now_ns);
    }

    /// Another run was recorded behind the one before: nothing is known of its sockets.
    fn start(&mut self, start: &Start, mono_ns: u64) {
        if self.began_ns.is_some() {
            self.judge(self.now_ns);
            self.tell(self.sink.rollup.all());
            self.tracker = Tracker::new(self.policy);
            self.is_incomplete = false;
            self.seen.clear();
            self.sink.rollup.begin(mono_ns);
        }
        self.now_ns = mono_ns;
        if self.sink.is_text() || is_verbose() {
            // Longer than any of them is.
            let [version, host, kernel] =
                [&*start.version, &start.host, &start.kernel].map(|text| shortened(text, 64));
            inform(format_args!("replaying what tcptrace {version} recorded on {host}, Linux {kernel}"));
        }
    }

    fn transition(&mut self, record: Record) {
        let Event::Transition(transition) = &record.event else { return };
        let change = state_change(transition, record.at.mono_ns);
        let cookie = transition.socket.cookie;
        self.judge_one(cookie, record.at.mono_ns);
        let mut found = Vec::new();
        self.tracker.apply_transition(&change, &mut |finding| found.push(finding));
        let by = transition.owner.clone().filter(|_| transition.owner_how == OwnerHow::Close);
        let mut record = Some(record);
        for finding in &found {
            match finding {
                // As it was recorded: that has all that can be known of it.
                Finding::Transition { .. } => {
                    if let Some(record) = record.take() {
                        self.sink.reporter.heard();
                        if self.sink.reporter.views().transitions {
                            self.sink.offer(record);
                        }
                    }
                }
                _ => self.cleared(finding, by.as_ref()),
            }
        }
        self.seen.remove(&cookie);
    }

    fn cleared(&mut self, finding: &Finding, by: Option<&Owner>) {
        if let Finding::Cleared { cookie, at_ns, .. } = finding {
            self.seen.remove(cookie);
            self.sink.rollup.cleared(*cookie, *at_ns);
            if let Some(mut record) =
                self.sink.reporter.finding(finding, &Evidence::default(), &self.sink.wall)
            {
                if let Event::Cleared(cleared) = &mut record.event
                    && let Some(by) = by
                {
                    cleared.by = Some(by.clone());
                }
                self.sink.offer(record);
            }
        }
    }

    /// A socket that was recorded as stuck: seen in that state, for that long.
    fn stuck(&mut self, mono_ns: u64, stuck: Box<Stuck>) {
        let before = |ms: f64| mono_ns.saturating_sub(crate::events::nanoseconds(ms));
        let since = if stuck.exact {
            Since::exact(before(stuck.age_ms))
        } else {
            Since::between(stuck.age_max_ms.map(before), before(stuck.age_ms))
        };
        let row = SocketRow {
            ktime_ns: mono_ns,
            cookie: stuck.socket.cookie,
            netns: stuck.socket.netns.unwrap_or(0),
            state: stuck.state.0,
            tuple: stuck.socket.tuple(),
            ..bytemuck::Zeroable::zeroed()
        };
        let mut found = Vec::new();
        self.tracker.observe_socket(&row, since, &mut |finding| found.push(finding));
        found.iter().for_each(|finding| self.cleared(finding, None));
        if row.state == state::CLOSE {
            self.seen.remove(&row.cookie);
        } else {
            self.seen.insert(row.cookie, stuck);
        }
    }

    /// Reports what has been stuck for long enough by then.
    fn judge(&mut self, until_ns: u64) {
        let mut found = Vec::new();
        self.tracker.judge_until(until_ns, &mut |finding| found.push(finding));
        self.report_stuck(&found);
    }

    /// The same of one socket of which there is news of that time.
    fn judge_one(&mut self, cookie: u64, until_ns: u64) {
        let mut found = Vec::new();
        while self.tracker.judge_socket_until(cookie, until_ns, &mut |finding| found.push(finding)) {}
        self.report_stuck(&found);
    }

    fn report_stuck(&mut self, found: &[Finding]) {
        for finding in found {
            let Finding::Stuck(Found { cookie, socket, seen_ns, .. }) = finding else { continue };
            let Some(mut record) = self.sink.reporter.finding(finding, &Evidence::default(), &self.sink.wall)
            else {
                continue;
            };
            let Event::Stuck(stuck) = &mut record.event else { continue };
            if let Some(seen) = self.seen.get(cookie).filter(|seen| seen.state == stuck.state) {
                // Its ages and times are of now; all else is as it was seen.
                let Stuck { threshold_ms, age_ms, age_max_ms, exact, since, is_reminder, .. } = **stuck;
                let seen = (**seen).clone();
                **stuck = Stuck { threshold_ms, age_ms, age_max_ms, exact, since, is_reminder, ..seen };
            }
            for owner in &stuck.details.owners {
                self.names.extend(owner.comm.map(|comm| (owner.pid, comm)));
            }
            self.sink.stuck(record, socket.since, *seen_ns, |pid| ProcessId { pid, start_ticks: 0 });
        }
    }

    /// Rolls up the processes for which that is due: what the recording tells, which is nothing of their descriptors.
    fn roll_up(&mut self) {
        for id in self.sink.rollup.to_sample(self.now_ns) {
            self.sink.rollup.sample(id, Some(&condition(&self.names, id)), self.now_ns);
        }
        if self.sink.rollup.next_due_ns().is_some_and(|due| due <= self.now_ns) {
            let due = self.sink.rollup.due(self.now_ns);
            self.tell(due);
        }
    }

    fn tell(&mut self, which: Vec<ProcessId>) {
        let names = &self.names;
        self.sink.roll_up_as(which, self.now_ns, |id| Some(condition(names, id)));
    }

    fn end(mut self) -> Result<(), Failure> {
        self.judge(self.now_ns);
        self.tell(self.sink.rollup.all());
        let began_ns = self.began_ns.unwrap_or(self.now_ns);
        let totals = self.sink.summary_at(began_ns, self.now_ns);
        let farewell =
            (self.sink.is_text() || is_verbose()).then(|| crate::humanize::message::totals_message(&totals));
        finish(self.sink, farewell)
    }
}

/// What a recording tells of a process: its name.
fn condition(names: &FxHashMap<u32, crate::events::Name>, id: ProcessId) -> Condition {
    let comm = names.get(&id.pid).map_or_else(Default::default, |name| name.0);
    Condition { comm, ..Condition::default() }
}

/// A recorded transition as a state change, as far as it was recorded.
fn state_change(transition: &Transition, at_ns: u64) -> StateChange {
    let Transition { socket, old_state, new_state, stand_in, owner, owner_how, how, .. } = transition;
    let (old_state, new_state, is_timewait) = (old_state.0, new_state.0, *stand_in);
    let named = owner.as_ref().map(actor);
    // The recording names who acted as the opener if the actor opened the socket.
    let acts = *owner_how == OwnerHow::Close || OpenCall::of_transition(old_state, new_state).is_some();
    let (actor, opener) = if acts { (named, None) } else { (None, named) };
    // A recording of an older version does not say how.
    let inferred = || {
        let has_actor = actor.is_some();
        ExitSigns { old_state, new_state, is_timewait, has_actor, ..ExitSigns::default() }.ending()
    };
    StateChange {
        netns: socket.netns.unwrap_or(0),
        actor,
        opener,
        is_timewait,
        ending: how.unwrap_or_else(inferred),
        ..StateChange::new(at_ns, socket.cookie, socket.tuple(), old_state, new_state)
    }
}

/// A recorded owner as an actor. The recording does not say which of its threads acted.
fn actor(owner: &Owner) -> Actor {
    let comm = owner.comm.map(|comm| comm.0);
    Actor {
        pid: owner.pid,
        tid: if comm.is_some() { owner.pid } else { 0 },
        uid: owner.uid.unwrap_or(0),
        comm,
        thread_comm: comm.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
