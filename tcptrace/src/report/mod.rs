//! Findings → records → bytes. Pure: what `/proc` says of a process, and what the wall clock shows, come in as
//! data.

mod assemble;
mod bounds;
mod charged;
mod columns;
mod dotted;
mod ends;
mod evidence;
mod group;
mod json;
mod life;
mod process;
mod record;
mod second;
mod text;
mod words;

pub use assemble::{Reporter, Views, charge};
pub use bounds::{LISTED, LONGEST_RECORD, TEXT_BYTES};
pub use charged::{Charged, complete};
pub use columns::Zones;
pub use evidence::Evidence;
pub use json::Json;
pub(crate) use json::recorded;
pub use life::LifeRecord;
pub use process::ProcessRecord;
pub use record::{
    Cleared, Event, Family, Instant, Listener, Lost, LostReason, Name, OriginHow, OriginRecord, Owner,
    OwnerHow, Peer, Record, Resync, SCHEMA_VERSION, SocketId, Start, Stuck, Summary, Transition,
    milliseconds, nanoseconds,
};
pub use text::Text;
pub(crate) use words::{does_harm, printable};
pub use words::{farewell, looked, span, verdict, welcome};

#[cfg(test)]
mod tests;
