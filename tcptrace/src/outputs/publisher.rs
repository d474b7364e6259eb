//! Findings and records in, batches of lines to the output: filtering, rendering, counting down `--count`, and dropping
//! what may be dropped when the reader is too slow.

pub mod held_back;
pub mod snapshot;

use crate::clock;
use std::borrow::Borrow;

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::state;

use self::held_back::HeldBack;

use crate::{
    cli::Plan,
    clock::WallClock,
    engine::process_info::ProcessInfo as _,
    engine::{
        age::Since,
        assemble::{Reporter, process::process_record},
        filter::admission::Admission,
        ownership::{responsible::Charged, walk_index::Evidence},
        processes::{Condition, ProcessId, Rollup},
        state_change::{Actor, StateChange},
        tracker::{Socket, finding::Finding, found::Found},
        walk::{Named, Walk},
    },
    events::{
        Event, Instant, LostReason, Name, Owner, OwnerHow, ProcessRecord, Record, SocketId, Stuck, Summary,
    },
    host::proc::{
        live_processes::LiveProcesses,
        proc_stat::{process_id, process_stats, start_ticks},
        process,
    },
    outputs::{json::Json, text::TextRenderer, writer::LineWriter},
    terminal::{Size, Terminal},
};

/// Bytes of records that are handed to the output at the most at a time.
const BATCH: usize = 64 << 10;

/// Counting descriptors goes on for this long at the most, nanoseconds; what is left is counted
/// later.
const SAMPLING_NS: u64 = 20_000_000;

/// Counting descriptors takes one part in so many of the time at the most.
const SAMPLING_SHARE: u64 = 100;

/// How records become bytes.
pub enum Format {
    /// One JSON object a line.
    Json(Json),
    /// Aligned text.
    Text {
        /// Writes it.
        text: Box<TextRenderer>,
        /// Where it goes, if that is a terminal.
        terminal: Option<Terminal>,
    },
}

impl Format {
    /// Lays out the lines to come for the terminal as it is now.
    fn fit_terminal(&mut self) {
        if let Self::Text { text, terminal: Some(terminal) } = self {
            let Size { columns, rows } = terminal.size();
            text.resize(columns, rows);
        }
    }
}

/// Findings and records in, bytes to the output.
pub(crate) struct Sink {
    pub(crate) reporter: Reporter,
    pub(crate) rollup: Rollup,
    admission: Admission,
    /// What is known of this host's processes; of another one's, from which records come, nothing is.
    processes: Option<LiveProcesses>,
    format: Format,
    pub(crate) output: LineWriter,
    lines: Vec<u8>,
    /// The wall clock, as it was when the batch under way began.
    pub(crate) wall: WallClock,
    /// How many more records of the views are wanted.
    left: Option<u64>,
    /// What a reader that is too slow has cost since it was last told.
    held_back: HeldBack,
    /// Whether to wait for a slow reader instead of dropping records: where nothing has to be kept up with.
    waits: bool,
}

impl Sink {
    /// For a run that began at `began_ns`; nothing handed over yet.
    pub(crate) fn new(plan: &Plan, began_ns: u64, format: Format, output: LineWriter) -> Self {
        let Plan { views, policy, filter, count, .. } = plan;
        Self {
            reporter: Reporter::new(*views, policy.threshold_ns),
            rollup: Rollup::new(began_ns, policy.threshold_ns),
            admission: Admission::by(filter.clone(), views.lives),
            processes: Some(LiveProcesses::default()),
            format,
            output,
            lines: Vec::new(),
            wall: WallClock::now(),
            left: *count,
            held_back: HeldBack::default(),
            waits: false,
        }
    }

    /// The same for records of another host, or another time: nothing is looked up.
    pub(crate) fn without_a_host(self) -> Self {
        Self { processes: None, ..self }
    }

    /// Drops nothing: waits for a slow reader.
    pub(crate) fn patient(self) -> Self {
        Self { waits: true, ..self }
    }

