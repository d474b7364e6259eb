//! What a reader costs that has stopped: nothing that must arrive, and no memory that grows with time.

use std::{
    fs::File,
    io::{PipeReader, Read as _},
    os::fd::OwnedFd,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    events::{ProcessRecord, Resync},
    outputs::{json::Json, writer::WriterOptions},
    testing::read_record,
};

const STUCK: &str = r#"{"cookie":6,"netns":7,"family":"ipv6","local_addr":"fd00::1","local_port":80,"remote_addr":"fd00::2","remote_port":4000,"state":"CLOSE_WAIT","threshold_ms":1000.0,"age_ms":1000.5,"age_max_ms":5000.0,"exact":false,"since":"2026-11-22T15:45:32.103733918Z","recv_queue":3,"send_queue":0,"cause":"data_unread","owners":[{"pid":42,"fd":5,"comm":"java","exe":null,"uid":0,"cgroup":"/","container":null}],"owner_how":"fd","origin":null,"listener":null,"peer":null}"#;

const CLEARED: &str = r#"{"cookie":6,"netns":7,"family":"ipv6","local_addr":"fd00::1","local_port":80,"remote_addr":"fd00::2","remote_port":4000,"state":"CLOSE_WAIT","new_state":"CLOSE","in_state_ms":2000.0,"by":null,"how":"reset"}"#;

const PROCESS: &str = r#"{"pid":42,"comm":"java","stuck":10,"shared":0,"oldest_ms":1.0,"growth_per_min":0.0,"fds_open":null,"fds_limit":null,"fds_growth_per_min":null,"fds_full_in_s":null}"#;

/// Bytes that the smallest pipe takes.
const PIPE: u64 = 4096;

/// An output whose reader has stopped: the pipe is full, and so is what may wait.
fn stalled() -> (StreamOutput<Json>, PipeReader) {
    let (read, write) = std::io::pipe().expect("a pipe");
    let options = WriterOptions { queue_bytes: 4096, drop_privileges: |_| Ok(()) };
    rustix::pipe::fcntl_setpipe_size(&write, PIPE as usize).expect("the smallest pipe");
    let writer = LineWriter::start(File::from(OwnedFd::from(write)), options).expect("a thread");
    let mut output = StreamOutput::new(Json::default(), writer, None);
    output.publish(cleared(1));
    let line = output.lines.len() as u64;
    // Until the pipe takes no further line the writer makes room by itself.
    let is_full = || rustix::io::ioctl_fionread(&read).expect("a pipe tells how much is in it") + line > PIPE;
    while !(is_full() && output.writer.is_full()) {
        if !output.writer.is_full() {
            output.publish(cleared(1));
            output.flush(1);
        }
        std::thread::yield_now();
    }
    (output, read)
}

fn record(mono_ns: u64, event: Event) -> Record {
    Record { at: Instant { wall_ns: 1, mono_ns }, event }
}

fn cleared(mono_ns: u64) -> Record {
    record(mono_ns, Event::Cleared(read_record(CLEARED).expect("a record")))
}

fn stuck(cookie: u64, is_reminder: bool) -> Record {
    let mut stuck: Box<crate::events::Stuck> = read_record(STUCK).expect("a record");
    (stuck.socket.cookie, stuck.is_reminder) = (cookie, is_reminder);
    record(2, Event::Stuck(stuck))
}

fn lost(mono_ns: u64, lost: u64, lost_total: u64) -> Record {
    record(mono_ns, Event::Lost(Lost { lost, lost_total, reason: LostReason::RingFull }))
}

/// All records that the reader gets once it goes on.
fn read_on(mut output: StreamOutput<Json>, mut reader: PipeReader) -> Vec<Value> {
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    output.tell_dropped();
    output.flush_all();
    let end = Box::new(output).finish().expect("it writes");
    assert!(end.ended.is_none() && end.left == 0);
    let text = read.join().expect("it does not panic").expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn count(records: &[Value], event: &str) -> usize {
    records.iter().filter(|record| record["event"] == event).count()
}

#[test]
fn what_repeats_is_counted_and_what_must_arrive_arrives() {
    const TIMES: u64 = 1000;
    let (mut output, reader) = stalled();
    for cookie in 1..=10 {
        assert!(output.publish(stuck(cookie, false)));
    }
    output.flush(2);
    let mut most = 0;
    for time in 1..=TIMES {
        assert!(!output.publish(stuck(time % 10 + 1, true)));
        let process: ProcessRecord = read_record(PROCESS).expect("a record");
        output.publish(record(time, Event::Process(process)));
        output.publish(lost(time, 2, 2 * time));
        output.publish(record(time, Event::Resync(Resync { sockets: 10, repaired: 0, found: None })));
        most = most.max(output.lines.len());
        output.flush(time);
    }
    assert_eq!(most, 0, "bytes that wait");
    output.publish(cleared(TIMES));
    assert_eq!(output.dropped(), 2 * TIMES, "a reminder and a resync each time");
    let records = read_on(output, reader);
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
        (&json!("ring_full"), &json!(2 * TIMES), &json!(2 * TIMES))
    );
    assert_eq!((&slow["lost"], &slow["lost_total"]), (&json!(2 * TIMES), &json!(2 * TIMES)));
    assert_eq!(count(&records, "resync"), 0);
    let rolled: Vec<_> = records.iter().filter(|record| record["event"] == "process").collect();
    assert_eq!(rolled.iter().map(|record| record["mono_ns"].as_u64()).collect::<Vec<_>>(), [Some(TIMES)]);
    assert!(records.iter().any(|record| record["mono_ns"] == TIMES && record["event"] == "cleared"));
}

#[test]
fn a_loss_is_told_before_what_comes_after_it() {
    let (mut output, mut reader) = stalled();
    output.publish(lost(10, 3, 3));
    output.publish(stuck(7, true));
    // There is room again, and the next record comes before the batch ends.
    while output.writer.is_full() {
        // All that a full pipe of this size holds: whole lines.
        let _length = reader.read(&mut [0; 4096]).expect("there is something");
    }
    output.publish(stuck(7, true));
    let records = read_on(output, reader);
    let last: Vec<_> = records[records.len() - 3..].iter().map(|record| &record["event"]).collect();
    assert_eq!(last, ["lost", "lost", "stuck"]);
    assert_eq!(records[records.len() - 3]["reason"], "ring_full");
}

#[test]
fn a_summary_counts_what_this_output_dropped() {
    let (mut output, reader) = stalled();
    output.publish(stuck(7, true));
    output.publish(record(3, Event::Summary(Summary { dropped: 5, ..Summary::default() })));
    let records = read_on(output, reader);
    let summary = records.last().expect("a summary");
    // Five were dropped when it was recorded, one now.
    assert_eq!((&summary["event"], &summary["dropped"]), (&json!("summary"), &json!(6)));
    assert_eq!(records[records.len() - 2]["reason"], "reader_slow");
}
