//! One run: the only place that knows ring, timer, signals and output at once.
//!
//! It waits for what comes first: a transition after all were read, the time to judge a socket, a signal, the
//! reader's end, somebody who asks for metrics. Then it drains the ring through the tracker into the output, and walks the sockets where one
//! is due to be judged or something was lost.

pub mod ends;
pub mod pace;
pub mod resync;
pub mod start;

use crate::engine::walk;
use std::{io, os::fd::OwnedFd, time::Duration};

use rustc_hash::FxHashMap;
use tcptrace_common::state;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant as TokioInstant,
};

use self::ends::{Ends, until};
use self::pace::Pace;
use self::start::{about, await_missing, greet, start_record};
use crate::{
    cli::Plan,
    clock,
    diagnostics::{inform, is_verbose, say, say_lines},
    engine::{
        age::since_by_stamps,
        ownership::walk_index::Evidence,
        tracker::{Tracker, finding::Finding, found::Found},
        walk::{Reach, Walk},
    },
    events::{Event, Figures, LostReason, Record},
    host::{
        bpf::{
            drain::{Drained, Limit},
            loss::NewLosses,
        },
        kernel::Kernel,
        shortage::Shortage,
        walk::error::WalkError,
    },
    outputs::{
        prometheus::serve::{CannotServe, Listener, Scrape, Scrapes},
        publisher::{Format, Sink},
        writer::{EarlyEnd, LineWriter, WriteEnd},
    },
};

/// After records have come, how long the next are let to gather: few wake-ups in a burst, and still on screen
/// at once for people.
const GATHER_NS: u64 = 10_000_000;

/// A walk that repaired something this long before a loss is suspected has repaired that loss: suspicions are gathered for a
/// second.
const REPAIRED_BEFORE: Duration = Duration::from_secs(2);

