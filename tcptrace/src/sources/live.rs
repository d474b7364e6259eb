//! Live tracing: the only place that knows ring, timer and signals at once.
//!
//! It waits for what comes first: a transition after all were read, the time to judge a socket, a
//! signal, the reader's end, somebody who wants figures. Then it feeds what the ring holds to the
//! engine, and walks the sockets if one is due to be judged or something was lost.

pub mod pace;
pub mod start;

use std::{io, os::fd::OwnedFd, time::Duration};

use tcptrace_common::state;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant as TokioInstant,
};

use self::{
    pace::Pace,
    start::{print_banner, print_missing, start_record},
};
use crate::{
    clock::{self, WallClock},
    config::Config,
    diagnostics::{is_verbose, print_problem, print_problem_lines},
    engine::{
        Engine,
        input::{Input, Loss, Purpose},
        process_info::ProcessInfo as _,
        walk::{self, Reach, Walk},
    },
    events::{EventSink as _, Summary},
    host::{
        bpf::drain::{Drained, Limit},
        kernel::Kernel,
        proc::live_processes::LiveProcesses,
        shortage::Shortage,
    },
    humanize::message::{totals_message, watching_message},
    outputs::publisher::{Attention, Publisher},
    sources::{
        Failure, deliver, settings_of,
        shutdown::{Shutdown, ShutdownRequest, sleep_until_or_forever},
    },
};

/// How long the next transitions are let to gather after some have come: few wake-ups in a burst,
/// and still on screen at once for people.
const GATHER_NS: u64 = 10_000_000;

/// Counting descriptors goes on for this long at most, nanoseconds; the rest are counted later.
const SAMPLING_NS: u64 = 20_000_000;

/// Counting descriptors takes one part in so many of the time at most.
const SAMPLING_SHARE: u64 = 100;

/// Traces until something ends it, and says what was left unwritten.
///
/// # Errors
/// See [`Failure`]. A reader that has gone is none.
pub async fn run(config: &Config, kernel: Kernel, publisher: Publisher) -> Result<(), Failure> {
    let started_ns = clock::monotonic_ns();
    let mut shutdown = Shutdown::new(config.duration, publisher.reader(), config.output.is_some())?;
    let ring = kernel.ring().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open, and stays the same descriptor, for as long as the `AsyncFd`
    // owns it.
    let ring =
        unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)?;
    let mut session = Session {
        kernel,
        engine: Engine::new(settings_of(config), started_ns, LiveProcesses::default()),
        publisher,
        wall: WallClock::now(),
        followed_states: config.policy.followed,
        related_states: walk::beside(config.policy.watched),
        pace: Pace::default(),
        gather_until_ns: 0,
        has_more: false,
    };
    match session.run_loop(config, &mut shutdown, &ring).await {
        Ok(()) => session.finish_run(config, started_ns),
        Err(failure) => {
            // What was made before it went wrong is delivered all the same.
            let _the_failure_is_told = session.publisher.finish();
            Err(failure)
        }
    }
}

/// What ended a wait.
enum Woken {
    /// Transitions have come, or something is due by now.
    Work,
    /// Somebody wants the figures as they are now.
    Figures,
    /// The run is to end.
    End,
}

struct Session {
    kernel: Kernel,
    engine: Engine<LiveProcesses>,
    publisher: Publisher,
    wall: WallClock,
    /// The states in which sockets are followed, as a mask.
    followed_states: u32,
    /// The states of sockets that tell more about those that may be stuck, as a mask.
    related_states: u32,
    pace: Pace,
    /// Transitions came; the next are let to gather until then. 0: wait for the ring.
    gather_until_ns: u64,
    /// Whether there may be more in the ring, which wakes nobody before it has been read to its
    /// end.
    has_more: bool,
}

impl Session {
    /// Runs until a signal, `--duration`, `--count` or a closed stdout ends it; then detaches and
    /// drains the ring.
    async fn run_loop(
        &mut self,
        config: &Config,
        shutdown: &mut Shutdown,
        ring: &AsyncFd<OwnedFd>,
    ) -> Result<(), Failure> {
        self.initial_sync(config)?;
        while self.publisher.is_open() {
            match self.wait_for_work(shutdown, ring).await? {
                Woken::Work => self.process_work(Limit::PART)?,
                Woken::Figures => {
                    // All that happened before they were asked for counts.
                    self.process_work(Limit::until(clock::monotonic_ns()))?;
                    let figures = self.engine.figures(
                        start::tracer_info(&self.kernel),
                        self.publisher.dropped(),
                        clock::monotonic_ns(),
                    );
                    self.publisher.show_figures(&figures);
                }
                Woken::End => break,
            }
        }
        self.look_at_wall_clock();
        // Before anything that may take its time, such as a slow reader.
        self.kernel.detach();
        self.drain(Limit::NONE)?;
        if self.engine.needs_resync() {
            self.walk_for(Purpose::Resync, clock::monotonic_ns())?;
            if self.engine.needs_resync() {
                print_problem(
                    "transitions were lost at the end, and nobody could look for what they would have told",
                );
            }
        }
        Ok(())
    }