    /// Whether people read along.
    pub(crate) const fn is_text(&self) -> bool {
        matches!(self.format, Format::Text { .. })
    }

    /// Hands over the record of a finding, where a view wants it.
    pub(crate) fn finding(&mut self, finding: &Finding, evidence: &Evidence) {
        if let Finding::Cleared { cookie, at_ns, .. } = finding {
            self.rollup.cleared(*cookie, *at_ns);
        }
        if let Finding::Transition { change, .. } = finding
            && let Some(actor) = &change.actor
            && self.reporter.views().lives
        {
            self.meet_actor(change, actor);
        }
        if let Some(record) = self.reporter.finding(finding, evidence, &self.wall) {
            self.offer(record);
        }
    }

    /// Hands over a record of a view, if the filter admits it.
    pub(crate) fn offer(&mut self, mut record: Record) {
        let is_admitted = self.is_admitted(&mut record);
        self.report(record, is_admitted);
    }

    /// Takes note of who acts on a socket, as long as that can be looked up: its life is told when it is over.
    fn meet_actor(&mut self, change: &StateChange, actor: &Actor) {
        if change.old_state == state::LISTEN {
            // A listener has no life; what was noted for one is not needed any more.
            return self.admission.forget(change.cookie);
        }
        let mut owner = crate::engine::assemble::owner(actor);
        self.look_up(&mut owner, change.at_ns);
        if self.admission.filter.asks_for_processes() {
            self.admission.learn(change.cookie, [&owner]);
        }
    }

    /// Adds what can be looked up of a process that acted at that time.
    fn look_up(&mut self, owner: &mut Owner, at_ns: u64) {
        let comm = owner.comm.as_ref().map(Name::bytes);
        if let Some(process) =
            self.processes.as_mut().and_then(|known| known.actor_details(owner.pid, comm, at_ns))
        {
            crate::engine::ownership::responsible::complete(owner, process);
        }
    }

    /// Takes note of who holds what was open before the start: a filter may ask for it.
    pub(crate) fn meet(&mut self, walk: &Walk) {
        if self.admission.filter.asks_for_processes() {
            let all = walk.sockets.iter().map(|row| row.cookie).collect();
            let evidence = Evidence::gather(walk, &all, process::look_up);
            for row in &walk.sockets {
                let charged = Charged::of(row.cookie, &evidence);
                self.admission.learn(row.cookie, charged.processes());
            }
        }
    }

    /// How many of these sockets, as a walk has seen them, the filter admits.
    pub(crate) fn count_admitted(&self, sockets: &[(u64, Socket)], walk: &Walk) -> usize {
        if self.admission.filter.is_empty() {
            return sockets.len();
        }
        let cookies = sockets.iter().map(|(cookie, _)| *cookie).collect();
        let evidence = Evidence::gather(walk, &cookies, process::look_up);
        let is_admitted = |(cookie, socket): &&(u64, Socket)| {
            let id = SocketId::new(*cookie, socket.netns, &socket.tuple);
            self.admission.filter.admits(&id, Charged::of(*cookie, &evidence).processes())
        };
        sockets.iter().filter(is_admitted).count()
    }

    /// Whether a record is admitted. If so, what it leaves open of the process that acted has been looked up, whatever the
    /// filters are.
    fn is_admitted(&mut self, record: &mut Record) -> bool {
        // Only filters for processes depend on what is looked up.
        let asks = self.admission.filter.asks_for_processes();
        if !asks && !self.admission.admits(&record.event) {
            return false;
        }
        let is_text = self.is_text();
        let at_ns = record.at.mono_ns;
        let actor = match &mut record.event {
            // Text shows the name only, which is there.
            Event::Transition(_) if is_text && !asks => None,
            Event::Transition(transition) => transition.owner.as_mut(),
            Event::Cleared(cleared) => cleared.by.as_mut(),
            Event::Life(life) => match (&mut life.owner, life.owned_ns) {
                (Some(owner), Some(owned_ns)) => {
                    let known = self.processes.as_mut();
                    if let Some(process) =
                        known.and_then(|known| known.opener_details(owner.pid, owned_ns, at_ns))
                    {
                        crate::engine::ownership::responsible::complete(owner, process);
                    }
                    None
                }
                (owner, _) => owner.as_mut(),
            },
            _ => None,
        };
        if let Some(owner) = actor {
            self.look_up(owner, at_ns);
        }
        !asks || self.admission.admits(&record.event)
    }

