//! The truth about sockets: who is stuck, since when, held by whom, and why.
//!
//! Pure: [`Engine::apply`] takes what a source saw, in the order of its times, and emits events. It
//! knows no kernel, clock, file or terminal; what only `/proc` knows it asks a [`ProcessInfo`].
//! Live tracing, `--once` and `--replay` are sources of the same engine.

pub mod age;
pub mod assemble;
pub mod cause;
pub mod coverage;
pub mod exit_signs;
pub mod figures;
pub mod filter;
pub mod input;
pub mod losses;
pub mod observation;
pub mod ownership;
pub mod pipeline;
pub mod process_info;
pub mod processes;
pub mod recorded;
pub mod reporter;
pub mod settings;
pub mod state_change;
pub mod totals;
pub mod tracker;
pub mod walk;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    clock::WallClock,
    engine::{
        age::since_by_stamps,
        assemble::instant_at,
        figures::{count_sockets, look_at_processes},
        input::{Input, Loss, Purpose},
        losses::Losses,
        observation::Observation,
        pipeline::Pipeline,
        process_info::ProcessInfo,
        processes::ProcessId,
        recorded::RecordedStream,
        settings::Settings,
        tracker::{Unseen, finding::Finding, socket::Socket},
        walk::Walk,
    },
    events::{Event, EventSink, Figures, LostReason, Record, Resync, Start, Summary, TracerInfo},
};

/// Turns what a source saw into events. `P` answers for processes.
#[derive(Debug)]
pub struct Engine<P> {
    pipeline: Pipeline<P>,
    losses: Losses,
    walk: WalkProgress,
    recorded: RecordedStream,
}

/// How far a walk has been applied, and what the last one came to.
#[derive(Debug, Default)]
struct WalkProgress {
    /// The sockets in a recorded state before it, by cookie.
    states_before: FxHashMap<u64, u8>,
    /// How many sockets were in another state than was thought.
    repaired: usize,
    /// What made it necessary, if a loss did.
    doubt: Option<losses::Doubt>,
    /// How many sockets may still be there although the walk did not see them.
    unknown: usize,
    /// The sockets in a watched state that a single walk has not proven to be stuck.
    undecided: Vec<(u64, Socket)>,
}

/// What the last walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkOutcome {
    /// Whether a loss had made it necessary.
    pub followed_loss: bool,
    /// How many sockets may still be there although it did not see them: it does not cover their
    /// namespaces.
    pub unknown: usize,
}

impl<P: ProcessInfo> Engine<P> {
    /// Knows no socket yet. Tracing began at `began_ns`, `CLOCK_MONOTONIC` nanoseconds.
    pub fn new(settings: Settings, began_ns: u64, info: P) -> Self {
        Self {
            pipeline: Pipeline::new(settings, began_ns, info),
            losses: Losses::default(),
            walk: WalkProgress::default(),
            recorded: RecordedStream::default(),
        }
    }

    /// Sets the wall clock by which instants are told from now on.
    pub fn set_wall_clock(&mut self, wall: &WallClock) {
        self.pipeline.reporter.wall.clone_from(wall);
    }

    /// Applies one thing that happened or was seen, and emits the events that it leads to.
    pub fn apply(&mut self, input: Input<'_>, out: &mut impl EventSink) {
        let Pipeline { reporter, .. } = &mut self.pipeline;
        match input {
            Input::Transition(change) => self.pipeline.apply_transition(change, out),
            Input::Socket(row) => {
                let seen = Observation::of(row, since_by_stamps(row, reporter.settings.jiffy_ns));
                self.walk.repaired += usize::from(self.pipeline.observe_socket(&seen, out));
            }
            Input::Started { start, at_ns } => self.publish_start(*start, at_ns, out),
            Input::WalkBegan(walk, purpose) => self.begin_walk(walk, purpose),
            Input::WalkEnded(walk, purpose) => self.end_walk(walk, purpose, out),
            Input::Loss(loss) => self.apply_loss(&loss, out),
            Input::ProcessStats { id, stats, at_ns } => {
                reporter.processes.apply_sample(id, stats, at_ns);
            }
            Input::Time(now_ns) => {
                let due = reporter.processes.due_roll_ups(now_ns);
                if !due.is_empty() {
                    reporter.roll_up(due, now_ns, out);
                }
            }
            Input::Recorded { at, event } => self.recorded.apply(at, event, &mut self.pipeline, out),
            Input::Ended { began_ns, at_ns } => self.pipeline.end(began_ns, at_ns, out),
        }
    }