    /// Applies every socket that is open already, and judges those that were stuck before the
    /// start.
    fn initial_sync(&mut self, config: &Config) -> Result<(), Failure> {
        let walk = self.kernel.walk(state::ALL, &Reach::default())?;
        let start = start_record(&self.kernel, &walk);
        if !config.json || is_verbose() {
            let watched = config.views.stuck.then(|| config.format_watched());
            print_banner(
                self.kernel.feature_statuses(),
                &watching_message(&start, walk.count_namespaces(), watched.as_deref()),
            );
            print_missing(config, &self.kernel, &walk);
        }
        self.engine.set_wall_clock(&self.wall);
        self.engine
            .apply(Input::Started { start: Box::new(start), at_ns: walk.started_ns }, &mut self.publisher);
        self.apply_walk(&walk, Purpose::Start)?;
        self.pace_follow_up(!walk.left_out.is_empty());
        self.roll_up();
        self.publisher.flush(clock::monotonic_ns());
        Ok(())
    }

    /// Waits for something to do.
    async fn wait_for_work(
        &mut self,
        shutdown: &mut Shutdown,
        ring: &AsyncFd<OwnedFd>,
    ) -> Result<Woken, Failure> {
        let gathering = self.gather_until_ns != 0;
        let due = [
            self.next_walk().map(|(at_ns, _)| at_ns),
            gathering.then_some(self.gather_until_ns),
            self.engine.next_roll_up_ns().map(|due_ns| due_ns.max(self.publisher.ready_ns())),
            self.engine.next_sample_ns(),
            self.publisher.flush_due_ns(),
            self.kernel.losses_due_ns(),
        ];
        let wake_ns = due.into_iter().flatten().min();
        let now_ns = clock::monotonic_ns();
        let wake = wake_ns.and_then(|wake| {
            TokioInstant::now().checked_add(Duration::from_nanos(wake.saturating_sub(now_ns)))
        });
        let has_more = self.has_more;
        let publisher = &mut self.publisher;
        tokio::select! {
            biased;
            request = shutdown.next_request() => {
                match request {
                    ShutdownRequest::End => return Ok(Woken::End),
                    ShutdownRequest::Reopen => publisher.reopen(),
                }
                Ok(Woken::Work)
            }
            attention = publisher.wants_attention() => Ok(match attention {
                Attention::Ended => Woken::End,
                Attention::FiguresWanted => Woken::Figures,
            }),
            // Only a wait lets the runtime take in signals and connections.
            () = tokio::task::yield_now(), if has_more => Ok(Woken::Work),
            () = sleep_until_or_forever(wake) => Ok(Woken::Work),
            ready = ring.readable(), if !gathering => {
                ready?.clear_ready();
                Ok(Woken::Work)
            }
        }
    }

    /// When sockets are to be walked next, and why.
    fn next_walk(&self) -> Option<(u64, Purpose)> {
        if self.engine.needs_resync() {
            return Some((self.pace.next_resync_ns(), Purpose::Resync));
        }
        let judge =
            self.engine.next_judgement_ns().map(|due| (self.pace.next_judging_ns(due), Purpose::Judge));
        let follow_up = self.pace.next_follow_up_ns().map(|at_ns| (at_ns, Purpose::Resync));
        [judge, follow_up].into_iter().flatten().min_by_key(|(at_ns, _)| *at_ns)
    }

