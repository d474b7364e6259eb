//! What users rely on, as documents: the tests validate every line against the schema, and an
//! independent judge does it here.

use std::collections::{BTreeSet, HashSet};

use jsonschema::Validator;
use serde_json::Value;
use tests::{TracerCommand, scene::Scene, schema};

/// Which the tests of metrics hold against what is served.
const METRICS: &str = include_str!("../../docs/metrics.md");
const README: &str = include_str!("../../README.md");
const ALERT_RULES: &str = include_str!("../../docs/tcptrace.rules.yml");
/// A record as an earlier build wrote it.
const LOST: &str = r#"{"v":1,"event":"lost","time":"2026-11-22T15:45:32.104233918Z","mono_ns":7,"lost":3,"lost_total":3,
    "reason":"ring_full"}"#;

/// One with objects in it.
const START: &str = r#"{"v":1,"event":"start","time":"2026-11-22T15:45:32.104233918Z","mono_ns":7,"version":"0.1.0",
    "kernel":"6.1","host":"h","boot_id":"b","sockets":3,"sources":{"iter/tcp":{"in_use":true,"why_not":null}}}"#;

/// One that a run without losses does not have.
const RESYNC: &str = r#"{"v":1,"event":"resync","time":"2026-11-22T15:45:32.104233918Z","mono_ns":7,"sockets":9,
    "repaired":2,"found":null}"#;

/// What validates records against a schema, formats included.
fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).expect("a JSON Schema")
}

/// What validates records against the published schema, and against that without room for anything
/// new.
fn validators() -> (Validator, Validator) {
    let document = schema::document();
    assert!(document["$id"].is_string());
    (validator(document), validator(&schema::strict(document)))
}

/// The record with something else in it.
fn with(record: &str, field: &str, value: Value) -> Value {
    let mut record: Value = serde_json::from_str(record).expect("JSON");
    record[field] = value;
    record
}

#[test]
fn the_published_schema_allows_what_keeps_the_version_and_the_strict_one_does_not() {
    let (published, strict) = validators();
    for record in [LOST, START, RESYNC] {
        let record: Value = serde_json::from_str(record).expect("JSON");
        assert_eq!((published.is_valid(&record), strict.is_valid(&record)), (true, true), "{record}");
        assert_eq!(schema::validate(&record), Ok(()), "{record}");
    }
    let source = serde_json::json!({"iter/tcp": {"in_use": true, "why_not": null, "since": "5.8"}});
    for added in [
        with(LOST, "more", true.into()),
        with(START, "sources", source),
        with(LOST, "event", "weather".into()),
        with(LOST, "reason", "eclipse".into()),
    ] {
        assert_eq!((published.is_valid(&added), strict.is_valid(&added)), (true, false), "{added}");
        assert!(schema::validate(&added).is_err(), "{added}");
    }
    for wrong in [
        with(LOST, "v", 2.into()),
        with(LOST, "lost", "three".into()),
        with(LOST, "lost", (-3).into()),
        with(LOST, "reason", Value::Null),
        with(LOST, "time", "yesterday".into()),
        with(LOST, "event", "summary".into()),
        with(LOST, "event", Value::Null),
    ] {
        assert_eq!((published.is_valid(&wrong), strict.is_valid(&wrong)), (false, false), "{wrong}");
        assert!(schema::validate(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_a_run_writes_is_valid_by_the_published_schema_and_the_strict_one() {
    let (published, strict) = validators();
    let mut scene = Scene::new();
    let before = scene.leak().socket;
    let tracer =
        TracerCommand::new(&["--transitions", "--lives", "--stuck", "200ms", "--remind", "100ms", "--json"])
            .start();
    tracer.await_stuck(&before);
    let leak = scene.leak().socket;
    tracer.await_stuck(&leak);
    scene.server.close(&leak);
    tracer.await_cleared(&leak);
    tracer.await_life(&leak);
    let run = tracer.stop();
    let mut kinds = BTreeSet::new();
    for line in &run.lines {
        let record: Value = serde_json::from_str(line).expect("JSON");
        for (schema, validator) in [("published", &published), ("strict", &strict)] {
            if let Err(error) = validator.validate(&record) {
                panic!("by the {schema} schema: {error}\n{line}");
            }
        }
        kinds.insert(record["event"].as_str().expect("its kind").to_owned());
    }
    let expected = ["cleared", "found", "life", "process", "start", "stuck", "summary", "transition"];
    assert!(expected.iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
}

#[test]
fn every_metric_that_the_readme_and_the_alert_rules_name_is_one() {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = [README, ALERT_RULES].into_iter().flat_map(|text| text.split(|c| !is_part(c)));
    let named: HashSet<&str> = words.filter(|word| word.starts_with("tcptrace_")).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(METRICS.contains(&format!("| `{name}` |")), "docs/metrics.md has no {name}");
    }
}