    fn publish_start(&mut self, start: Start, at_ns: u64, out: &mut impl EventSink) {
        out.publish(Record {
            at: instant_at(&self.pipeline.reporter.wall, at_ns),
            event: Event::Start(start),
        });
    }

    fn begin_walk(&mut self, walk: &Walk, purpose: Purpose) {
        self.walk = WalkProgress::default();
        match purpose {
            Purpose::Start => self.pipeline.reporter.learn_holders(walk),
            Purpose::Resync => {
                self.walk.states_before =
                    self.pipeline.tracker.states_among(self.pipeline.reporter.settings.recorded_states);
                self.walk.doubt = self.losses.begin_resync();
            }
            Purpose::Judge | Purpose::Once => {}
        }
    }

    fn end_walk(&mut self, walk: &Walk, purpose: Purpose, out: &mut impl EventSink) {
        match purpose {
            Purpose::Start => {
                self.report_found(walk, &[], out);
            }
            Purpose::Judge => self.losses.note_repairs(self.walk.repaired, walk.started_ns),
            Purpose::Resync => self.finish_resync(walk, out),
            Purpose::Once => return self.judge_once(walk, out),
        }
        let mut findings = Vec::new();
        self.pipeline.tracker.judge_due(walk, &mut |finding| findings.push(finding));
        let stuck = findings.iter().filter_map(|finding| match finding {
            Finding::Stuck(found) => Some(found.cookie),
            _ => None,
        });
        let stuck = stuck.collect();
        self.pipeline.reporter.report_judged(&stuck, findings.into_iter(), walk, out);
    }

    /// Ends a look at all sockets: those that it should have seen and did not are gone. It is told
    /// if a loss was reported, or if it found something to repair.
    fn finish_resync(&mut self, walk: &Walk, out: &mut impl EventSink) {
        let Pipeline { tracker, reporter } = &mut self.pipeline;
        let report = &mut |finding| reporter.report_finding(&finding, out);
        let Unseen { gone, unknown } = tracker.sweep_unseen(walk, report);
        self.walk.unknown = unknown;
        let found = self.report_found(walk, &gone, out);
        let repaired = self.walk.repaired + gone.len();
        let doubt = self.walk.doubt.unwrap_or_default();
        if let Some(losses::ResyncOutcome { repaired, skipped }) =
            doubt.settle_resync(repaired, walk.started_ns)
        {
            self.pipeline.reporter.report_lost(skipped, LostReason::Skipped, walk.started_ns, out);
            let resync = Resync { sockets: walk.sockets.len(), repaired, found };
            self.pipeline.reporter.report_resync(resync, walk.started_ns, out);
        }
    }

    /// Emits what a walk has found and no transition has told, where that is recorded. Returns how
    /// much it was.
    fn report_found(&mut self, walk: &Walk, gone: &[(u64, Socket)], out: &mut impl EventSink) -> Option<u64> {
        let states = self.pipeline.reporter.settings.recorded_states;
        if states == 0 {
            return None;
        }
        let found =
            self.pipeline.tracker.found_since(states, &self.walk.states_before, gone, walk.started_ns);
        self.pipeline.reporter.report_found(&found, walk, out);
        Some(found.len() as u64)
    }

    /// Judges every socket by this one walk, the longest in its state first.
    fn judge_once(&mut self, walk: &Walk, out: &mut impl EventSink) {
        let (stuck, undecided) = self.pipeline.tracker.judge_at_observation();
        self.walk.undecided = undecided;
        let Pipeline { tracker, reporter } = &mut self.pipeline;
        let found = stuck.iter().filter_map(|cookie| tracker.find_observed(*cookie));
        let cookies = stuck.iter().copied().collect();
        reporter.report_judged(&cookies, found.map(Finding::Stuck), walk, out);
    }

    fn apply_loss(&mut self, loss: &Loss, out: &mut impl EventSink) {
        self.losses.add_loss(loss);
        self.pipeline.reporter.report_lost(loss.ring_full, LostReason::RingFull, loss.at_ns, out);
        self.pipeline.reporter.report_lost(loss.skipped, LostReason::Skipped, loss.at_ns, out);
    }