    /// Does what there is to do now, on as much of the ring as `limit` says.
    fn process_work(&mut self, limit: Limit) -> Result<(), Failure> {
        self.look_at_wall_clock();
        let came = self.drain(limit)?;
        let now_ns = clock::monotonic_ns();
        self.gather_until_ns = if came { now_ns.saturating_add(GATHER_NS) } else { 0 };
        if let Some((_, purpose)) = self.next_walk().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.walk_for(purpose, now_ns)?;
        }
        if self.publisher.is_open() {
            self.sample_descriptors();
        }
        self.roll_up();
        self.publisher.flush(clock::monotonic_ns());
        Ok(())
    }

    fn look_at_wall_clock(&mut self) {
        self.wall.refresh();
        self.engine.set_wall_clock(&self.wall);
    }

    /// Applies what is in the ring. Returns whether there was anything.
    fn drain(&mut self, limit: Limit) -> Result<bool, Failure> {
        let Self { kernel, engine, publisher, .. } = self;
        let drained = kernel.drain(limit, |change| engine.apply(Input::Transition(change), publisher))?;
        self.has_more = drained.has_more;
        self.count_losses()?;
        Ok(drained.records > 0)
    }

    /// Walks sockets for this purpose, and applies the walk. If what a walk takes has run out, it
    /// is made later.
    fn walk_for(&mut self, purpose: Purpose, now_ns: u64) -> Result<(), Failure> {
        let reach = match purpose {
            Purpose::Judge => Reach::Sockets(self.engine.due_sockets(now_ns)),
            _ => Reach::Everywhere(self.engine.namespaces()),
        };
        let Some(walk) = self.try_walk(self.followed_states, &reach)? else { return Ok(()) };
        self.apply_walk(&walk, purpose)?;
        if purpose == Purpose::Resync {
            let outcome = self.engine.last_walk();
            if outcome.followed_loss {
                self.pace.note_loss();
            }
            self.pace_follow_up(outcome.unknown > 0 || !walk.left_out.is_empty());
        }
        Ok(())
    }

    /// Applies a walk together with the transitions up to its end, in the order of their times:
    /// what is judged after it knows them all.
    fn apply_walk(&mut self, walk: &Walk, purpose: Purpose) -> Result<(), Failure> {
        let Self { kernel, engine, publisher, .. } = self;
        engine.apply(Input::WalkBegan(walk, purpose), publisher);
        let mut rows = walk.sockets.iter().peekable();
        let Drained { has_more, .. } = kernel.drain(Limit::until(clock::monotonic_ns()), |change| {
            while let Some(earlier) = rows.next_if(|row| row.ktime_ns <= change.at_ns) {
                engine.apply(Input::Socket(earlier), publisher);
            }
            engine.apply(Input::Transition(change), publisher);
        })?;
        for last in rows {
            engine.apply(Input::Socket(last), publisher);
        }
        self.has_more = has_more;
        self.count_losses()?;
        self.engine.apply(Input::WalkEnded(walk, purpose), &mut self.publisher);
        Ok(())
    }

    /// Counts the descriptors of the processes for which that is due.
    fn sample_descriptors(&mut self) {
        let began_ns = clock::monotonic_ns();
        let due = self.engine.due_samples(began_ns);
        if due.is_empty() {
            return;
        }
        let mut took_ns = 0;
        for id in due {
            let stats = self.engine.process_info().process_stats(id);
            self.engine.apply(
                Input::ProcessStats { id, stats: stats.as_ref(), at_ns: began_ns },
                &mut self.publisher,
            );
            took_ns = clock::monotonic_ns().saturating_sub(began_ns);
            if took_ns > SAMPLING_NS {
                break;
            }
        }
        self.engine.rest_sampling_until(began_ns.saturating_add(SAMPLING_SHARE * took_ns));
    }

    /// Rolls up the processes for which that is due. As text each roll-up comes right after the
    /// lines about its sockets, and counts all of these.
    fn roll_up(&mut self) {
        let now_ns = clock::monotonic_ns();
        // Those of the last records that were wanted come at the end.
        if self.publisher.is_open() && now_ns >= self.publisher.ready_ns() {
            self.engine.apply(Input::Time(now_ns), &mut self.publisher);
            self.publisher.settle_roll_ups(now_ns);
        }
    }

    /// Walks sockets, and paces the next walk by it. `None` if what that takes has run out.
    fn try_walk(&mut self, states: u32, reach: &Reach) -> Result<Option<Walk>, Failure> {
        let walk = self.kernel.walk(states | self.related_states, reach);
        let ended_ns = clock::monotonic_ns();
        match walk {
            Ok(walk) => {
                if self.pace.note_walk(ended_ns, walk.cpu_ns) {
                    print_problem(
                        "can walk the kernel's sockets again; what became stuck meanwhile is reported late",
                    );
                }
                Ok(Some(walk))
            }
            Err(error) => {
                let Some(shortage) = Shortage::find_in(&error) else { return Err(error.into()) };
                if self.pace.note_failure(ended_ns) {
                    print_problem_lines(format_args!(
                        "{error}: {shortage}\n  so:   nothing is found stuck until it works again; it is tried every \
                         few seconds\n  do:   {}",
                        shortage.remedy()
                    ));
                }
                Ok(None)
            }
        }
    }

    /// Has all sockets looked at again soon if a walk left some out that could be looked at.
    fn pace_follow_up(&mut self, left_out: bool) {
        self.pace.note_look(clock::monotonic_ns(), left_out && self.kernel.enters_namespaces());
    }

    /// Tells the engine what was lost.
    fn count_losses(&mut self) -> Result<(), Failure> {
        let at_ns = clock::monotonic_ns();
        let lost = self.kernel.take_new_losses(self.engine.duplicates(), at_ns)?;
        let loss =
            Loss { ring_full: lost.ring_full, skipped: lost.skipped, suspected: lost.suspected, at_ns };
        self.engine.apply(Input::Loss(loss), &mut self.publisher);
        Ok(())
    }

    /// Delivers what was read, and the summary.
    fn finish_run(self, config: &Config, began_ns: u64) -> Result<(), Failure> {
        let Self { mut engine, mut publisher, .. } = self;
        let at_ns = clock::monotonic_ns();
        engine.apply(Input::Ended { began_ns, at_ns }, &mut publisher);
        let totals = Summary { dropped: publisher.dropped(), ..engine.summary(began_ns, at_ns) };
        let farewell = (!config.json || is_verbose()).then(|| totals_message(&totals));
        deliver(publisher, farewell)?;
        // The process ends: thousands of pieces need not be given back one by one.
        std::mem::forget(engine);
        Ok(())
    }
}