    /// Hands over a record of a view, or counts that a filter keeps it back.
    fn report(&mut self, record: Record, is_admitted: bool) {
        if self.is_done() {
            return;
        }
        if is_admitted {
            self.reporter.reported(&record.event);
            self.record(record);
        } else {
            self.reporter.filtered();
        }
    }

    /// Hands over how a walk has found these sockets, where the filter admits them.
    pub(crate) fn found(&mut self, found: &[Found], walk: &Walk) {
        let cookies = found.iter().map(|found| found.cookie).collect();
        let evidence = Evidence::gather(walk, &cookies, process::look_up);
        for found in found {
            self.offer_found(Reporter::found(found, &evidence, &self.wall));
        }
    }

    /// Hands over the record of how a socket was found, if the filter admits it. It is of no view: nobody counts it.
    pub(crate) fn offer_found(&mut self, mut record: Record) {
        if self.is_admitted(&mut record) {
            self.record(record);
        }
    }

    /// Hands over what judging after a walk has found, `stuck` sockets among it, with the holders that the walk has seen,
    /// and counts the stuck ones in their processes.
    pub(crate) fn judged(
        &mut self,
        stuck: &FxHashSet<u64>,
        findings: impl IntoIterator<Item = impl Borrow<Finding>>,
        walk: &Walk,
    ) {
        let evidence = Evidence::gather(walk, stuck, process::look_up);
        let mut named = FxHashMap::default();
        for holders in walk.holders.chunk_by(|one, next| one.pid == next.pid) {
            named.extend(holders.last().map(|holder| (holder.pid, holder.process)));
        }
        let mut ids = ProcessIds { named, known: FxHashMap::default() };
        for finding in findings {
            let finding = finding.borrow();
            let Finding::Stuck(Found { socket, seen_ns, .. }) = finding else {
                self.finding(finding, &evidence);
                continue;
            };
            if let Some(record) = self.reporter.finding(finding, &evidence, &self.wall) {
                self.stuck(record, socket.since, *seen_ns, |pid| ids.of(pid));
            }
        }
    }

    /// Hands over the record of a stuck socket, if the filter admits it, and counts it in its processes.
    pub(crate) fn stuck(
        &mut self,
        mut record: Record,
        since: Since,
        seen_ns: u64,
        mut id: impl FnMut(u32) -> ProcessId,
    ) {
        if let Event::Stuck(stuck) = &mut record.event {
            // The first one that a filter admits is news, however often the socket was found stuck before.
            stuck.is_reminder &= self.admission.has_reported(stuck.socket.cookie);
        }
        let is_admitted = self.is_admitted(&mut record);
        if let Event::Stuck(stuck) = &record.event {
            let Stuck { socket, details, .. } = &**stuck;
            let answerable: Vec<_> = match details.owner_how {
                OwnerHow::Fd | OwnerHow::Listener => {
                    stuck.details.processes().map(|owner| id(owner.pid)).collect()
                }
                _ => Vec::new(),
            };
            self.rollup.stuck(socket.cookie, since, seen_ns, &answerable);
            for (owner, id) in stuck.details.processes().zip(answerable).filter(|_| is_admitted) {
                if self.admission.filter.admits_owner(owner) {
                    self.rollup.show(id);
                }
            }
        }
        self.report(record, is_admitted);
    }

