//! What users rely on, as documents: they say what the tests hold every line against.

use std::{collections::HashSet, fs, path::Path};

use serde_json::Value;
use tests::schema;

/// For pipelines, in the repository.
const DOCUMENT: &str = include_str!("../../docs/events.schema.json");
/// Which the tests of metrics hold against what is served.
const METRICS: &str = include_str!("../../docs/metrics.md");
const README: &str = include_str!("../../README.md");
/// For people.
const EVENTS: &str = include_str!("../../docs/events.md");

#[test]
fn the_schema_in_the_docs_is_what_every_line_is_held_against() {
    let expected = schema::document();
    let documented: Value = serde_json::from_str(DOCUMENT).expect("docs/events.schema.json is JSON");
    if documented != expected {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("events.schema.json");
        let text = serde_json::to_string_pretty(&expected).expect("it is JSON") + "\n";
        fs::write(&path, text).expect("the target directory can be written to");
        panic!("docs/events.schema.json is not that; it would be {}", path.display());
    }
}

#[test]
fn every_field_is_explained() {
    let rows = EVENTS.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let explained: HashSet<&str> = rows
        .flat_map(|(names, _)| names.split(", "))
        .filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
        .collect();
    let document = schema::document();
    for (definition, schema) in document["$defs"].as_object().expect("definitions") {
        for field in schema["properties"].as_object().expect("fields").keys() {
            assert!(
                explained.contains(&field[..]),
                "docs/events.md does not explain `{field}` of {definition}"
            );
        }
    }
}

#[test]
fn every_metric_that_the_readme_names_is_one() {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = README.split(|c| !is_part(c)).filter(|word| word.starts_with("tcptrace_"));
    let named: HashSet<&str> = words.collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(METRICS.contains(&format!("| `{name}` |")), "docs/metrics.md has no {name}");
    }
}
