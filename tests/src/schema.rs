//! Every line of the stream is held against the contract's records (`schema/table.rs`), of which docs/events.schema.json is
//! the form for others (`schema/document.rs`).

mod agree;
mod document;
mod table;

use std::{net::IpAddr, ops::Range};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

pub use document::{document, strict};
#[allow(clippy::enum_glob_use, reason = "a table of them")]
use table::{
    EVENTS, EVERY_RECORD, Fields,
    Kind::{self, *},
    LISTENER, OF_A_LINK, ORIGIN, OWNER, PEER, SOURCE, STATES,
};
pub use table::{LISTED, TEXT_BYTES};

/// One line of the stream, without its newline, held against the contract.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let Unique(record) = serde_json::from_str(text).map_err(|error| format!("not one object: {error}"))?;
    let event = record.get("event").and_then(Value::as_str).ok_or("no event")?;
    let (event, shared, own) = EVENTS.iter().find(|(name, ..)| *name == event).ok_or("unknown event")?;
    let of_a_link = record.contains_key("interface") && !shared.is_empty();
    let optional = if of_a_link { OF_A_LINK } else { &[] };
    check(&record, &[&[EVERY_RECORD], *shared, &[*own, optional]].concat())?;
    if !shared.is_empty() {
        agree::addresses(&record)?;
        agree::interface(&record)?;
    }
    if matches!(*event, "stuck" | "found") {
        agree::ages(&record)?;
        agree::owners(&record)?;
        agree::totals(&record)?;
        agree::peer(&record)?;
    }
    match *event {
        "stuck" => agree::threshold(&record)?,
        "found" => agree::found(&record)?,
        "cleared" => agree::ending(&record)?,
        "transition" => agree::transition(&record)?,
        "life" => agree::life(&record)?,
        "process" => agree::process(&record)?,
        _ => {}
    }
    Ok(record)
}

/// Exactly these fields, and each of its kind.
fn check(object: &Map<String, Value>, fields: &[Fields]) -> Result<(), String> {
    let fields = || fields.iter().copied().flatten();
    for (name, kind) in fields() {
        let value = object.get(*name).ok_or_else(|| format!("field {name} is missing"))?;
        if !kind.fits(value) {
            return Err(format!("field {name} is {value}, not {kind:?}"));
        }
    }
    if object.len() == fields().count() {
        return Ok(());
    }
    let unknown = object.keys().find(|key| fields().all(|(name, _)| name != key));
    Err(format!("field {} is not in the contract", unknown.map_or("", |key| key)))
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        let object =
            |fields: Fields| value.as_object().is_some_and(|object| check(object, &[fields]).is_ok());
        match self {
            Integer => value.is_u64(),
            IntegerOrNull => value.is_u64() || value.is_null(),
            Number => value.as_f64().is_some_and(|number| number >= 0.0),
            Change => value.is_f64(),
            ChangeOrNull => value.is_f64() || value.is_null(),
            NumberOrNull => value.is_null() || Number.fits(value),
            Flag => value.is_boolean(),
            Text => value.as_str().is_some_and(|text| text.len() <= TEXT_BYTES),
            TextOrNull => value.is_null() || Text.fits(value),
            Address => value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            Port => value.as_u64().is_some_and(|port| port <= 65_535),
            Time => value.as_str().is_some_and(is_rfc3339_with_nanoseconds),
            TimeOrNull => value.is_null() || Time.fits(value),
            State => value.as_str().is_some_and(|state| STATES.contains(&state)),
            OneOf(names) => value.as_str().is_some_and(|text| names.contains(&text)),
            Self::OneOfOrNull(names) => {
                value.is_null() || value.as_str().is_some_and(|text| names.contains(&text))
            }
            Self::Owner => object(OWNER),
            OwnerOrNull => value.is_null() || object(OWNER),
            Owners => {
                let are_owners = |owners: &Vec<Value>| owners.iter().all(|owner| Self::Owner.fits(owner));
                value.as_array().is_some_and(|owners| owners.len() <= LISTED && are_owners(owners))
            }
            OriginOrNull => value.is_null() || object(ORIGIN),
            ListenerOrNull => value.is_null() || object(LISTENER),
            PeerOrNull => value.is_null() || object(PEER),
            Sources => value.as_object().is_some_and(|sources| {
                !sources.is_empty()
                    && sources.values().all(|source| {
                        source.as_object().is_some_and(|source| {
                            check(source, &[SOURCE]).is_ok()
                                && (source["in_use"] == true) == source["why_not"].is_null()
                        })
                    })
            }),
            Spent => value.as_object().is_some_and(|states| {
                states.iter().all(|(state, ms)| STATES.contains(&state.as_str()) && Number.fits(ms))
            }),
        }
    }
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
