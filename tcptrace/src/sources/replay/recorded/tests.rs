//! What is said of a recording that cannot answer.

use clap::Parser as _;

use super::*;
use crate::{cli::Cli, sources::recording::Recording};

const SOCKET: &str = r#""time":"2026-11-22T15:45:32.104233918Z","mono_ns":9,"cookie":5,"netns":null,"family":"ipv4","local_addr":"10.0.0.5","local_port":80,"remote_addr":"10.0.0.9","remote_port":4000"#;

const LOST: &str = r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:33.2Z","mono_ns":9,"lost":1,"lost_total":1,"reason":"ring_full"}"#;

fn transition() -> String {
    format!(
        r#"{{"v":1,"event":"transition",{SOCKET},"old_state":"ESTABLISHED","new_state":"CLOSE_WAIT","stand_in":false,"in_old_state_ms":null,"owner":null,"owner_how":"none","how":"peer"}}"#
    )
}

fn stuck(threshold_s: u32) -> String {
    format!(
        r#"{{"v":1,"event":"stuck",{SOCKET},"state":"CLOSE_WAIT","threshold_ms":{threshold_s}000.0,"age_ms":90000.0,"age_max_ms":null,"exact":false,"since":"2026-11-22T15:44:02Z","recv_queue":0,"send_queue":0,"cause":"not_closed","owners":[],"owners_total":0,"owner_how":"none","origin":null,"listener":null,"peer":null}}"#
    )
}

/// What is said of these lines with these arguments.
fn said(lines: &[String], arguments: &str) -> Vec<String> {
    let arguments = ["tcptrace", "--replay", "-"].into_iter().chain(arguments.split_whitespace());
    let config = Cli::try_parse_from(arguments).expect("good arguments").into_config();
    let text = lines.join("\n");
    let mut recording = Recording::new(text.as_bytes());
    let mut recorded = Recorded::default();
    while let Some(line) = recording.next_line().expect("records") {
        line.event.iter().for_each(|event| recorded.note_event(event));
    }
    recorded.shortcomings(&config)
}

#[test]
fn what_a_recording_cannot_answer_is_said() {
    for (lines, arguments, words) in [
        (vec![stuck(30)], "--lives", "without --lives"),
        (vec![transition()], "--stuck 1s --lives", "without --lives"),
        (vec![stuck(30)], "", "without --transitions"),
        (vec![stuck(60), stuck(30)], "--stuck 5s", "only what was stuck for 30s"),
        (vec![stuck(30)], "--stuck 1m --state fin-wait-2", "no socket in FIN-WAIT-2"),
        (vec![LOST.to_owned()], "--stuck 5s", "cannot tell what was stuck for 5s in CLOSE-WAIT"),
    ] {
        let said = said(&lines, arguments);
        assert!(said.len() == 1 && said[0].contains(words), "{arguments}: {said:?}");
    }
}

#[test]
fn of_a_recording_that_answers_nothing_is_said() {
    for (lines, arguments) in [
        (vec![transition()], "--stuck 5s"),
        (vec![transition()], "--stuck 5s --state fin-wait-2"),
        (vec![transition()], "--transitions"),
        (vec![stuck(30)], "--stuck 30s"),
        (vec![stuck(30)], "--stuck 1m"),
    ] {
        assert_eq!(said(&lines, arguments), [""; 0], "{arguments}");
    }
}
