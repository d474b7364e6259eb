//! Instants and durations, and their forms in records.

use std::fmt;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use crate::events::fields::Text;

/// When something happened in the kernel, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Nanoseconds since 1970, UTC.
    pub wall_ns: i128,
    /// The same moment on `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
}

/// Formats the wall clock's time: RFC 3339, UTC, nanoseconds.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", self.timestamp())
    }
}

impl Instant {
    /// Returns the wall clock's time for a calendar. A clock that is set beyond the year 9999
    /// reads as 1970.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(self.wall_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// Converts nanoseconds to milliseconds with three decimals, cut at the microsecond.
pub fn milliseconds(ns: u64) -> f64 {
    // A microsecond count above 2^53 (285 years) loses its last digits.
    (ns / 1_000) as f64 / 1_000.0
}

/// Converts milliseconds of a record to nanoseconds, rounded to the microsecond that was written.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates: below 0 and NaN become 0"
)]
pub fn nanoseconds(ms: f64) -> u64 {
    ((ms * 1_000.0).round() as u64).saturating_mul(1_000)
}

/// Serializes the wall clock's time.
pub(crate) fn rfc3339<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Serializes the wall clock's time, or null.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
pub(crate) fn rfc3339_or_null<S: Serializer>(at: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// Deserializes an instant of which only the wall clock's time was written.
pub(crate) fn wall_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
    let Text(text) = Text::deserialize(deserializer)?;
    let time: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
    Ok(Instant { wall_ns: time.as_nanosecond(), mono_ns: 0 })
}

/// Deserializes such an instant, or null.
pub(crate) fn wall_time_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Instant>, D::Error> {
    #[derive(Deserialize)]
    struct Wall(#[serde(deserialize_with = "wall_time")] Instant);
    Ok(Option::<Wall>::deserialize(deserializer)?.map(|Wall(at)| at))
}
