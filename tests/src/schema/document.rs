//! The table as a JSON Schema (draft 2020-12), for pipelines and for people: docs/events.schema.json.

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
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tcptrace --json: one line of the stream, version 1",
        "oneOf": events().map(|(name, ..)| reference(&format!("record_{name}"))).collect::<Vec<_>>(),
        "$defs": definitions,
    })
}

/// An object with exactly these fields.
fn object(fields: &[Fields]) -> Value {
    let fields = || fields.iter().copied().flatten();
    let properties: Map<String, Value> =
        fields().map(|(name, kind)| ((*name).to_owned(), schema(*kind))).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": fields().map(|(name, _)| *name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

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
        Kind::State => json!({"enum": STATES}),
        Kind::OneOf(names) => json!({"enum": names}),
        Kind::OneOfOrNull(names) => or_null(json!({"enum": names})),
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
            "propertyNames": {"enum": STATES},
            "additionalProperties": number,
        }),
    }
}
