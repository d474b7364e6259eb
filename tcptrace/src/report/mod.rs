//! Findings → records → bytes. Pure: what `/proc` says of a process, and what the wall clock shows, come in as
//! data.

mod assemble;
mod evidence;
mod group;
mod life;
mod process;
mod record;
mod text;
mod words;

pub use assemble::{Reporter, Views, charge, charged, complete, name};
pub use evidence::Evidence;
pub use life::LifeRecord;
pub use process::ProcessRecord;
pub use record::{
    Cleared, Event, Family, Instant, Listener, Lost, LostReason, Name, OriginHow, OriginRecord, Owner,
    OwnerHow, Peer, Record, Resync, SCHEMA_VERSION, SocketId, Start, Stuck, Summary, Transition,
    milliseconds,
};
pub use text::Text;
pub use words::{farewell, looked, span, verdict, welcome};

/// Appends a record as one line of JSON.
pub fn json(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, record) {
        // Only a type that JSON cannot express fails here, and none of ours is such a type.
        out.truncate(start);
        unreachable!("a record that is no JSON: {error}");
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests;
