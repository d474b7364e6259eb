//! Recordings in, records out: sound ones, and any bytes.

use std::{fs::File, io::Read as _, os::fd::OwnedFd, sync::Arc};

use clap::Parser as _;
use proptest::prelude::*;

use super::*;
use crate::{
    cli::Cli,
    outputs::{
        json::Json,
        stream::StreamOutput,
        writer::{LineWriter, WriterOptions},
    },
};

/// What a replay of this with these arguments writes, and how it ends.
fn replay(recording: &[u8], arguments: &str) -> (String, Result<(), String>) {
    let arguments = ["tcptrace", "--replay", "-"].into_iter().chain(arguments.split_whitespace());
    let config = Cli::try_parse_from(arguments).expect("good arguments").into_config();
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let options = WriterOptions { queue_bytes: 1 << 20, drop_privileges: |_| Ok(()) };
    let writer = LineWriter::start(File::from(OwnedFd::from(write)), options).expect("a thread");
    let mut publisher = Publisher::new(config.count);
    publisher.add(StreamOutput::new(Json::default(), writer, Some(Arc::default())));
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).map(|_| text)
    });
    let ended = run(&config, recording, &Interruption::new().expect("a pipe"), publisher)
        .map_err(|failure| failure.to_string());
    (reader.join().expect("it does not panic").expect("UTF-8"), ended)
}

fn transition(ns: u64, (old, new): (&str, &str), how: &str) -> String {
    format!(
        r#"{{"v":1,"event":"transition","time":"2026-11-22T15:45:32.104233918Z","mono_ns":{ns},"cookie":5,"netns":7,"family":"ipv4","local_addr":"10.0.0.5","local_port":80,"remote_addr":"10.0.0.9","remote_port":4000,"old_state":"{old}","new_state":"{new}","stand_in":false,"in_old_state_ms":null,"owner":null,"owner_how":"none","how":{how}}}"#
    )
}

const STUCK: &str = r#"{"v":1,"event":"stuck","time":"2026-11-22T15:45:33.104233918Z","mono_ns":2000000000,"cookie":6,"netns":7,"family":"ipv6","local_addr":"fd00::1","local_port":80,"remote_addr":"fd00::2","remote_port":4000,"state":"CLOSE_WAIT","threshold_ms":1000.0,"age_ms":1000.5,"age_max_ms":5000.0,"exact":false,"since":"2026-11-22T15:45:32.103733918Z","recv_queue":3,"send_queue":0,"cause":"data_unread","owners":[{"pid":42,"fd":5,"comm":"java","program":"java Main","exe":null,"uid":0,"cgroup":"/","unit":null,"container":null,"pod":null}],"owners_total":1,"owner_how":"fd","origin":null,"listener":null,"peer":null}"#;

/// Two sockets: one seen to be in CLOSE_WAIT for two seconds, one recorded as stuck.
fn recording() -> String {
    let lines = [
        transition(1_000_000_000, ("ESTABLISHED", "CLOSE_WAIT"), "\"peer\""),
        STUCK.to_owned(),
        r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:33.204233918Z","mono_ns":2100000000,"lost":0,"lost_total":0,"reason":"ring_full"}"#.replace("\"lost\":0", "\"lost\":1"),
        transition(3_000_000_000, ("CLOSE_WAIT", "CLOSE"), "\"reset\""),
    ];
    lines.join("\n") + "\n"
}

fn events(text: &str) -> Vec<String> {
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["event"].clone();
    text.lines().map(|line| event(line).as_str().expect("a name").to_owned()).collect()
}