/// A run that could not go on. Exit status 4.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel's sockets could not be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The ring held something that is no transition.
    #[error(transparent)]
    Decode(#[from] crate::host::bpf::decode::DecodeError),
    /// The counters of what was lost could not be read.
    #[error("cannot read how much was lost: {0}")]
    Counters(#[from] aya::maps::MapError),
    /// The records could not be written.
    #[error(
        "cannot write to {to}: {error}; {}the rest is not written, the summary included",
        if *.is_cut { "the last line is cut off, and " } else { "" }
    )]
    Output {
        /// Where to.
        to: String,
        /// Why not.
        error: io::Error,
        /// Whether only the beginning of the last line was written.
        is_cut: bool,
    },
    /// Privileges that would let the user read more than he may could not be given up.
    #[error("cannot give up privileges before reading the recording: {0}")]
    Privileges(io::Error),
    /// What was recorded could not be read.
    #[error(transparent)]
    Recording(#[from] crate::sources::recording::BadLine),
    /// Metrics could not be served where that was asked for.
    #[error(transparent)]
    Metrics(#[from] CannotServe),
    /// The thread that writes the records could not be started.
    #[error("cannot start the thread that writes the records: {0}")]
    Writer(#[source] io::Error),
    /// Waiting for the kernel, or for signals, could not be set up.
    #[error("cannot wait for events: {0}")]
    Wait(#[from] io::Error),
}

impl Failure {
    /// What this process or the host has run out of, if that is why.
    pub fn shortage(&self) -> Option<Shortage> {
        Shortage::of(self)
    }
}

/// Runs until something ends it, and says what was left unwritten. `metrics`: where they are to be served, if anywhere.
///
/// # Errors
/// See [`Failure`]. A reader that has gone is none.
pub async fn run(
    plan: &Plan,
    kernel: Kernel,
    output: LineWriter,
    format: Format,
    metrics: Option<Listener>,
) -> Result<(), Failure> {
    let started_ns = clock::monotonic_ns();
    let mut ends = Ends::new(plan.duration, &output, plan.output.is_some())?;
    let ring = kernel.ring().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open, and stays the same descriptor, for as long as the `AsyncFd` owns it.
    let ring =
        unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)?;
    let mut scrapes = metrics.map(Listener::serve).transpose()?;
    let mut session = Session {
        kernel,
        tracker: Tracker::new(plan.policy),
        sink: Sink::new(plan, started_ns, format, output),
        jiffy_ns: clock::jiffy_ns(),
        followed: plan.policy.followed,
        beside: walk::beside(plan.policy.watched),
        pace: Pace::default(),
        resync_wanted: false,
        doubt: Doubt::default(),
        recorded: plan.recorded,
        gather_until_ns: 0,
        has_more: false,
    };
    match session.turn(plan, &mut ends, &ring, &mut scrapes).await {
        Ok(()) => session.end(started_ns),
        Err(failure) => {
            // What was made before it went wrong is delivered all the same.
            session.sink.flush_all();
            let _the_failure_is_told = session.sink.output.finish();
            Err(failure)
        }
    }
}

/// What there is to do after a wait.
enum Woken {
    /// What the kernel told, or what is due by now.
    Step,
    /// Somebody wants the figures as they are now.
    Scrape(Scrape),
    /// It is time to end.
    End,
}

/// What makes a look at all sockets necessary.
#[derive(Default)]
struct Doubt {
    /// A loss was reported.
    is_reported: bool,
    /// So many transitions may have been lost besides.
    suspected: u64,
    /// What other walks repaired meanwhile, and when the last of them began.
    repaired: usize,
    repaired_ns: u64,
}

struct Session {
    kernel: Kernel,
    tracker: Tracker,
    sink: Sink,
    jiffy_ns: u64,
    followed: u32,
    /// The states of the sockets that tell more about those that may be stuck.
    beside: u32,
    /// When the next walk may begin.
    pace: Pace,
    /// Transitions were lost: all sockets have to be looked at again.
    resync_wanted: bool,
    /// The states of which a look tells what no transition has told; none where nobody is to know.
    recorded: u32,
    /// Why, as far as no look has followed yet.
    doubt: Doubt,
    /// Records came; the next are let to gather until then. 0: wait for the ring.
    gather_until_ns: u64,
    /// There may be more in the ring: it tells nobody as long as it has not been read to its end.
    has_more: bool,
}

/// Why sockets are walked.
#[derive(Clone, Copy)]
enum Purpose {
    /// A socket is due to be judged.
    Judge,
    /// Transitions were lost, or the last look at all sockets left some out.
    Resync,
}

impl Session {
    /// From the start to whatever ends it, and through what the ring holds then.
    async fn turn(
        &mut self,
        plan: &Plan,
        ends: &mut Ends,
        ring: &AsyncFd<OwnedFd>,
        scrapes: &mut Option<Scrapes>,
    ) -> Result<(), Failure> {
        self.begin(plan)?;
        while !self.sink.is_done() {
            match self.wait(ends, ring, scrapes).await? {
                Woken::Step => self.step(Limit::PART)?,
                Woken::Scrape(scrape) => {
                    // So that the figures tell of all that has happened before they were asked for.
                    self.step(Limit::until(clock::monotonic_ns()))?;
                    scrape.answer(self.figures(plan));
                }
                Woken::End => break,
            }
        }
        self.sink.wall.refresh();
        // Before anything that may take its time, such as a slow reader.
        self.kernel.detach();
        self.drain(Limit::NONE)?;
        if self.resync_wanted {
            self.resync()?;
            if self.resync_wanted {
                say("transitions were lost at the end, and nobody could look for what they would have told");
            }
        }
        self.sink.roll_up(self.sink.rollup.all(), clock::monotonic_ns());
        Ok(())
    }

    /// Takes in every socket that is open already, and judges those that were stuck before the start.
    fn begin(&mut self, plan: &Plan) -> Result<(), Failure> {
        let walk = self.kernel.walk(state::ALL, &Reach::default())?;
        let start = start_record(&self.kernel, &walk);
        if !plan.json || is_verbose() {
            let watched = plan.views.stuck.then(|| plan.watched());
            greet(
                self.kernel.feature_statuses(),
                &crate::humanize::message::watching_message(
                    &start,
                    walk.count_namespaces(),
                    watched.as_deref(),
                ),
            );
            await_missing(plan, &self.kernel, &walk);
        }
        let at = self.sink.at(walk.started_ns);
        self.sink.record(Record { at, event: Event::Start(start) });
        self.sink.meet(&walk);
        self.take_in(&walk)?;
        self.tell_found(&walk, &FxHashMap::default(), &[]);
        self.pace_follow_up(!walk.left_out.is_empty());
        self.judge(&walk);
        self.roll_up();
        self.sink.flush();
        Ok(())
    }

    /// Waits for something to do.
    async fn wait(
        &self,
        ends: &mut Ends,
        ring: &AsyncFd<OwnedFd>,
        scrapes: &mut Option<Scrapes>,
    ) -> Result<Woken, Failure> {
        let walk_ns = self.next_walk().map(|(at_ns, _)| at_ns);
        let gathering = self.gather_until_ns != 0;
        let gathered_ns = gathering.then_some(self.gather_until_ns);
        let due = [
            walk_ns,
            gathered_ns,
            self.sink.next_roll_up_ns(),
            self.sink.due_ns(),
            self.kernel.losses_due_ns(),
        ];
        let wake_ns = due.into_iter().flatten().min();
        let now_ns = clock::monotonic_ns();
        let wake = wake_ns.and_then(|wake| {
            TokioInstant::now().checked_add(Duration::from_nanos(wake.saturating_sub(now_ns)))
        });
        tokio::select! {
            biased;
            () = ends.come(&self.sink.output) => Ok(Woken::End),
            () = self.sink.output.ended() => Ok(Woken::End),
            // Before what may always be there; a step is done with it, too, so that nothing waits for who asks often.
            scrape = next(scrapes) => Ok(Woken::Scrape(scrape)),
            // Only who waits lets the runtime take in signals and connections.
            () = tokio::task::yield_now(), if self.has_more => Ok(Woken::Step),
            () = until(wake) => Ok(Woken::Step),
            ready = ring.readable(), if !gathering => {
                ready?.clear_ready();
                Ok(Woken::Step)
            }
        }
    }

    /// When sockets are to be walked next, and why.
    fn next_walk(&self) -> Option<(u64, Purpose)> {
        if self.resync_wanted {
            return Some((self.pace.resync(), Purpose::Resync));
        }
        let judge = self.tracker.next_deadline_ns().map(|due| (self.pace.judging(due), Purpose::Judge));
        let follow_up = self.pace.follow_up().map(|at_ns| (at_ns, Purpose::Resync));
        [judge, follow_up].into_iter().flatten().min_by_key(|(at_ns, _)| *at_ns)
    }

    /// Does what there is to do now, on as much of the ring as `limit` says.
    fn step(&mut self, limit: Limit) -> Result<(), Failure> {
        self.sink.wall.refresh();
        let came = self.drain(limit)?;
        let now_ns = clock::monotonic_ns();
        self.gather_until_ns = if came { now_ns + GATHER_NS } else { 0 };
        match self.next_walk().filter(|(at_ns, _)| *at_ns <= now_ns) {
            Some((_, Purpose::Resync)) => self.resync()?,
            Some((_, Purpose::Judge)) => {
                let reach = Reach::Sockets(self.tracker.due_sockets(now_ns));
                if let Some(walk) = self.walk(self.followed, &reach)? {
                    let repaired = self.take_in(&walk)?;
                    if repaired > 0 {
                        self.doubt.repaired += repaired;
                        self.doubt.repaired_ns = walk.started_ns;
                    }
                    self.judge(&walk);
                }
            }
            None => {}
        }
        if !self.sink.is_done() {
            self.sink.sample_descriptors();
        }
        self.roll_up();
        self.sink.flush();
        Ok(())
    }

    /// The figures as they are now.
    fn figures(&self, plan: &Plan) -> Figures {
        self.sink.figures(about(&self.kernel), &plan.policy, &self.tracker, clock::monotonic_ns())
    }

    /// Takes in what is in the ring. Says whether there was anything.
    fn drain(&mut self, limit: Limit) -> Result<bool, Failure> {
        let Self { kernel, tracker, sink, .. } = self;
        let drained = kernel.drain(limit, |change| {
            tracker.apply_transition(change, &mut |finding| sink.finding(&finding, &Evidence::default()));
        })?;
        self.has_more = drained.has_more;
        self.count_lost()?;
        Ok(drained.records > 0)
    }

    /// Takes in a walk together with the transitions up to its end, in the order of their times: what is judged
    /// after it knows them all. Returns how many sockets were in another state than was thought.
    fn take_in(&mut self, walk: &Walk) -> Result<usize, Failure> {
        let Self { kernel, tracker, sink, jiffy_ns, .. } = self;
        let mut repaired = 0;
        let mut rows = walk.sockets.iter().peekable();
        let mut found = |finding| sink.finding(&finding, &Evidence::default());
        let mut row = |tracker: &mut Tracker, row, found: &mut _| {
            repaired += usize::from(tracker.observe_socket(row, since_by_stamps(row, *jiffy_ns), found));
        };
        let Drained { has_more, .. } = kernel.drain(Limit::until(clock::monotonic_ns()), |change| {
            while let Some(earlier) = rows.next_if(|row| row.ktime_ns <= change.at_ns) {
                row(tracker, earlier, &mut found);
            }
            tracker.apply_transition(change, &mut found);
        })?;
        for last in rows {
            row(tracker, last, &mut found);
        }
        self.has_more = has_more;
        self.count_lost()?;
        Ok(repaired)
    }

    /// Reports the sockets that the walk has shown to be stuck.
    fn judge(&mut self, walk: &Walk) {
        let mut findings = Vec::new();
        self.tracker.judge(walk, &mut |finding| findings.push(finding));
        let stuck = findings.iter().filter_map(|finding| match finding {
            Finding::Stuck(Found { cookie, .. }) => Some(*cookie),
            _ => None,
        });
        self.sink.judged(&stuck.collect(), &findings, walk);
    }

    /// Rolls up the processes for which that is due.
    fn roll_up(&mut self) {
        // Those of the last records that were wanted come at the end.
        if !self.sink.is_done() {
            self.sink.roll_up_due(clock::monotonic_ns());
        }
    }

    /// Walks sockets, and paces the next walk by it. `None` if what that takes has run out: the next one is made
    /// later.
    fn walk(&mut self, states: u32, reach: &Reach) -> Result<Option<Walk>, Failure> {
        let walk = self.kernel.walk(states | self.beside, reach);
        let ended_ns = clock::monotonic_ns();
        match walk {
            Ok(walk) => {
                if self.pace.walked(ended_ns, walk.cpu_ns) {
                    say("can walk the kernel's sockets again; what became stuck meanwhile is reported late");
                }
                Ok(Some(walk))
            }
            Err(error) => {
                let Some(shortage) = Shortage::of(&error) else { return Err(error.into()) };
                if self.pace.failed(ended_ns) {
                    say_lines(format_args!(
                        "{error}: {shortage}\n  so:   nothing is found stuck until it works again; it is tried every \
                         few seconds\n  do:   {}",
                        shortage.remedy()
                    ));
                }
                Ok(None)
            }
        }
    }

    /// Has all sockets looked at again soon if a look left some out that could be looked at.
    fn pace_follow_up(&mut self, left_out: bool) {
        self.pace.looked(clock::monotonic_ns(), left_out && self.kernel.enters_namespaces());
    }

    /// Reports what was lost. What may have been lost is looked into first.
    fn count_lost(&mut self) -> Result<(), Failure> {
        let now_ns = clock::monotonic_ns();
        let NewLosses { ring_full, skipped, suspected } =
            self.kernel.take_new_losses(self.tracker.duplicates(), now_ns)?;
        self.report_lost(ring_full, LostReason::RingFull, now_ns);
        self.report_lost(skipped, LostReason::Skipped, now_ns);
        self.doubt.is_reported |= ring_full + skipped > 0;
        self.doubt.suspected += suspected;
        self.resync_wanted |= ring_full + skipped + suspected > 0;
        Ok(())
    }

    fn report_lost(&mut self, lost: u64, reason: LostReason, now_ns: u64) {
        if lost > 0 {
            let at = self.sink.at(now_ns);
            let record = self.sink.reporter.lost(lost, reason, at);
            self.sink.record(record);
        }
    }

    /// How many sockets were repaired after a loss, if there was one: by a look at all, or by another walk just before. A
    /// suspected loss is one, and is reported, if there was something to repair. So many transitions were lost then, and at
    /// most as many as were skipped.
    fn repaired_after_loss(&mut self, doubt: &Doubt, mut repaired: usize, at_ns: u64) -> Option<usize> {
        if u128::from(at_ns.saturating_sub(doubt.repaired_ns)) <= REPAIRED_BEFORE.as_nanos() {
            repaired += doubt.repaired;
        }
        if !doubt.is_reported && repaired > 0 {
            self.report_lost(doubt.suspected.min(repaired as u64), LostReason::Skipped, at_ns);
        }
        (doubt.is_reported || repaired > 0).then_some(repaired)
    }

    /// Delivers what was read, and the summary.
    fn end(self, started_ns: u64) -> Result<(), Failure> {
        let Self { mut sink, .. } = self;
        sink.tell_dropped();
        let totals = sink.summary(started_ns);
        let farewell =
            (sink.is_text() || is_verbose()).then(|| crate::humanize::message::totals_message(&totals));
        finish(sink, farewell)
    }
}

/// Waits for a scrape; forever where no metrics are served.
async fn next(scrapes: &mut Option<Scrapes>) -> Scrape {
    match scrapes {
        Some(scrapes) => scrapes.next().await,
        None => std::future::pending().await,
    }
}

/// Delivers what was made, and then says the last words, if any: on a terminal both are in one place.
pub(crate) fn finish(mut sink: Sink, last_words: Option<String>) -> Result<(), Failure> {
    sink.flush_all();
    let WriteEnd { to, ended, left } = sink.output.finish();
    // The process ends: thousands of pieces need not be given back one by one.
    std::mem::forget(sink.rollup);
    last_words.into_iter().for_each(inform);
    match ended {
        Some(EarlyEnd::Failed { error, is_cut }) => return Err(Failure::Output { to, error, is_cut }),
        None if left > 0 => say(format_args!("nobody reads {to}: the last {left} bytes were not written")),
        Some(EarlyEnd::ReaderGone) | None => {}
    }
    Ok(())
}
