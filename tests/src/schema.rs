//! Every line of the stream is validated against docs/events.schema.json without room for anything
//! new (`schema/strict.rs`), and its fields against each other (`schema/agree.rs`).

mod agree;
mod strict;

use std::{ops::Range, sync::LazyLock};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

pub use strict::strict;

/// How many owners a list names at most.
pub const LISTED: usize = 16;

/// Bytes that a string has at most.
pub const TEXT_BYTES: usize = 512;

/// Returns the published schema.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../docs/events.schema.json")).expect("it is JSON")
    });
    &DOCUMENT
}

/// Validates a record against the published schema without room for anything new.
///
/// # Errors
/// What does not fit.
pub fn validate(record: &Value) -> Result<(), String> {
    static STRICT: LazyLock<Value> = LazyLock::new(|| strict(document()));
    let event = record["event"].as_str().ok_or("no event")?;
    let kind = STRICT["$defs"].get(format!("record_{event}")).ok_or("unknown event")?;
    strict::validate(record, kind, &STRICT)
}

/// Takes one line of the stream, without its newline, and holds it against the contract.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let Unique(record) = serde_json::from_str(text).map_err(|error| format!("not one object: {error}"))?;
    let whole = Value::Object(record.clone());
    validate(&whole)?;
    agree::texts(&whole)?;
    if record.contains_key("cookie") {
        agree::addresses(&record)?;
        agree::interface(&record)?;
    }
    match record["event"].as_str() {
        Some(event @ ("stuck" | "found")) => {
            agree::ages(&record)?;
            agree::owners(&record)?;
            agree::totals(&record)?;
            agree::peer(&record)?;
            if event == "stuck" { agree::threshold(&record)? } else { agree::found(&record)? }
        }
        Some("start") => agree::start(&record)?,
        Some("cleared") => agree::ending(&record)?,
        Some("transition") => agree::transition(&record)?,
        Some("life") => agree::life(&record)?,
        Some("process") => agree::process(&record)?,
        _ => {}
    }
    Ok(record)
}

/// `2026-11-22T15:45:32.104233918Z`
fn is_rfc3339_with_nanoseconds(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000000Z";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        })
}

/// Nanoseconds since 1970 of a time in the records' form.
///
/// # Panics
/// It is not in that form.
pub fn unix_ns(time: &str) -> i128 {
    assert!(is_rfc3339_with_nanoseconds(time), "{time}");
    let number = |range: Range<usize>| -> i128 { time[range].parse().expect("digits") };
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days from civil, http://howardhinnant.github.io/date_algorithms.html: years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19);
    seconds * 1_000_000_000 + number(20..29)
}

/// An object in which no key comes twice.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Unique;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                let mut count = 0;
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    map.insert(key, value);
                    count += 1;
                }
                if map.len() != count {
                    return Err(A::Error::custom("a field comes twice"));
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