#[test]
fn what_is_stuck_is_told_by_transitions_and_by_what_was_seen() {
    let sound = recording().lines().filter(|line| !line.contains("lost")).collect::<Vec<_>>().join("\n");
    let (text, ended) = replay(sound.as_bytes(), "--stuck 500ms");
    assert_eq!(ended, Ok(()));
    assert_eq!(events(&text), ["stuck", "stuck", "cleared", "process", "process", "summary"], "{text}");
    assert!(text.contains(r#""cause":"data_unread""#) && text.contains(r#""how":"reset""#), "{text}");
    let (text, _) = replay(sound.as_bytes(), "--stuck 10s");
    assert_eq!(events(&text), ["summary"]);
}

#[test]
fn after_a_loss_nothing_is_stuck_that_is_not_heard_of_again() {
    let (text, ended) = replay(recording().as_bytes(), "--stuck 1500ms");
    assert_eq!(ended, Ok(()));
    assert_eq!(events(&text), ["lost", "summary"], "{text}");
}

/// The socket of [`STUCK`] as a look found it, at 2 s, in this state.
fn found(state: &str, ms: u64) -> String {
    let state = format!("\"state\":\"{state}\"");
    STUCK
        .replace("\"stuck\"", "\"found\"")
        .replace("\"threshold_ms\":1000.0,", "")
        .replace("\"state\":\"CLOSE_WAIT\"", &state)
        .replace("\"mono_ns\":2000000000", &format!("\"mono_ns\":{ms}000000"))
}

const LOST: &str = r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:33.204233918Z","mono_ns":2100000000,"lost":1,"lost_total":1,"reason":"ring_full"}"#;
const RESYNC: &str = r#"{"v":1,"event":"resync","time":"2026-11-22T15:45:33.304233918Z","mono_ns":2200000000,"sockets":9,"repaired":1,"found":1}"#;

#[test]
fn what_was_found_at_the_start_is_judged_and_told_as_it_was_seen() {
    let (text, ended) = replay((found("CLOSE_WAIT", 2_000) + "\n").as_bytes(), "--stuck 900ms");
    assert_eq!(ended, Ok(()));
    assert_eq!(events(&text), ["stuck", "process", "summary"], "{text}");
    assert!(text.contains(r#""cause":"data_unread""#) && text.contains("java"), "{text}");
    let (text, _) = replay((found("CLOSE_WAIT", 2_000) + "\n").as_bytes(), "--transitions");
    assert_eq!(text.lines().next(), Some(&*found("CLOSE_WAIT", 2_000)), "as it was");
}

#[test]
fn what_was_found_is_filtered_by_what_is_known_of_it() {
    let gone = found("CLOSE", 3_000).replace("\"pid\":42", "\"pid\":0");
    let gone = gone.replace("\"owner_how\":\"fd\"", "\"owner_how\":\"none\"");
    let lines = [found("CLOSE_WAIT", 2_000), gone].join("\n");
    let told = |arguments: &str| {
        let (text, ended) = replay(lines.as_bytes(), &format!("--transitions {arguments}"));
        assert_eq!(ended, Ok(()));
        events(&text).len() - 1
    };
    for (arguments, expected) in
        [("", 2), ("--pid 42", 2), ("--pid 43", 0), ("--port 80", 2), ("--port 81", 0), ("-6", 2), ("-4", 0)]
    {
        assert_eq!(told(arguments), expected, "{arguments}");
    }
}

#[test]
fn after_a_loss_that_was_made_up_for_everything_is_judged_again() {
    let enters = transition(1_000_000_000, ("ESTABLISHED", "CLOSE_WAIT"), "\"peer\"");
    let later = transition(5_000_000_000, ("CLOSE_WAIT", "CLOSE"), "\"reset\"");
    let with = |resync: &str| {
        let [seen, gone] = [("CLOSE_WAIT", 2_000), ("CLOSE", 2_150)].map(|(state, ms)| found(state, ms));
        [&enters, &seen, LOST, &gone, resync, &later].map(String::from).join("\n")
    };
    // Of the two that were known one is gone.
    let (text, ended) = replay(with(RESYNC).as_bytes(), "--stuck 3s");
    assert_eq!(ended, Ok(()));
    assert_eq!(events(&text), ["lost", "resync", "stuck", "cleared", "summary"], "{text}");
    assert!(text.contains("\"cookie\":5"), "{text}");
    let skipped = with(RESYNC).replace("ring_full", "skipped");
    let (text, _) = replay(skipped.as_bytes(), "--stuck 3s");
    assert_eq!(events(&text), ["lost", "resync", "stuck", "cleared", "summary"], "{text}");
    assert!(text.contains(r#""lost":1,"lost_total":1,"reason":"skipped""#), "{text}");
    // By an older version, that told nothing of it; or where the recording itself has gaps.
    let (text, _) = replay(with(&RESYNC.replace(",\"found\":1", "")).as_bytes(), "--stuck 3s");
    assert_eq!(events(&text), ["lost", "resync", "summary"], "{text}");
    let gap = [LOST.replace("ring_full", "reader_slow"), RESYNC.to_owned()].join("\n");
    let (text, _) = replay(with(&gap).as_bytes(), "--stuck 3s");
    assert_eq!(events(&text), ["lost", "lost", "resync", "summary"], "{text}");
}

#[test]
fn a_long_silence_is_no_flood_of_reminders() {
    let last = transition(u64::MAX - 1, ("CLOSE_WAIT", "CLOSE"), "\"reset\"");
    let lines = [transition(1_000_000_000, ("ESTABLISHED", "CLOSE_WAIT"), "\"peer\""), last].join("\n");
    let (text, ended) = replay(lines.as_bytes(), "--stuck 1ms --remind 1ms");
    assert_eq!(ended, Ok(()));
    assert_eq!(events(&text), ["stuck", "stuck", "cleared", "summary"], "{text}");
}

#[test]
fn the_end_of_time_is_no_reason_to_judge_for_ever() {
    let first = transition(1_000_000_000, ("ESTABLISHED", "CLOSE_WAIT"), "\"peer\"");
    for (arguments, events_then) in [("--stuck 1ms --remind 1ms", 4), ("--stuck 1ms", 3)] {
        let last = transition(u64::MAX, ("CLOSE_WAIT", "CLOSE"), "\"reset\"");
        let (text, ended) = replay([first.clone(), last].join("\n").as_bytes(), arguments);
        assert_eq!((ended, events(&text).len()), (Ok(()), events_then), "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_replay(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _sound_or_not = replay(&bytes, "--stuck 1s --transitions --lives");
    }

    #[test]
    fn any_number_or_word_is_an_error_or_a_replay(
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), word()), 1..6)
    ) {
        // Of the words between quotes and of the numbers, some become others.
        let mut parts: Vec<String> =
            recording().split_inclusive([':', ',', '\n']).map(str::to_owned).collect();
        for (at, word) in wrong {
            let part = at.get(&parts).clone();
            let end = part.chars().last().unwrap_or(',');
            let at = at.index(parts.len());
            if end != ':' {
                parts[at] = format!("{word}{end}");
            }
        }
        let _sound_or_not = replay(parts.concat().as_bytes(), "--stuck 1ms --remind 1ms --transitions");
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("0".to_owned()),
        Just(u64::MAX.to_string()),
        Just(i64::MIN.to_string()),
        Just("1e308".to_owned()),
        Just("-0.001".to_owned()),
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("\"CLOSE_WAIT\"".to_owned()),
        Just("\"CLOSE\"".to_owned()),
        Just("\"9999-12-30T22:00:00.999999999Z\"".to_owned()),
        Just("\"-009999-01-02T01:59:59Z\"".to_owned()),
        any::<u64>().prop_map(|number| number.to_string()),
    ]
}