    /// Hands over a record: into the batch, or to be counted where the reader is too slow for it.
    pub(crate) fn record(&mut self, record: Record) {
        if let Some(record) = self.admit_to_queue(record) {
            self.render(record);
        }
    }

    /// Holds back what may be where the reader is too slow, and tells what was held back once there is room again.
    fn admit_to_queue(&mut self, record: Record) -> Option<Record> {
        if !record.event.may_be_held_back() {
            return Some(record);
        }
        if self.waits {
            self.output.wait_for_room();
        } else if self.output.is_full() {
            self.held_back.take(record);
            return None;
        } else if !self.held_back.is_empty() {
            self.tell_dropped();
        }
        Some(record)
    }

    fn render(&mut self, mut record: Record) {
        if record.event.is_of_a_view() {
            match &mut self.left {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if self.lines.is_empty() {
            self.format.fit_terminal();
        }
        match &mut self.format {
            Format::Json(json) => json.take(&record, &mut self.lines),
            Format::Text { text, .. } => {
                let filter = &self.admission.filter;
                if let Event::Stuck(stuck) = &mut record.event
                    && filter.asks_for_processes()
                {
                    for owner in stuck.details.processes_mut() {
                        owner.is_requested = filter.admits_owner(owner);
                    }
                }
                text.add_record(record, &mut self.lines);
            }
        }
        // One drain of the ring can be long: what waits has to be known while it goes on.
        if self.lines.len() >= BATCH {
            self.output.write(&mut self.lines);
            self.lines.reserve(BATCH + BATCH / 16);
        }
    }

    /// Ends the batch: what is in it goes to the output, but for text that waits for more of its kind.
    pub(crate) fn flush(&mut self) {
        self.flush_as_of(clock::monotonic_ns());
    }

    /// Ends the last batch: nothing waits any more.
    pub(crate) fn flush_all(&mut self) {
        self.flush_as_of(u64::MAX);
    }

    fn flush_as_of(&mut self, now_ns: u64) {
        if self.due_ns().is_some_and(|due| due <= now_ns) {
            self.format.fit_terminal();
        }
        if let Format::Text { text, .. } = &mut self.format {
            text.flush_due(now_ns, &mut self.lines);
        }
        if !self.held_back.is_empty() && !self.output.is_full() {
            self.tell_dropped();
        }
        self.output.write(&mut self.lines);
    }

    /// Adds the records of what was held back since the last ones, if anything was.
    pub(crate) fn tell_dropped(&mut self) {
        let HeldBack { dropped, lost, processes } = std::mem::take(&mut self.held_back);
        for record in lost {
            self.render(record);
        }
        let mut processes: Vec<_> = processes.into_values().collect();
        processes.sort_unstable_by_key(|record| record.at.mono_ns);
        for record in processes {
            self.render(record);
        }
        if dropped > 0 {
            let at = self.at(clock::monotonic_ns());
            let record = self.reporter.lost(dropped, LostReason::ReaderSlow, at);
            self.render(record);
        }
    }

    /// When text that waits for more of its kind is to be written, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        match &self.format {
            Format::Text { text, .. } => text.next_flush_ns(),
            Format::Json(_) => None,
        }
    }

    /// When the next roll-up, or the next sample for one, is due, `CLOCK_MONOTONIC` nanoseconds.
    pub(crate) fn next_roll_up_ns(&self) -> Option<u64> {
        let due_ns = self.rollup.next_due_ns().map(|due_ns| due_ns.max(self.next_lines_ns()));
        [due_ns, self.rollup.next_sample_ns()].into_iter().flatten().min()
    }

    /// Counts the descriptors of the processes for which that is due.
    pub(crate) fn sample_descriptors(&mut self) {
        let began_ns = clock::monotonic_ns();
        let due = self.rollup.to_sample(began_ns);
        if due.is_empty() {
            return;
        }
        let mut took_ns = 0;
        for id in due {
            self.rollup.sample(id, process_stats(id).as_ref(), began_ns);
            took_ns = clock::monotonic_ns().saturating_sub(began_ns);
            if took_ns > SAMPLING_NS {
                break;
            }
        }
        self.rollup.rest_until(began_ns.saturating_add(SAMPLING_SHARE * took_ns));
    }

