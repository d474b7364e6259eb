//! Reads `life` records by the names of the contract.

use crate::record::Record;

/// Returns why a connection ended, the error, how its owner is known, and the owner's pid.
pub fn end(life: &Record) -> (&str, Option<&str>, &str, Option<u64>) {
    let error = life.get("error").as_str();
    (life.text("close_reason"), error, life.text("owner_how"), life.get("owner")["pid"].as_u64())
}

/// Returns whether a connection was in these states and no others.
pub fn was_in(life: &Record, states: &[&str]) -> bool {
    let told = life.get("states").as_object().expect("held against the contract");
    told.len() == states.len() && states.iter().all(|state| told.contains_key(*state))
}

/// Returns the bytes of payload that were sent and received.
pub fn bytes(life: &Record) -> (u64, u64) {
    (life.int("bytes_sent"), life.int("bytes_received"))
}
