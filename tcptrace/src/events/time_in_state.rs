//! How long a connection was in each of its states.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap as _};

use crate::events::{State, milliseconds, nanoseconds};

/// Most states that a connection has: it leaves at most five for another one than CLOSE, and ends
/// in one more.
const MOST: usize = 6;

/// How long a connection was in each of its states, in their order: milliseconds by state name.
///
/// A short list in place, for one is made for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeInState {
    states: [u8; MOST],
    len: u8,
    ns: [u64; MOST],
}

impl TimeInState {
    /// Adds a state and the nanoseconds spent in it. Returns whether there was room, as there is
    /// for those of a life.
    pub fn push(&mut self, state: u8, ns: u64) -> bool {
        let at = usize::from(self.len);
        if at == MOST {
            return false;
        }
        (self.states[at], self.ns[at]) = (state, ns);
        self.len += 1;
        true
    }

    /// Iterates over the states and the nanoseconds spent in each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u8, u64)> {
        (0..usize::from(self.len)).map(|at| (self.states[at], self.ns[at]))
    }
}

impl FromIterator<(u8, u64)> for TimeInState {
    /// Takes the first six: a connection has no more.
    fn from_iter<I: IntoIterator<Item = (u8, u64)>>(all: I) -> Self {
        let mut times = Self::default();
        for (state, ns) in all.into_iter().take(MOST) {
            times.push(state, ns);
        }
        times
    }
}

impl Serialize for TimeInState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let states = self.iter();
        let mut map = serializer.serialize_map(Some(states.len()))?;
        for (state, ns) in states {
            map.serialize_entry(State(state).kernel_name(), &milliseconds(ns))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for TimeInState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimesVisitor;
        impl<'de> serde::de::Visitor<'de> for TimesVisitor {
            type Value = TimeInState;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("states with milliseconds")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut times = TimeInState::default();
                while let Some((State(state), ms)) = map.next_entry()? {
                    if !times.push(state, nanoseconds(ms)) {
                        return Err(A::Error::custom("more states than a life has"));
                    }
                }
                Ok(times)
            }
        }
        deserializer.deserialize_map(TimesVisitor)
    }
}
