//! `--replay`: a recording in the kernel's place. It needs no privilege, and looks at nothing of
//! the host it runs on.

pub mod recorded;

use rustc_hash::FxHashMap;

use self::recorded::Recorded;
use crate::{
    config::Config,
    diagnostics::{is_verbose, print_info, print_problem, shorten_text},
    engine::{
        Engine,
        input::Input,
        process_info::{ProcessDetails, ProcessInfo},
        processes::{ProcessId, ProcessStats},
        walk::Named,
    },
    events::{Event, EventSink as _, Name, Owner, Start, Summary},
    humanize::message::totals_message,
    outputs::publisher::Publisher,
    sources::{
        Failure, deliver,
        interruption::Interruption,
        recording::{RecordedLine, Recording, input::Lines},
        settings_of,
    },
};

/// Replays what `input` has recorded.
///
/// # Errors
/// See [`Failure`]. What came before the line that is no record has been delivered then. A reader
/// that has gone is none.
pub fn run(
    config: &Config,
    input: impl Lines,
    interruption: &Interruption,
    mut publisher: Publisher,
) -> Result<(), Failure> {
    let speaks = !config.json || is_verbose();
    let mut engine = Engine::new(settings_of(config), 0, RecordedProcesses::default());
    let mut recording = Recording::new(input);
    let mut recorded = Recorded::default();
    let is_done = |publisher: &Publisher| {
        !publisher.is_open() || publisher.has_ended() || interruption.is_end_requested()
    };
    let read = loop {
        if recording.has_to_wait() {
            // Somebody looks on while it is being recorded.
            publisher.flush_all();
        }
        let RecordedLine { at, event, cut } = match recording.next_line() {
            Ok(Some(line)) if !is_done(&publisher) => line,
            Ok(_) => break Ok(()),
            Err(bad) => break Err(Failure::Recording(bad)),
        };
        if interruption.take_reopen_request() {
            publisher.reopen();
        }
        if let Some(number) = cut {
            print_problem(format_args!(
                "line {number} of the recording is cut off: the run that wrote it was killed, or had no more room; going on \
                 with the next run"
            ));
        }
        if let Some(event) = &event {
            recorded.note_event(event);
        }
        if let Some(Event::Start(start)) = &event
            && speaks
        {
            print_origin(start);
        }
        engine.apply(Input::Recorded { at, event }, &mut publisher);
        publisher.flush_and_wait(engine.recorded_now_ns());
    };
    if read.is_err() && !engine.has_recorded() {
        // A file without any record is none that was recorded: there is nothing to sum up.
        return deliver(publisher, None).and(read);
    }
    if read.is_ok() && !is_done(&publisher) && !recording.is_abandoned() {
        recorded.shortcomings(config).iter().for_each(print_problem);
    }
    let totals = engine.end_recording(&mut publisher);
    let totals = Summary { dropped: totals.dropped + publisher.dropped(), ..totals };
    let farewell = speaks.then(|| totals_message(&totals));
    deliver(publisher, farewell).and(read)
}

/// Says on stderr where and by what a recording was made.
fn print_origin(Start { version, host, kernel, .. }: &Start) {
    // Longer than any of them is.
    let [version, host, kernel] = [version.as_ref(), host, kernel].map(|text| shorten_text(text, 64));
    print_info(format_args!("replaying what tcptrace {version} recorded on {host}, Linux {kernel}"));
}

/// What a recording knows of processes: their names, and who held what.
#[derive(Debug, Default)]
struct RecordedProcesses {
    names: FxHashMap<u32, Name>,
}

impl ProcessInfo for RecordedProcesses {
    fn holder_details(&self, _pid: u32, _named: Option<Named>) -> ProcessDetails {
        ProcessDetails::default()
    }

    fn actor_details(&mut self, _pid: u32, _comm: Option<&[u8]>, _at_ns: u64) -> Option<&ProcessDetails> {
        None
    }

    fn opener_details(&mut self, _pid: u32, _since_ns: u64, _now_ns: u64) -> Option<&ProcessDetails> {
        None
    }

    fn process_id(&self, pid: u32, _named: Option<Named>) -> ProcessId {
        ProcessId { pid, start_ticks: 0 }
    }

    /// A recording says nothing of a process's descriptors.
    fn process_stats(&self, id: ProcessId) -> Option<ProcessStats> {
        let comm = self.names.get(&id.pid).map(|name| name.0).unwrap_or_default();
        Some(ProcessStats { comm, ..ProcessStats::default() })
    }

    fn is_alive(&self, _id: ProcessId) -> bool {
        true
    }

    fn note_owner(&mut self, owner: &Owner) {
        self.names.extend(owner.comm.map(|comm| (owner.pid, comm)));
    }
}

#[cfg(test)]
mod tests;
