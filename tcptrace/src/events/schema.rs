//! Derives the JSON Schema of the stream from the types of the records, and holds docs/ against
//! it.
//!
//! The schema is a document, so this is a test: the binary needs no part of it. To write
//! docs/events.schema.json and the tables in docs/events.md anew: `UPDATE_DOCS=1 cargo test -p
//! tcptrace events::schema`.

use std::{borrow::Cow, env, fmt::Write as _, fs, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use crate::events::{Event, Instant, Name, SCHEMA_VERSION, SocketId, State, TimeInState, record::Head};

/// What sets a `found` record apart from a `stuck` one: both have the same type.
const FOUND: &str = "How a look at all sockets found this one in a watched state, or no longer in one, if no transition had reported \
    that. It has the fields of `stuck` but `threshold_ms`.";

/// Derives the schema of a line.
fn derive_document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut head = Value::from(Head::json_schema(&mut generator));
    let description = head["properties"]["v"]["description"].take();
    head["properties"]["v"] = json!({"type": "integer", "const": SCHEMA_VERSION, "description": description});
    let socket = Value::from(SocketId::json_schema(&mut generator));
    let mut kinds = Event::schemas(&mut generator);
    for (name, schema) in &mut kinds {
        complete_record(name, schema, &head);
    }
    let mut definitions: Map<String, Value> = generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, schema)| (definition_name(&name), schema))
        .collect();
    definitions.insert("socket".to_owned(), socket);
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let choices = names.iter().map(|name| {
        json!({
            "if": {"properties": {"event": {"const": name}}},
            "then": {"$ref": format!("#/$defs/record_{name}")},
        })
    });
    let choices: Vec<Value> = choices.collect();
    definitions.extend(kinds.into_iter().map(|(name, schema)| (format!("record_{name}"), schema.into())));
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:tcptrace:events:1",
        "title": "tcptrace --json: one line of the stream, version 1",
        "description": "Version 1 may get further fields, kinds of records (`event`), and words where a field takes one of \
            several. Readers pass over what they do not know.",
        "type": "object",
        "properties": head["properties"],
        "required": head["required"],
        "allOf": choices,
        "$defs": definitions,
    });
    tidy_schema(&mut document);
    document
}

/// Adds the fields of every record to those of a kind. Only `stuck` has a threshold, and it always
/// has one.
fn complete_record(kind: &str, schema: &mut Schema, head: &Value) {
    let schema = schema.as_object_mut().expect("a record is an object");
    let mut required = head["required"].as_array().expect("a list").clone();
    required.extend(schema["required"].as_array().expect("a list").iter().cloned());
    let properties = schema["properties"].as_object_mut().expect("fields");
    if kind == "found" {
        properties.remove("threshold_ms");
    } else if properties.contains_key("threshold_ms") {
        let after_state = required.iter().position(|name| name == "state").map_or(0, |at| at + 1);
        required.insert(after_state, "threshold_ms".into());
        properties["threshold_ms"]["type"] = "number".into();
    }
    properties.extend(head["properties"].as_object().expect("fields").clone());
    properties["event"]["const"] = kind.into();
    if kind == "found" {
        schema.insert("description".to_owned(), FOUND.into());
    }
    schema.insert("required".to_owned(), required.into());
}

/// Says in standard terms what schemars says in those of Rust, and leaves room for what may be
/// added.
fn tidy_schema(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(tidy_schema),
        Value::Object(fields) => {
            fields.values_mut().for_each(tidy_schema);
            fields.remove("default");
            if let Some(Value::String(description)) = fields.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target
                    .rsplit_once('/')
                    .map_or(String::new(), |(path, name)| format!("{path}/{}", definition_name(name)));
            }
            match fields.get("format").and_then(Value::as_str) {
                Some("ip") => {
                    fields.remove("format");
                    fields.insert("anyOf".to_owned(), json!([{"format": "ipv4"}, {"format": "ipv6"}]));
                }
                Some("date-time") | None => {}
                Some(_) => drop(fields.remove("format")),
            }
            if let Some(words) = fields.remove("oneOf").or_else(|| fields.remove("enum")) {
                fields.insert("anyOf".to_owned(), open_words(words));
            }
            if let Some(Value::Object(properties)) = fields.get("properties").cloned()
                && let Some(Value::Array(required)) = fields.get("required").cloned()
            {
                for name in properties.keys() {
                    let field = &mut fields["properties"][name];
                    // A field that may be absent is never null.
                    if !required.contains(&json!(name)) {
                        field["type"] = field["type"][0].clone();
                    }
                    if (name.ends_with("_ms") || name.ends_with("_in_s")) && field["type"] != "boolean" {
                        field["minimum"] = 0.into();
                    }
                }
            }
        }
        _ => {}
    }
}

/// These words, or any that is added later.
fn open_words(words: Value) -> Value {
    let Value::Array(words) = words else { unreachable!("words are a list") };
    let word = |word: Value| match word {
        Value::Object(word) => json!({"const": word["const"], "description": word["description"]}),
        word => json!({"const": word}),
    };
    words.into_iter().map(word).chain([json!({"type": "string"})]).collect()
}

/// `OriginRecord` → `origin`.
fn definition_name(type_name: &str) -> String {
    let mut name = String::new();
    for c in type_name.trim_end_matches("Record").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

impl JsonSchema for Instant {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Instant".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z$",
        })
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