    /// The totals so far. What the outputs dropped is not among them.
    pub fn summary(&self, began_ns: u64, at_ns: u64) -> Summary {
        self.pipeline.summary(began_ns, at_ns)
    }

    /// Ends a recording: judges what was stuck at its end, rolls all up, and sums up.
    pub fn end_recording(&mut self, out: &mut impl EventSink) -> Summary {
        self.recorded.end(&mut self.pipeline, out)
    }

    /// Whether any record of a recording has been applied.
    pub const fn has_recorded(&self) -> bool {
        self.recorded.has_begun()
    }

    /// When the latest record of a recording happened, `CLOCK_MONOTONIC` nanoseconds.
    pub const fn recorded_now_ns(&self) -> u64 {
        self.recorded.now_ns()
    }

    /// Counts the figures of the moment. `dropped`: how many records the outputs dropped.
    pub fn figures(&self, tracer: TracerInfo, dropped: u64, now_ns: u64) -> Figures {
        let Pipeline { tracker, reporter } = &self.pipeline;
        let Settings { views, policy, .. } = &reporter.settings;
        let is_reported = |cookie| reporter.admission.has_reported(cookie);
        let stats = |id| reporter.info.process_stats(id);
        Figures {
            tracer,
            views: *views,
            threshold_ns: policy.threshold_ns,
            totals: Summary { dropped, ..self.summary(0, 0) },
            sockets: count_sockets(tracker, policy, now_ns, is_reported),
            processes: look_at_processes(&reporter.processes, now_ns, stats),
        }
    }

    /// What the last walk came to.
    pub fn last_walk(&self) -> WalkOutcome {
        WalkOutcome { followed_loss: self.walk.doubt.is_some(), unknown: self.walk.unknown }
    }

    /// How many sockets in a watched state the filter admits that the walk of [`Purpose::Once`] has
    /// not proven to be stuck.
    pub fn count_undecided(&self, walk: &Walk) -> usize {
        self.pipeline.reporter.count_admitted(&self.walk.undecided, walk)
    }

    /// Whether transitions were lost, so that all sockets have to be looked at again.
    pub const fn needs_resync(&self) -> bool {
        self.losses.needs_resync()
    }

    /// When the next socket is to be judged: by a walk made after that time.
    pub fn next_judgement_ns(&self) -> Option<u64> {
        self.pipeline.tracker.next_deadline_ns()
    }

    /// The sockets that are to be judged by then, with their namespaces; 0 if that is not known.
    pub fn due_sockets(&self, now_ns: u64) -> Vec<(u64, u32)> {
        self.pipeline.tracker.due_sockets(now_ns)
    }

    /// The namespaces of all sockets.
    pub fn namespaces(&self) -> FxHashSet<u32> {
        self.pipeline.tracker.namespaces()
    }

    /// How many sockets are tracked.
    pub fn tracked_sockets(&self) -> usize {
        self.pipeline.tracker.len()
    }

    /// How many transitions came a second time: two programs had written them.
    pub const fn duplicates(&self) -> u64 {
        self.pipeline.tracker.duplicates()
    }

    /// When the next roll-up is due ([`Input::Time`]).
    pub fn next_roll_up_ns(&self) -> Option<u64> {
        self.pipeline.reporter.processes.next_due_ns()
    }

    /// When descriptors are to be counted next ([`Input::ProcessStats`]).
    pub fn next_sample_ns(&self) -> Option<u64> {
        self.pipeline.reporter.processes.next_sample_ns()
    }

    /// The processes whose descriptors are to be counted by now, the most overdue first.
    pub fn due_samples(&self, now_ns: u64) -> Vec<ProcessId> {
        self.pipeline.reporter.processes.due_samples(now_ns)
    }

    /// Has no descriptors counted before that time: counting them has its share of the time.
    pub const fn rest_sampling_until(&mut self, ns: u64) {
        self.pipeline.reporter.processes.rest_until(ns);
    }

    /// What answers for processes.
    pub const fn process_info(&self) -> &P {
        &self.pipeline.reporter.info
    }
}

#[cfg(test)]
mod tests;
