//! What a transition costs between the ring and the output, and a live socket in memory: the very code that ships, with
//! no kernel, clock or file.
//!
//! `pipeline/load.rs` makes the records, `pipeline/memory.rs` counts allocations. divan shows the median per event; the
//! line `the_load_alone` is the part of it that is not tcptrace's.

#![expect(clippy::print_stdout, reason = "its results")]

#[path = "pipeline/load.rs"]
mod load;
#[path = "pipeline/memory.rs"]
mod memory;

use divan::Bencher;
use rustc_hash::FxHashMap;
use tcptrace::{
    clock::WallClock,
    engine::{
        Engine,
        filter::Filter,
        input::Input,
        process_info::{ProcessDetails, ProcessInfo},
        processes::{ProcessId, ProcessStats},
        settings::Settings,
        tracker::Policy,
        walk::Named,
    },
    events::{EventSink, Record, Views},
    host::bpf::{decode, state_change::state_change},
    outputs::{json::Json, text::TextRenderer},
};
use tcptrace_common::state;

use crate::load::Load;

/// How many sockets are live while others come and go.
const LIVE: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// So many events are counted for the number of allocations.
const EVENTS: usize = 200_000;

/// As in `sink.rs`: bytes of output that are handed over at a time.
const BATCH: usize = 64 << 10;

fn main() {
    memory_table();
    divan::main();
}

/// What is asked of the tracer.
#[derive(Clone, Copy)]
enum Mode {
    /// `tcptrace --json`
    Json,
    /// `tcptrace`
    Text,
    /// `tcptrace --stuck 30s --json`
    Stuck,
    /// `tcptrace --lives --json`
    Lives,
    /// `tcptrace --lives`
    LivesText,
}

/// Bytes from the ring in, bytes for the output out.
struct Pipeline {
    engine: Engine<CachedProcesses>,
    rendered: Rendered,
    load: Load,
}

/// Renders events, as a stream does.
struct Rendered {
    json: Json,
    text: Option<TextRenderer>,
    out: Vec<u8>,
}

impl EventSink for Rendered {
    fn is_open(&self) -> bool {
        true
    }

    fn publish(&mut self, record: Record) {
        match &mut self.text {
            Some(text) => text.add_record(record, &mut self.out),
            None => self.json.write_record(&record, &mut self.out),
        }
    }
}

/// The processes that act, as a live run knows them between their first act and the next ones.
#[derive(Default)]
struct CachedProcesses(FxHashMap<u32, ProcessDetails>);

impl ProcessInfo for CachedProcesses {
    fn holder_details(&self, _pid: u32, _named: Option<Named>) -> ProcessDetails {
        a_process()
    }

    fn actor_details(&mut self, pid: u32, _comm: Option<&[u8]>, _at_ns: u64) -> Option<&ProcessDetails> {
        Some(self.0.entry(pid).or_insert_with(a_process))
    }

    fn opener_details(&mut self, pid: u32, _since_ns: u64, now_ns: u64) -> Option<&ProcessDetails> {
        self.actor_details(pid, None, now_ns)
    }

    fn process_id(&self, pid: u32, _named: Option<Named>) -> ProcessId {
        ProcessId { pid, start_ticks: 1 }
    }

    fn process_stats(&self, _id: ProcessId) -> Option<ProcessStats> {
        None
    }

    fn is_alive(&self, _id: ProcessId) -> bool {
        true
    }
}

impl Pipeline {
    /// So many sockets are live already; in `Mode::Stuck` all of them are in CLOSE_WAIT, for no other is tracked then.
    fn new(mode: Mode, live: usize) -> Self {
        let (stuck, lives) = (matches!(mode, Mode::Stuck), matches!(mode, Mode::Lives | Mode::LivesText));
        let is_text = matches!(mode, Mode::Text | Mode::LivesText);
        let watched = if stuck { state::bit(state::CLOSE_WAIT) } else { 0 };
        let settings = Settings {
            views: Views { transitions: !stuck && !lives, stuck, lives },
            policy: Policy {
                followed: if stuck { watched } else { state::ALL },
                watched,
                threshold_ns: 30_000_000_000,
                remind_ns: None,
                lives,
            },
            filter: Filter::default(),
            recorded_states: 0,
            describes_actors: !is_text,
            jiffy_ns: 4_000_000,
        };
        let mut engine = Engine::new(settings, 0, CachedProcesses::default());
        engine.set_wall_clock(&WallClock::with_offset_ns(1_800_000_000_000_000_000));
        let rendered = Rendered {
            json: Json::default(),
            text: is_text.then(|| TextRenderer::new(None, false, jiff::tz::TimeZone::UTC)),
            out: Vec::with_capacity(2 * BATCH),
        };
        let load = if stuck { Load::of_closers() } else { Load::of_connections() };
        let mut pipeline = Self { engine, rendered, load };
        while pipeline.engine.tracked_sockets() < live {
            let opening = pipeline.load.open();
            opening.into_iter().for_each(|event| pipeline.take(&event));
        }
        pipeline
    }

