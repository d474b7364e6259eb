//! The published schema without room for anything new, and a validator of it for every line of
//! every test.
//!
//! The validator knows the few keywords that the schema uses, and refuses others. `contract.rs`
//! holds it against a complete one, which would double the size of each test program.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::is_rfc3339_with_nanoseconds;

/// Returns the same schema without room for other fields, kinds of records, or words.
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
            if let Some(Value::Array(words)) = fields.get_mut("anyOf")
                && words.first().is_some_and(|word| word["const"].is_string())
            {
                // The last one allows any other word.
                words.retain(|word| word["const"].is_string());
            }
        }
        _ => {}
    }
}

/// Validates a value against a part of the strict schema `document`.
///
/// # Errors
/// The path of what does not fit, and why.
pub(super) fn validate(value: &Value, schema: &Value, document: &Value) -> Result<(), String> {
    let Value::Object(keywords) = schema else {
        return if schema == true { Ok(()) } else { Err("is not in the contract".to_owned()) };
    };
    for (keyword, rule) in keywords {
        let fits = match &keyword[..] {
            "description" => true,
            "$ref" => {
                let path = rule.as_str().and_then(|path| path.strip_prefix('#')).expect("a reference");
                validate(value, document.pointer(path).expect("a definition"), document)?;
                true
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(value, kind)),
                kind => is_of(value, kind),
            },
            "const" => value == rule,
            "anyOf" => {
                rule.as_array().expect("a list").iter().any(|one| validate(value, one, document).is_ok())
            }
            "minimum" => value.as_f64().is_none_or(|number| Some(number) >= rule.as_f64()),
            "maximum" => value.as_f64().is_none_or(|number| Some(number) <= rule.as_f64()),
            "maxItems" => value.as_array().is_none_or(|list| Some(list.len() as u64) <= rule.as_u64()),
            "format" => value.as_str().is_none_or(|text| has_format(text, rule)),
            // There is one: that of times.
            "pattern" => schema["format"] == "date-time",
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(item, rule, document).map_err(|why| format!("{at}: {why}"))?;
                }
                true
            }
            "required" => {
                let missing = rule.as_array().expect("a list").iter().find(|name| {
                    value.as_object().is_some_and(|fields| !fields.contains_key(name.as_str().unwrap_or("")))
                });
                if let Some(name) = missing {
                    return Err(format!("field {name} is missing"));
                }
                true
            }
            "properties" | "additionalProperties" => {
                let known = schema["properties"].as_object();
                for (name, field) in value.as_object().into_iter().flatten() {
                    let known = known.and_then(|known| known.get(name));
                    let rule = if keyword == "properties" { known } else { Some(rule).xor(known) };
                    if let Some(rule) = rule {
                        validate(field, rule, document).map_err(|why| format!("field {name} {why}"))?;
                    }
                }
                true
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
                    validate(&json!(name), rule, document).map_err(|why| format!("name {name} {why}"))?;
                }
                true
            }
            other => panic!("the validator does not know {other}"),
        };
        if !fits {
            return Err(format!("is {value}, against {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => panic!("the validator does not know the type {kind}"),
    }
}

fn has_format(text: &str, format: &Value) -> bool {
    match format.as_str() {
        Some("ipv4") => text.parse::<Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<Ipv6Addr>().is_ok(),
        Some("date-time") => is_rfc3339_with_nanoseconds(text),
        _ => panic!("the validator does not know the format {format}"),
    }
}
