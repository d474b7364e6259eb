//! `--json`: the stream as a log pipeline reads it. Every test checks that each line is whole and
//! has exactly the fields of the contract (`src/schema.rs`).

use rustix::time::{ClockId, clock_gettime};
use tests::{Namespace, Puppet, Record, Tracer, scene::Scene, schema};

/// Names that a process may give itself, each of at most 15 bytes.
const HOSTILE: [&[u8]; 8] = [
    b"\x1b[31mred\x1b[0m",
    b"a\nb\rc\td",
    b"\xff\xfe\x80bad",
    "\u{202e}evil\u{2066}".as_bytes(),
    b"\"q\\\",\"v\":2}",
    b"\x01\x02\x7f\x1f",
    "\u{9b}31m\u{2028}x".as_bytes(),
    b"cut\xe2\x82",
];

#[test]
fn hostile_process_names_neither_break_a_line_nor_are_falsified() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "100ms", "--transitions"]);
    for name in HOSTILE {
        scene.server.rename(name);
        let comm = std::fs::read(format!("/proc/{}/comm", scene.server.pid())).expect("it lives");
        assert_eq!(comm.strip_suffix(b"\n"), Some(name), "the kernel took the name");
        let leak = scene.leak();
        let expected = String::from_utf8_lossy(name);
        let stuck = tracer.await_stuck(&leak.socket);
        assert_eq!(stuck.get("owners")[0]["comm"], *expected, "{stuck:?}");
        scene.server.close(&leak.socket);
        let cleared = tracer.await_cleared(&leak.socket);
        assert_eq!(cleared.get("by")["comm"], *expected, "{cleared:?}");
    }
    let run = tracer.stop();
    assert_eq!(run.records.len(), run.lines.len());
}

#[test]
fn lines_arrive_while_the_tracer_runs_and_is_idle() {
    let _namespace = Namespace::new();
    let tracer = Tracer::start(&["--transitions"]);
    let mut puppet = Puppet::new();
    for _ in 0..3 {
        let listener = puppet.listen("127.0.0.1:0");
        tracer.await_record("its LISTEN", |record| {
            record.is("transition") && record.is_in(listener.netns) && record.local() == listener.local
        });
    }
    // It has not ended, which would have flushed anything.
    assert_eq!(tracer.stop().count("summary"), 1);
}

#[test]
fn the_start_comes_first_and_the_summary_last_and_each_once() {
    let _namespace = Namespace::new();
    let tracer = Tracer::start(&["--transitions", "--stuck", "1h"]);
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    puppet.churn(&listener, 10);
    let run = tracer.stop();
    assert!(run.records[0].is("start"));
    run.summary();
    assert_eq!((run.count("start"), run.count("summary")), (1, 1));
}

#[test]
fn the_two_clocks_of_a_record_are_the_same_instant() {
    let ns = |clock| {
        let now = clock_gettime(clock);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions", "--stuck", "100ms"]);
    let leak = scene.leak();
    tracer.await_stuck(&leak.socket);
    let run = tracer.stop();
    let offset = ns(ClockId::Realtime) - ns(ClockId::Monotonic);
    for record in &run.records {
        let claimed = schema::unix_ns(record.text("time")) - i128::from(record.mono_ns());
        // Room for a wall clock that is being adjusted meanwhile.
        assert!((claimed - offset).abs() < 500_000_000, "{claimed} is not {offset}: {record:?}");
    }
}

#[test]
fn a_time_is_when_it_happened_and_not_when_it_was_printed() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions"]);
    tracer.signal(tests::Signal::STOP);
    let leak = scene.leak();
    tracer.signal(tests::Signal::CONT);
    let entered = tracer.await_record("its transition", |record: &Record| {
        record.is_about("transition", &leak.socket) && record.get("new_state") == "CLOSE_WAIT"
    });
    assert!(entered.mono_ns() >= leak.not_before_ns && entered.mono_ns() <= leak.not_after_ns, "{entered:?}");
}
