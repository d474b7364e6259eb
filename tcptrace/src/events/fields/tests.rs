//! Records are read as they were written.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::{
    events::{Event, Instant, Record, Transition},
    outputs::json::Json,
    testing::read_record,
};

/// Lines of each kind, with and without what may be missing.
const RECORDS: &str = include_str!("records.jsonl");

/// Reads a line, and writes what was read: directly, and as serde does.
fn written_again(line: &str) -> serde_json::Result<[String; 2]> {
    let head: Value = serde_json::from_str(line)?;
    let time: jiff::Timestamp = head["time"].as_str().expect("a time").parse().expect("RFC 3339");
    let at =
        Instant { wall_ns: time.as_nanosecond(), mono_ns: head["mono_ns"].as_u64().expect("nanoseconds") };
    let kind = head["event"].as_str().expect("a kind");
    let event = Event::from_fields(kind, &Fields::split(line.as_bytes())?)?.expect("a known kind");
    let record = Record { at, event };
    let mut direct = Vec::new();
    Json::default().write_record(&record, &mut direct);
    let direct = String::from_utf8(direct).expect("UTF-8");
    Ok([direct.trim_end().to_owned(), serde_json::to_string(&record)?])
}

#[test]
fn every_record_is_written_again_as_it_was_read() {
    for line in RECORDS.lines() {
        let again = written_again(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(again, [line, line]);
    }
    let kinds: BTreeSet<&str> =
        RECORDS.lines().filter_map(|line| line.split("\"event\":\"").nth(1)?.split('"').next()).collect();
    assert_eq!(kinds.len(), Event::NAMES.len(), "{kinds:?}");
}

/// A line of that kind.
fn line_of(kind: &str) -> &'static str {
    let named = format!("\"event\":\"{kind}\"");
    RECORDS.lines().find(|line| line.contains(&named)).expect("a line of each kind")
}

#[test]
fn fields_are_read_in_any_order_and_unknown_ones_are_passed_over() {
    let line = line_of("transition");
    let fields: Value = serde_json::from_str(line).expect("JSON");
    let mut turned = "{\"more\":[{\"cookie\":1}],\"h\\u006fst\":null".to_owned();
    for (name, value) in fields.as_object().expect("an object").iter().rev() {
        turned += &format!(",{}:{value}", Value::from(&name[..]));
    }
    turned.push('}');
    let turned = read_record::<Transition>(&turned).expect("a transition");
    assert_eq!(turned, read_record(line).expect("a transition"));
    let escaped = line.replace("\"cookie\"", "\"c\\u006fokie\"").replace("CLOSE", "CL\\u004fSE");
    assert_ne!(escaped, line);
    assert_eq!(turned, read_record(&escaped).expect("a transition"));
}

#[test]
fn an_error_names_its_place_in_the_line() {
    let line = line_of("stuck");
    for (right, wrong, words) in [
        ("\"cookie\":", "\"cookie\":-", "expected u64"),
        ("\"age_ms\":", "\"age_ms\":null,\"age\":", "expected f64"),
        ("\"recv_queue\":", "\"recv_queue\":-1,\"queue\":", "expected u32"),
    ] {
        let damaged = line.replacen(right, wrong, 1);
        let error = read_record::<Box<crate::events::Stuck>>(&damaged).expect_err(wrong);
        let at = damaged.find(wrong).expect("the damage");
        let place = at..=at + wrong.len() + 20;
        assert!(error.to_string().contains(words) && place.contains(&error.column()), "{error}, {place:?}");
    }
    for (damaged, words) in [
        (line.replace("\"family\":", "\"kind\":"), "missing field `family`"),
        (line.replace("\"netns\":", "\"cookie\":5,\"netns\":"), "duplicate field `cookie`"),
        (format!("{line}{line}"), "trailing characters"),
        (format!("[{line}]"), "expected an object"),
    ] {
        let error = read_record::<crate::events::Stuck>(&damaged).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}