    /// When lines that wait can be written, `CLOCK_MONOTONIC` nanoseconds.
    fn next_lines_ns(&self) -> u64 {
        match &self.format {
            Format::Text { text, .. } => text.earliest_flush_ns(),
            Format::Json(_) => 0,
        }
    }

    /// Hands over the roll-ups that are due. As text each comes right after the lines about its
    /// sockets, and counts all of these.
    pub(crate) fn roll_up_due(&mut self, now_ns: u64) {
        if now_ns < self.next_lines_ns() {
            return;
        }
        let due = self.rollup.due(now_ns);
        if !due.is_empty() {
            self.roll_up(due, now_ns);
            self.format.fit_terminal();
            if let Format::Text { text, .. } = &mut self.format {
                text.flush_all(now_ns, &mut self.lines);
            }
        }
    }

    /// Hands over the roll-ups of these processes.
    pub(crate) fn roll_up(&mut self, which: Vec<ProcessId>, now_ns: u64) {
        self.roll_up_as(which, now_ns, process_stats);
        self.rollup.forget_ended(|id| start_ticks(id.pid) == Some(id.start_ticks));
    }

    /// The same, with this for what the system says of a process.
    pub(crate) fn roll_up_as(
        &mut self,
        which: Vec<ProcessId>,
        now_ns: u64,
        process_stats: impl Fn(ProcessId) -> Option<Condition>,
    ) {
        let at = self.at(now_ns);
        for id in which {
            let shared_with = self.rollup.first_sharer(id).map(|id| id.pid);
            if let Some(rolled) = self.rollup.roll(id, process_stats(id).as_ref(), now_ns) {
                let record = ProcessRecord { shared_with, ..process_record(id.pid, &rolled) };
                self.record(Record { at, event: Event::Process(record) });
            }
        }
    }

    /// Hands over a line that is a record already, but for people.
    pub(crate) fn pass(&mut self, line: &[u8]) {
        if let Format::Json(_) = self.format {
            crate::outputs::json::recorded(line, &mut self.lines);
        }
    }

    /// Ends the batch as of a time when it has become long, or holds what people wait for, and waits for the reader.
    pub(crate) fn flush_when_full(&mut self, now_ns: u64) {
        if self.lines.len() >= BATCH || self.due_ns().is_some_and(|due| due <= now_ns) {
            self.flush_as_of(now_ns);
        }
        self.output.wait_for_room();
    }

    /// Hands over the summary of a run that began at `started_ns`, and says what it is.
    pub(crate) fn summary(&mut self, started_ns: u64) -> Summary {
        self.summary_at(started_ns, clock::monotonic_ns())
    }

    /// The same of a run that ended then.
    pub(crate) fn summary_at(&mut self, started_ns: u64, ended_ns: u64) -> Summary {
        let at = self.at(ended_ns);
        let totals = self.reporter.summary(started_ns, at);
        self.record(Record { at, event: Event::Summary(totals.clone()) });
        totals
    }

    /// Whether all records that were wanted have been made.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// An instant, given on the monotonic clock.
    pub(crate) fn at(&self, mono_ns: u64) -> Instant {
        Instant { wall_ns: self.wall.at(mono_ns), mono_ns }
    }
}

/// Which process each pid of a walk is.
struct ProcessIds {
    named: FxHashMap<u32, Option<Named>>,
    known: FxHashMap<u32, ProcessId>,
}

impl ProcessIds {
    fn of(&mut self, pid: u32) -> ProcessId {
        let named = self.named.get(&pid).copied().flatten();
        *self.known.entry(pid).or_insert_with(|| process_id(pid, named))
    }
}

#[cfg(test)]
mod tests;
