//! The table as a JSON Schema (draft 2020-12), for pipelines and for people: docs/events.schema.json.
//!
//! The published schema is open, as the version policy is: a record of version 1 may get fields, and there may be further
//! kinds of records and further words for a field. [`strict`] is derived from it, and allows nothing that the table does
//! not have.

use serde_json::{Map, Value, json};

use super::table::{
    EVENTS, EVERY_RECORD, Fields, Kind, LISTED, LISTENER, OF_A_LINK, ORIGIN, OWNER, PEER, SOURCE, STATES,
};

/// The schema of one line of the stream.
pub fn document() -> Value {
    let events = || EVENTS.iter();
    let mut definitions: Map<String, Value> = [
        ("owner", OWNER),
        ("origin", ORIGIN),
        ("listener", LISTENER),
        ("peer_socket", PEER),
        ("source", SOURCE),
    ]
    .into_iter()
    .map(|(name, fields)| (name.to_owned(), object(&[fields])))
    .collect();
    for (name, shared, own) in events() {
        let mut record = object(&[&[EVERY_RECORD], *shared, &[*own]].concat());
        if !shared.is_empty() {
            record["properties"]["interface"] = schema(OF_A_LINK[0].1);
        }
        record["properties"]["v"] = json!({"const": 1});
        record["properties"]["event"] = json!({"const": name});
        definitions.insert(format!("record_{name}"), record);
    }
    let mut document = object(&[EVERY_RECORD]);
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    document["$id"] = "urn:tcptrace:events:1".into();
    document["title"] = "tcptrace --json: one line of the stream, version 1".into();
    document["description"] =
        "Version 1 may get further fields, kinds of records (event), and words where a field \
         lists examples. Readers pass over what they do not know."
            .into();
    document["properties"]["v"] = json!({"const": 1});
    document["allOf"] = events().map(|(name, ..)| kind_of_record(name)).collect();
    document["$defs"] = definitions.into();
    document
}

/// A record of this kind has its fields.
fn kind_of_record(name: &str) -> Value {
    json!({
        "if": {"properties": {"event": {"const": name}}},
        "then": reference(&format!("record_{name}")),
    })
}

/// The same schema without room for anything new: no other fields, kinds of records, or words.
pub fn strict(document: &Value) -> Value {
    let mut closed = document.clone();
    close(&mut closed);
    let kinds = closed["allOf"].as_array().expect("kinds of records").iter();
    let kinds: Vec<Value> = kinds.map(|kind| kind["then"].clone()).collect();
    json!({"$schema": closed["$schema"], "oneOf": kinds, "$defs": closed["$defs"]})
}

fn close(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(close),
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.contains_key("required") {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
            if let Some(words) = fields.remove("examples") {
                fields.insert("enum".to_owned(), words);
            }
        }
        _ => {}
    }
}

/// An object with these fields, and perhaps others.
fn object(fields: &[Fields]) -> Value {
    let fields = || fields.iter().copied().flatten();
    let properties: Map<String, Value> =
        fields().map(|(name, kind)| ((*name).to_owned(), schema(*kind))).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": fields().map(|(name, _)| *name).collect::<Vec<_>>(),
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// One of these words, or one that is added later.
fn word(words: &[&str]) -> Value {
    json!({"type": "string", "examples": words})
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`json!` takes a reference; its callers make the value for it"
)]
fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn schema(kind: Kind) -> Value {
    let list = |of: &str| json!({"type": "array", "items": reference(of), "maxItems": LISTED});
    let time = json!({
        "type": "string",
        "format": "date-time",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z$",
    });
    let integer = json!({"type": "integer", "minimum": 0});
    let number = json!({"type": "number", "minimum": 0});
    match kind {
        Kind::Integer => integer,
        Kind::IntegerOrNull => or_null(integer),
        Kind::Number => number,
        Kind::NumberOrNull => or_null(number),
        Kind::Change => json!({"type": "number"}),
        Kind::ChangeOrNull => or_null(json!({"type": "number"})),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Text => json!({"type": "string"}),
        Kind::TextOrNull => or_null(json!({"type": "string"})),
        Kind::Address => {
            json!({"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]})
        }
        Kind::Port => json!({"type": "integer", "minimum": 0, "maximum": 65535}),
        Kind::Time => time,
        Kind::TimeOrNull => or_null(time),
        Kind::State => word(&STATES),
        Kind::OneOf(names) => word(names),
        Kind::OneOfOrNull(names) => or_null(word(names)),
        Kind::Owner => reference("owner"),
        Kind::OwnerOrNull => or_null(reference("owner")),
        Kind::Owners => list("owner"),
        Kind::OriginOrNull => or_null(reference("origin")),
        Kind::ListenerOrNull => or_null(reference("listener")),
        Kind::PeerOrNull => or_null(reference("peer_socket")),
        Kind::Sources => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": reference("source"),
        }),
        Kind::Spent => json!({
            "type": "object",
            "propertyNames": word(&STATES),
            "additionalProperties": number,
        }),
    }
}
