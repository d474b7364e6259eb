//! One line of the stream, and the kinds of records.

use serde::{Serialize, Serializer};

use crate::events::{
    Cleared, Fields, FromFields, Instant, LifeRecord, Lost, ProcessRecord, Resync, Start, Stuck, Summary,
    Transition, instant::rfc3339,
};

/// Version of the records' form. Adding a field keeps it.
pub const SCHEMA_VERSION: u8 = 1;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it happened.
    pub at: Instant,
    /// What happened, by kind.
    pub event: Event,
}

/// Defines [`Event`]: its kinds, and the names that records give them.
macro_rules! events {
    ($($(#[$doc:meta])+ $kind:ident($fields:ty) = $name:literal,)+) => {
        /// What happened: the fields of a record, by kind.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $($(#[$doc])+ $kind($fields),)+
        }

        impl Event {
            /// The record's `event` field.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => $name,)+
                }
            }

            /// The name of each kind.
            #[cfg(test)]
            pub(crate) const NAMES: &[&'static str] = &[$($name),+];

            /// Derives the schema of the fields of each kind.
            #[cfg(test)]
            pub(crate) fn schemas(
                generator: &mut schemars::SchemaGenerator,
            ) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($name, <$fields as schemars::JsonSchema>::json_schema(generator)),)+]
            }

            /// Reads a record whose `event` is `name` from the fields of its line. Returns `None`
            /// if this version does not know that kind.
            ///
            /// # Errors
            /// The fields are not those of that kind.
            pub fn from_fields(name: &str, fields: &Fields<'_>) -> serde_json::Result<Option<Self>> {
                Ok(Some(match name {
                    $($name => Self::$kind(FromFields::from_fields(fields)?),)+
                    _ => return Ok(None),
                }))
            }
        }
    };
}

events! {
    /// The tracer started.
    Start(Start) = "start",
    /// A socket changed its state.
    Transition(Transition) = "transition",
    /// A socket is stuck.
    Stuck(Box<Stuck>) = "stuck",
    /// A stuck socket has left its state.
    Cleared(Cleared) = "cleared",
    /// A look at all sockets found this one in a watched state, and no transition had reported it:
    /// [`Stuck`] without a threshold.
    Found(Box<Stuck>) = "found",
    /// A connection's life is over.
    Life(LifeRecord) = "life",
    /// The roll-up of the stuck sockets of one process.
    Process(ProcessRecord) = "process",
    /// Transitions or records were lost.
    Lost(Lost) = "lost",
    /// All sockets were looked at again after a loss.
    Resync(Resync) = "resync",
    /// The tracer ended: the totals of the run.
    Summary(Summary) = "summary",
}

impl Event {
    /// Tells records of a view from others: `--count` counts those.
    pub const fn is_of_a_view(&self) -> bool {
        matches!(self, Self::Transition(_) | Self::Stuck(_) | Self::Cleared(_) | Self::Life(_))
    }

    /// Whether it may be dropped when the reader is too slow: everything that can come again and
    /// again. The first `stuck` of a socket and its `cleared` are kept.
    pub fn may_be_held_back(&self) -> bool {
        match self {
            Self::Stuck(stuck) => stuck.is_reminder,
            Self::Transition(_)
            | Self::Life(_)
            | Self::Found(_)
            | Self::Process(_)
            | Self::Lost(_)
            | Self::Resync(_) => true,
            Self::Start(_) | Self::Cleared(_) | Self::Summary(_) => false,
        }
    }
}

/// What every record has.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Head {
    /// Version of this form: 1.
    v: u8,
    /// The kind of record.
    event: &'static str,
    /// When it happened in the kernel: `mono_ns` on the wall clock as it was when the record was
    /// made. RFC 3339, UTC, nanoseconds.
    #[serde(serialize_with = "rfc3339")]
    time: Instant,
    /// The same instant on `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`), nanoseconds. That clock stands
    /// still while the host sleeps (suspend): no age or duration counts that time.
    mono_ns: u64,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            head: Head,
            #[serde(flatten)]
            fields: &'a Event,
        }
        let Self { at, event } = self;
        let head = Head { v: SCHEMA_VERSION, event: event.name(), time: *at, mono_ns: at.mono_ns };
        Line { head, fields: event }.serialize(serializer)
    }
}