    /// Has the next event happen and takes it all the way.
    fn next(&mut self) {
        let event = self.load.next();
        self.take(&event);
    }

    /// Has sockets end until no more are left than that.
    fn shrink(&mut self, live: usize) {
        while self.engine.tracked_sockets() > live {
            let closing = self.load.close();
            closing.into_iter().for_each(|event| self.take(&event));
        }
    }

    fn take(&mut self, event: &[u8]) {
        let Self { engine, rendered, .. } = self;
        let event = decode::ring_event(event).expect("the load makes valid records");
        engine.apply(Input::Transition(&state_change(&event)), rendered);
        if rendered.out.len() >= BATCH {
            divan::black_box(&*rendered.out);
            rendered.out.clear();
        }
    }
}

/// A process in a container, with names as long as they are there.
fn a_process() -> ProcessDetails {
    let id = "4b1f6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";
    let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f6e0c9d_2a7f_5e8c_b6a1_d0e9f8c7b6a5.slice";
    ProcessDetails {
        inner_pids: Some([17].into()),
        exe: Some("/usr/lib/jvm/java-17-openjdk-amd64/bin/java".into()),
        cgroup: Some(format!("{slice}/cri-containerd-{id}.scope").into()),
        container: Some(id.into()),
        ..ProcessDetails::default()
    }
}

/// Prints what no timer shows. All of it includes the load, which keeps up to 16 bytes of each socket.
fn memory_table() {
    println!(
        "bytes per tracked socket (highest while they came), allocations per event; bytes per socket after {EVENTS} \
         events, and per socket that there was when one in 100 is left"
    );
    let modes = [
        ("every_transition_as_json", Mode::Json),
        ("every_transition_as_text", Mode::Text),
        ("stuck_only", Mode::Stuck),
        ("lives", Mode::Lives),
        ("lives_as_text", Mode::LivesText),
    ];
    for (name, mode) in modes {
        for live in LIVE {
            let empty = memory::start();
            let mut pipeline = Pipeline::new(mode, live);
            let grown = memory::since(&empty);
            let per_socket = |bytes: usize| bytes.saturating_sub(2 * BATCH) / live;
            let (bytes, peak) = (per_socket(grown.bytes), per_socket(grown.peak));
            (0..EVENTS).for_each(|_| pipeline.next()); // it may settle first
            let before = memory::start();
            (0..EVENTS).for_each(|_| pipeline.next());
            let allocations = memory::since(&before).allocations as f64 / EVENTS as f64;
            let settled = per_socket(memory::since(&empty).bytes);
            pipeline.shrink(live / 100);
            let left = per_socket(memory::since(&empty).bytes);
            println!("{name} {live:>9} {bytes:>5} ({peak}) {allocations:.4} {settled:>5} {left:>5}");
        }
    }
}

#[divan::bench(args = LIVE, sample_size = 2_000)]
fn every_transition_as_json(bencher: Bencher<'_, '_>, live: usize) {
    let mut pipeline = Pipeline::new(Mode::Json, live);
    bencher.bench_local(|| pipeline.next());
}

#[divan::bench(args = LIVE, sample_size = 2_000)]
fn every_transition_as_text(bencher: Bencher<'_, '_>, live: usize) {
    let mut pipeline = Pipeline::new(Mode::Text, live);
    bencher.bench_local(|| pipeline.next());
}

#[divan::bench(args = LIVE, sample_size = 2_000)]
fn stuck_only(bencher: Bencher<'_, '_>, live: usize) {
    let mut pipeline = Pipeline::new(Mode::Stuck, live);
    bencher.bench_local(|| pipeline.next());
}

#[divan::bench(args = LIVE, sample_size = 2_000)]
fn lives(bencher: Bencher<'_, '_>, live: usize) {
    let mut pipeline = Pipeline::new(Mode::Lives, live);
    bencher.bench_local(|| pipeline.next());
}

#[divan::bench(args = LIVE, sample_size = 2_000)]
fn lives_as_text(bencher: Bencher<'_, '_>, live: usize) {
    let mut pipeline = Pipeline::new(Mode::LivesText, live);
    bencher.bench_local(|| pipeline.next());
}

#[divan::bench(sample_size = 2_000)]
fn the_load_alone(bencher: Bencher<'_, '_>) {
    let mut load = Load::of_connections();
    for _ in 0..1_000 {
        let _opened = load.open();
    }
    bencher.bench_local(|| load.next());
}
