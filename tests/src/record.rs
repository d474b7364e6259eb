//! A record of the stream, read with the names of the contract.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Map, Value};

use crate::{feature, puppet::Sock, schema};

/// Reads the lines of a run in order: the first record says what the others must have.
#[derive(Debug, Default)]
pub struct Stream {
    /// Whether every transition has its network namespace; the kernel's plain event has none.
    tells_namespaces: bool,
}

impl Stream {
    /// Reads the next line, and validates it against the contract.
    ///
    /// # Errors
    /// If the line violates the contract; says how.
    pub fn record(&mut self, line: &[u8]) -> Result<Record, String> {
        let record = Record(schema::parse(line)?);
        if record.is("start") {
            self.tells_namespaces = record.get("sources")[feature::TP_BTF]["in_use"] == true;
        }
        let is_gone = record.is("found") && record.0.get("state") == Some(&Value::from("CLOSE"));
        let of_the_event = record.is("transition") || record.is("life") || is_gone;
        let may_lack_it = of_the_event && !self.tells_namespaces;
        match record.0.get("netns") {
            Some(Value::Null) if !may_lack_it => Err("field netns is null".to_owned()),
            _ => Ok(record),
        }
    }
}

/// A record as it was received.
#[derive(Clone, PartialEq)]
pub struct Record(Map<String, Value>);

impl Record {
    /// Returns a field.
    ///
    /// # Panics
    /// If the record has no such field.
    pub fn get(&self, field: &str) -> &Value {
        self.0.get(field).unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }

    /// Returns an integer field.
    ///
    /// # Panics
    /// If it is no integer.
    pub fn int(&self, field: &str) -> u64 {
        self.get(field).as_u64().unwrap_or_else(|| panic!("{field} is no integer in {self:?}"))
    }

    /// Returns a field that is a number.
    ///
    /// # Panics
    /// If it is no number.
    pub fn number(&self, field: &str) -> f64 {
        self.get(field).as_f64().unwrap_or_else(|| panic!("{field} is no number in {self:?}"))
    }

    /// Returns a text field.
    ///
    /// # Panics
    /// If it is no text.
    pub fn text(&self, field: &str) -> &str {
        self.get(field).as_str().unwrap_or_else(|| panic!("{field} is no text in {self:?}"))
    }

    /// Returns the record's event.
    pub fn event(&self) -> &str {
        self.text("event")
    }

    /// Returns whether the record has this event.
    pub fn is(&self, event: &str) -> bool {
        self.event() == event
    }

    /// Returns the time of the record on `CLOCK_MONOTONIC`.
    pub fn mono_ns(&self) -> u64 {
        self.int("mono_ns")
    }

    /// Returns the cookie of the record's socket.
    pub fn cookie(&self) -> u64 {
        self.int("cookie")
    }

    /// Returns whether the record's socket is, or may be, in this network namespace. Without BTF
    /// transitions have no namespace.
    pub fn is_in(&self, netns: u64) -> bool {
        self.0.get("netns").is_some_and(|value| *value == netns || value.is_null())
    }

    /// Returns the old and the new state of a transition.
    pub fn states(&self) -> (&str, &str) {
        (self.text("old_state"), self.text("new_state"))
    }

    /// Returns whether a transition is its socket's last.
    pub fn is_last(&self) -> bool {
        self.get("new_state") == "CLOSE" || self.get("stand_in") == true
    }

    /// Returns the address and port of the socket's own end.
    pub fn local(&self) -> SocketAddr {
        self.end("local_addr", "local_port")
    }

    /// Returns the address and port of the other end.
    pub fn remote(&self) -> SocketAddr {
        self.end("remote_addr", "remote_port")
    }

    fn end(&self, address: &str, port: &str) -> SocketAddr {
        let address: IpAddr = self.text(address).parse().expect("held against the contract");
        SocketAddr::new(address, u16::try_from(self.int(port)).expect("held against the contract"))
    }

    /// Returns whether the record has this event and is about this socket, by namespace and both
    /// ends.
    pub fn is_about(&self, event: &str, socket: &Sock) -> bool {
        self.is(event)
            && self.is_in(socket.netns)
            && self.local() == socket.local
            && Some(self.remote()) == socket.remote
    }

    /// Returns the pid and descriptor of each owner of a stuck socket.
    ///
    /// # Panics
    /// If the record has no owners.
    pub fn holders(&self) -> Vec<(u32, u32)> {
        let owners = self.get("owners").as_array().expect("a list");
        let number = |owner: &Value, name: &str| {
            owner[name].as_u64().and_then(|number| u32::try_from(number).ok()).expect("a holder has numbers")
        };
        owners.iter().map(|owner| (number(owner, "pid"), number(owner, "fd"))).collect()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Value::Object(self.0.clone()).to_string())
    }
}

/// Returns the transitions of each socket of a network namespace that miss one. All sockets have
/// to begin and end in these records.
pub fn with_gaps(records: &[Record], netns: u64) -> Vec<Vec<&Record>> {
    let mut lives: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.is("transition") && record.is_in(netns)) {
        lives.entry(record.cookie()).or_default().push(record);
    }
    let is_whole = |life: &Vec<&Record>| {
        let (first, last) = (life[0], life[life.len() - 1]);
        matches!(first.states(), ("CLOSE", _) | ("LISTEN", "SYN_RECV"))
            && life.array_windows().all(|[before, after]| before.states().1 == after.states().0)
            && (last.states().1 == "CLOSE" || last.get("stand_in") == true)
    };
    lives.into_values().filter(|life| !is_whole(life)).collect()
}
