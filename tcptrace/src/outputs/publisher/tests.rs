//! What a reader costs that has stopped: nothing that must arrive, and no memory that grows with time.

use std::{
    fs::File,
    io::{PipeReader, Read as _},
    os::fd::OwnedFd,
};

use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::{
    cli::Cli,
    events::Resync,
    outputs::writer::{WriteEnd, WriterOptions},
};

const STUCK: &str = r#"{"cookie":6,"netns":7,"family":"ipv6","local_addr":"fd00::1","local_port":80,"remote_addr":"fd00::2","remote_port":4000,"state":"CLOSE_WAIT","threshold_ms":1000.0,"age_ms":1000.5,"age_max_ms":5000.0,"exact":false,"since":"2026-11-22T15:45:32.103733918Z","recv_queue":3,"send_queue":0,"cause":"data_unread","owners":[{"pid":42,"fd":5,"comm":"java","exe":null,"uid":0,"cgroup":"/","container":null}],"owner_how":"fd","origin":null,"listener":null,"peer":null}"#;

const CLEARED: &str = r#"{"cookie":6,"netns":7,"family":"ipv6","local_addr":"fd00::1","local_port":80,"remote_addr":"fd00::2","remote_port":4000,"state":"CLOSE_WAIT","new_state":"CLOSE","in_state_ms":2000.0,"by":null,"how":"reset"}"#;

/// Bytes that the smallest pipe takes.
const PIPE: u64 = 4096;

/// A sink for these arguments whose reader has stopped: the pipe is full, and so is what may wait.
fn stalled(arguments: &str) -> (Sink, PipeReader) {
    let arguments =
        format!("tcptrace --json --queue-size 4096 --stuck 1s --remind 1s --transitions {arguments}");
    let plan = Cli::try_parse_from(arguments.split_whitespace()).expect("good arguments").plan();
    let (read, write) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&write, PIPE as usize).expect("the smallest pipe");
    let options = WriterOptions { queue_bytes: plan.queue_bytes, drop_privileges: |_| Ok(()) };
    let output = LineWriter::start(File::from(OwnedFd::from(write)), options).expect("a thread");
    let mut sink = Sink::new(&plan, 0, Format::Json(Json::default()), output);
    sink.record(cleared(1));
    let line = sink.lines.len() as u64;
    // Until the pipe takes no further line the writer makes room by itself.
    let is_full = || rustix::io::ioctl_fionread(&read).expect("a pipe tells how much is in it") + line > PIPE;
    while !(is_full() && sink.output.is_full()) {
        if !sink.output.is_full() {
            sink.record(cleared(1));
            sink.flush();
        }
        std::thread::yield_now();
    }
    (sink, read)
}

fn at(mono_ns: u64) -> Instant {
    Instant { wall_ns: 1, mono_ns }
}

fn cleared(mono_ns: u64) -> Record {
    Record { at: at(mono_ns), event: Event::Cleared(serde_json::from_str(CLEARED).expect("a record")) }
}

/// Hands over that a socket is stuck.
fn report_stuck(sink: &mut Sink, cookie: u64, is_reminder: bool) {
    let mut stuck: Box<Stuck> = serde_json::from_str(STUCK).expect("a record");
    (stuck.socket.cookie, stuck.is_reminder) = (cookie, is_reminder);
    let record = Record { at: at(2), event: Event::Stuck(stuck) };
    sink.stuck(record, Since::exact(1), 2, |pid| ProcessId { pid, start_ticks: 0 });
}

/// All records that the reader gets once it goes on.
fn read_on(mut sink: Sink, mut reader: PipeReader) -> Vec<Value> {
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    sink.tell_dropped();
    sink.flush_all();
    assert!(matches!(sink.output.finish(), WriteEnd { ended: None, left: 0, .. }));
    let text = read.join().expect("it does not panic").expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn count(records: &[Value], event: &str) -> u64 {
    records.iter().filter(|record| record["event"] == event).count() as u64
}

#[test]
fn what_repeats_is_counted_and_what_must_arrive_arrives() {
    const TIMES: u64 = 1000;
    let (mut sink, reader) = stalled("");
    for cookie in 1..=10 {
        report_stuck(&mut sink, cookie, false);
    }
    sink.flush();
    let mut most = 0;
    for time in 1..=TIMES {
        report_stuck(&mut sink, time % 10 + 1, true);
        sink.roll_up_as(sink.rollup.all(), time, |_| Some(Condition::default()));
        let lost = sink.reporter.lost(2, LostReason::RingFull, at(time));
        sink.record(lost);
        let resync = sink.reporter.resync(Resync { sockets: 10, repaired: 0, found: None }, at(time));
        sink.record(resync);
        most = most.max(sink.lines.len());
        sink.flush();
    }
    assert_eq!(most, 0, "bytes that wait");
    sink.record(cleared(TIMES));
    let before = sink.reporter.totals().clone();
    let records = read_on(sink, reader);
    let kept: Vec<_> = records.iter().filter(|record| record["event"] == "stuck").collect();
    assert_eq!(
        kept.iter().filter_map(|record| record["cookie"].as_u64()).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    assert_eq!(records.last().map(|record| &record["reason"]), Some(&"reader_slow".into()), "{records:?}");
    let losses: Vec<_> = records.iter().filter(|record| record["event"] == "lost").collect();
    let [full, slow] = &losses[..] else { panic!("{losses:?}") };
    assert_eq!(
        (&full["reason"], &full["lost"], &full["lost_total"]),
        (&"ring_full".into(), &(2 * TIMES).into(), &(2 * TIMES).into())
    );
    // A reminder and a resync each time.
    assert_eq!((&slow["lost"], &slow["lost_total"]), (&(2 * TIMES).into(), &(2 * TIMES).into()));
    assert_eq!(count(&records, "resync"), 0);
    let rolled: Vec<_> = records.iter().filter(|record| record["event"] == "process").collect();
    assert_eq!(rolled.iter().map(|record| record["mono_ns"].as_u64()).collect::<Vec<_>>(), [Some(TIMES)]);
    assert_eq!(before.stuck, 10, "each once, however often it was reported");
    assert!(records.iter().any(|record| record["mono_ns"] == TIMES && record["event"] == "cleared"));
}

#[test]
fn what_a_filter_admits_for_the_first_time_is_no_reminder() {
    // Found stuck before, when nobody that the filter admits held it.
    for (arguments, kept) in [("", 0), ("--pid 42", 1)] {
        let (mut sink, reader) = stalled(arguments);
        report_stuck(&mut sink, 5, true);
        report_stuck(&mut sink, 5, true);
        assert_eq!(count(&read_on(sink, reader), "stuck"), kept, "{arguments}");
    }
}

#[test]
fn a_loss_is_told_before_what_comes_after_it() {
    let (mut sink, mut reader) = stalled("");
    let lost = sink.reporter.lost(3, LostReason::RingFull, at(10));
    sink.record(lost);
    report_stuck(&mut sink, 7, true);
    // There is room again, and the next record comes before the batch ends.
    while sink.output.is_full() {
        // All that a full pipe of this size holds: whole lines.
        let _length = reader.read(&mut [0; 4096]).expect("there is something");
    }
    report_stuck(&mut sink, 7, true);
    let records = read_on(sink, reader);
    let last: Vec<_> = records[records.len() - 3..].iter().map(|record| &record["event"]).collect();
    assert_eq!(last, ["lost", "lost", "stuck"]);
    assert_eq!(records[records.len() - 3]["reason"], "ring_full");
}