impl JsonSchema for State {
    fn schema_name() -> Cow<'static, str> {
        "State".into()
    }

    /// Names the states that a record can name: a request socket in a SYN queue is in none.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = (1..=tcptrace_common::state::CLOSING).map(|number| State(number).kernel_name());
        json_schema!({
            "type": "string",
            "description": "A TCP state, as the kernel names it.",
            "enum": names.collect::<Vec<_>>(),
        })
    }
}

impl JsonSchema for TimeInState {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeInState".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": generator.subschema_for::<State>(),
            "additionalProperties": {"type": "number", "minimum": 0},
        })
    }
}

/// The fields of a definition in their order, but for those that have a table of their own.
fn fields_of<'a>(document: &'a Value, name: &str) -> Vec<(&'a str, &'a Value)> {
    let schema = if name == "every record" { document } else { &document["$defs"][name] };
    let shared = |field: &str| {
        name.starts_with("record_")
            && [document, &document["$defs"]["socket"]]
                .iter()
                .any(|part| !part["properties"][field].is_null())
    };
    let required = schema["required"].as_array().expect("a list").iter().filter_map(Value::as_str);
    let properties = schema["properties"].as_object().expect("fields");
    let optional = properties.keys().map(String::as_str).filter(|name| {
        !schema["required"].as_array().is_some_and(|required| required.contains(&json!(name)))
    });
    required.chain(optional).filter(|field| !shared(field)).map(|field| (field, &properties[field])).collect()
}

/// What a field holds, in a word or two.
fn kind_of(schema: &Value, document: &Value) -> String {
    let is_null = |schema: &Value| schema["type"] == "null";
    if let Some(choices) = schema["anyOf"].as_array()
        && choices.iter().any(is_null)
    {
        let some = choices.iter().find(|choice| !is_null(choice)).expect("something");
        return format!("{} or null", kind_of(some, document));
    }
    if let Some(target) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let is_word = !document["$defs"][target]["anyOf"].is_null();
        return if is_word { "word".to_owned() } else { target.replace('_', " ") };
    }
    let kind = |kind: &Value| match kind.as_str() {
        Some("string") if schema["format"] == "date-time" => "time".to_owned(),
        Some("string") if schema["anyOf"].is_array() => "address".to_owned(),
        Some("array") => format!("list of {}", kind_of(&schema["items"], document)),
        Some(kind) => kind.to_owned(),
        None => unreachable!("a field without a type: {schema}"),
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(kind).collect::<Vec<_>>().join(" or "),
        one => kind(one),
    }
}

/// The table of a definition's fields, or of its words.
fn render_table(document: &Value, name: &str) -> String {
    let mut table = String::new();
    let meaning = |schema: &Value| {
        let text =
            schema["description"].as_str().unwrap_or_else(|| panic!("{name}: {schema} has no description"));
        text.replace('|', "\\|")
    };
    if let Some(words) = document["$defs"][name]["anyOf"].as_array() {
        table.push_str("| word | meaning |\n| --- | --- |\n");
        for word in words.iter().filter(|word| word["const"].is_string()) {
            let _infallible =
                writeln!(table, "| `{}` | {} |", word["const"].as_str().expect("a word"), meaning(word));
        }
    } else {
        table.push_str("| field | | meaning, source |\n| --- | --- | --- |\n");
        for (field, schema) in fields_of(document, name) {
            let _infallible =
                writeln!(table, "| `{field}` | {} | {} |", kind_of(schema, document), meaning(schema));
        }
    }
    table
}

/// A document of docs/.
fn docs_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Holds a document against what it should be, or writes it.
fn check_document(name: &str, expected: &str) {
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(docs_path(name), expected).expect("docs/ can be written to");
    }
    let found = fs::read_to_string(docs_path(name)).expect("it can be read");
    let differs = found.lines().zip(expected.lines()).find(|(one, other)| one != other);
    assert!(
        found == expected,
        "docs/{name} is not what the types of the records say, first at {differs:?}: set UPDATE_DOCS=1 to write it anew"
    );
}

#[test]
fn the_published_schema_is_derived_from_the_records() {
    let expected = serde_json::to_string_pretty(&derive_document()).expect("it is JSON") + "\n";
    check_document("events.schema.json", &expected);
}

#[test]
fn the_tables_in_the_docs_are_derived_from_the_records() {
    const BEGIN: &str = "<!-- table: ";
    const END: &str = "<!-- end -->\n";
    let document = derive_document();
    let text = fs::read_to_string(docs_path("events.md")).expect("it can be read");
    let mut undocumented: Vec<&str> =
        document["$defs"].as_object().expect("definitions").keys().map(String::as_str).collect();
    // It has the fields of `stuck`; states are named in a sentence.
    undocumented.retain(|name| !["record_found", "state"].contains(name));
    let (mut expected, mut rest) = (String::new(), &text[..]);
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").expect("a marker ends");
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("the table {name} does not end"));
        undocumented.retain(|other| *other != name);
        expected += &format!("{before}{BEGIN}{name} -->\n{}{END}", render_table(&document, name));
        rest = after;
    }
    assert_eq!(undocumented, [""; 0], "docs/events.md has no table of these");
    check_document("events.md", &(expected + rest));
}
