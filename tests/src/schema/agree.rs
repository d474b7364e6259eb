//! What the fields of a record say together: they must not contradict each other.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{LISTED, TEXT_BYTES};

/// No string is longer than the limit.
pub(super) fn texts(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES => Err(format!("{} bytes: {text}", text.len())),
        Value::Array(list) => list.iter().try_for_each(texts),
        Value::Object(fields) => fields.values().try_for_each(texts),
        _ => Ok(()),
    }
}

/// This host has a boot id, and a feature that is not in use has a reason.
pub(super) fn start(record: &Map<String, Value>) -> Result<(), String> {
    let sources = record["sources"].as_object().filter(|sources| !sources.is_empty());
    let has_reason = |source: &Value| (source["in_use"] == true) == source["why_not"].is_null();
    if record["boot_id"].is_string() && sources.is_some_and(|sources| sources.values().all(has_reason)) {
        return Ok(());
    }
    Err(format!("it contradicts itself: {}", Value::Object(record.clone())))
}

/// Both ends are of the family.
pub(super) fn addresses(record: &Map<String, Value>) -> Result<(), String> {
    for name in ["local_addr", "remote_addr"] {
        let address = record[name].as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let fits = match address {
            Some(IpAddr::V4(_)) => record["family"] == "ipv4",
            Some(IpAddr::V6(address)) => record["family"] == "ipv6" && address.to_ipv4_mapped().is_none(),
            None => false,
        };
        if !fits {
            return Err(format!("{name} is {}, family {}", record[name], record["family"]));
        }
    }
    Ok(())
}

/// An interface is told where an address means nothing without it.
pub(super) fn interface(record: &Map<String, Value>) -> Result<(), String> {
    let is_link_local = |name: &&str| record[*name].as_str().is_some_and(|text| text.starts_with("fe80:"));
    if record.contains_key("interface") && !["local_addr", "remote_addr"].iter().any(is_link_local) {
        return Err("an interface, but no link-local address".to_owned());
    }
    Ok(())
}

/// The age is at most its bound, and the same where it is exact.
pub(super) fn ages(record: &Map<String, Value>) -> Result<(), String> {
    let (age, most) = (record["age_ms"].as_f64(), record["age_max_ms"].as_f64());
    if most.is_some_and(|most| Some(most) < age) {
        return Err(format!("at least {age:?} ms and at most {most:?} ms"));
    }
    if record["exact"] == true && most != age {
        return Err(format!("exactly {age:?} ms and at most {most:?} ms"));
    }
    Ok(())
}

/// What is stuck is at least as old as the threshold.
pub(super) fn threshold(record: &Map<String, Value>) -> Result<(), String> {
    let (threshold, age) = (record["threshold_ms"].as_f64(), record["age_ms"].as_f64());
    if age < threshold {
        return Err(format!("stuck for {age:?} ms, before the threshold of {threshold:?} ms"));
    }
    Ok(())
}

/// No more are shared than stuck; descriptors run out where they grow, and have run out at their
/// limit.
pub(super) fn process(record: &Map<String, Value>) -> Result<(), String> {
    let number = |name: &str| record[name].as_f64();
    if number("shared") > number("stuck") {
        return Err("more are shared than stuck".to_owned());
    }
    let (open, limit) = (number("fds_open"), number("fds_limit"));
    if open.is_some() != number("fds_growth_per_min").is_some() {
        return Err("descriptors are counted, and their growth is not, or the other way round".to_owned());
    }
    match number("fds_full_in_s") {
        Some(0.0) if open < limit.map(|limit| limit - (limit / 100.0).max(2.0)) => {
            Err(format!("{open:?} of {limit:?} descriptors are all"))
        }
        Some(seconds) if seconds > 0.0 && number("fds_growth_per_min") <= Some(0.0) => {
            Err("descriptors run out, and do not grow".to_owned())
        }
        None if limit.is_some() && open >= limit => {
            Err(format!("{open:?} of {limit:?} descriptors are not all"))
        }
        _ => Ok(()),
    }
}

/// What is gone is held by nobody.
pub(super) fn found(record: &Map<String, Value>) -> Result<(), String> {
    if record["state"] == "CLOSE" && matches!(record["owner_how"].as_str(), Some("fd" | "listener")) {
        return Err("somebody holds what is gone".to_owned());
    }
    Ok(())
}

/// Who is named must be known in the way that is told.
pub(super) fn owners(record: &Map<String, Value>) -> Result<(), String> {
    let owners = record["owners"].as_array().map_or(&[][..], Vec::as_slice);
    let fds = owners.iter().filter(|owner| owner["fd"].is_u64()).count();
    let all_have_fds = fds > 0 && fds == owners.len();
    let agrees = match record["owner_how"].as_str() {
        Some("fd") => {
            all_have_fds && owners.is_sorted_by_key(|owner| (owner["pid"].as_u64(), owner["fd"].as_u64()))
        }
        Some("listener") => {
            all_have_fds && record["listener"].is_object() && record["cause"] == "not_accepted"
        }
        Some("origin") => owners.len() == 1 && fds == 0 && owners[0]["pid"] == record["origin"]["pid"],
        Some("none") => owners.is_empty() && record["origin"].is_null(),
        _ => false,
    };
    if agrees { Ok(()) } else { Err("its owners are not known as it says".to_owned()) }
}

/// Owners are left out only where there are more than a list names.
pub(super) fn totals(record: &Map<String, Value>) -> Result<(), String> {
    let has_total = |of: &Value| {
        let listed = of["owners"].as_array().map_or(0, Vec::len);
        let total = of["owners_total"].as_u64().and_then(|total| usize::try_from(total).ok());
        total == Some(listed) || (listed == LISTED && total > Some(LISTED))
    };
    let peer = &record["peer"];
    if has_total(&Value::Object(record.clone())) && (peer.is_null() || has_total(peer)) {
        return Ok(());
    }
    Err("it lists fewer owners than it can".to_owned())
}

/// The other end's owners are known as it says, and what is gone has none.
pub(super) fn peer(record: &Map<String, Value>) -> Result<(), String> {
    let peer = &record["peer"];
    let has_owners = peer["owners_total"].as_u64() > Some(0);
    let can_wait = peer["state"] == "ESTABLISHED" || peer["state"] == "CLOSE_WAIT";
    let agrees = peer["netns"].is_u64()
        && matches!(peer["owner_how"].as_str(), Some("fd" | "listener" | "none"))
        && has_owners == (peer["owner_how"] != "none")
        && !(has_owners && peer["gone"] == true)
        && (peer["owner_how"] != "listener" || can_wait);
    if peer.is_null() || agrees { Ok(()) } else { Err(format!("its other end contradicts itself: {peer}")) }
}

/// Who did it is named where somebody did, and else nobody is.
pub(super) fn ending(record: &Map<String, Value>) -> Result<(), String> {
    let somebody_did = record["how"] == "closed" || record["how"] == "exited";
    if record["by"].is_object() == somebody_did {
        return Ok(());
    }
    Err(format!("it was {} by {}", record["how"], record["by"]))
}

/// Only in those states is there a stand-in, and nothing else is in TIME_WAIT; who acted is told
/// where somebody did.
pub(super) fn transition(record: &Map<String, Value>) -> Result<(), String> {
    let (old, new) = (&record["old_state"], &record["new_state"]);
    let agrees = if record["stand_in"] == true {
        (old == "FIN_WAIT2" || old == "CLOSING") && (new == "TIME_WAIT" || new == "FIN_WAIT2")
    } else {
        old != "TIME_WAIT" && new != "TIME_WAIT" && old != new
    };
    let somebody_acted = record["how"] == "closed" || record["how"] == "exited";
    if somebody_acted != (record["owner_how"] == "close") {
        return Err(format!("it was {} with owner_how {}", record["how"], record["owner_how"]));
    }
    if agrees { Ok(()) } else { Err(format!("{old} to {new} with stand_in {}", record["stand_in"])) }
}

/// The states make up the duration, and who, how and why do not contradict each other.
pub(super) fn life(record: &Map<String, Value>) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {}", Value::Object(record.clone())));
    let states =
        record["states"].as_object().map_or(0.0, |states| states.values().filter_map(Value::as_f64).sum());
    match record["duration_ms"].as_f64() {
        // Each is cut at a microsecond.
        Some(duration) if states > duration + 0.001 => return wrong("longer in its states than open"),
        Some(_) if record["opened"].is_null() => return wrong("a duration from nowhere"),
        _ => {}
    }
    if record["remote_port"] == 0 {
        return wrong("no connection");
    }
    let has_error = !record["error"].is_null();
    let agrees = match record["close_reason"].as_str() {
        Some("timeout" | "refused" | "reset_received" | "destroyed") => has_error,
        Some("reset_sent" | "unknown") => !has_error,
        _ => true,
    };
    if !agrees {
        return wrong("its error is not its reason's");
    }
    let how = record["owner_how"].as_str();
    let acts = matches!(record["close_reason"].as_str(), Some("exit" | "reset_sent"));
    let is_known = matches!(how, Some("close" | "origin")) && record["owner"]["fd"].is_null();
    if record["owner"].is_object() != is_known || (!is_known && how != Some("none")) {
        return wrong("its owner is not known as it says");
    }
    if acts && how != Some("close") { wrong("closed by nobody") } else { Ok(()) }
}
