//! The records of the JSON stream, each as one type: what `--json` writes, `--replay` reads, and
//! the JSON Schema describes.
//!
//! The doc comments of these types and of their fields are user documentation: the schema's
//! descriptions are made from them.

pub mod bounds;
pub mod cause;
pub mod cleared;
pub mod ending;
pub mod event_sink;
pub mod fields;
pub mod figures;
pub mod instant;
pub mod life;
pub mod lost;
pub mod name;
pub mod origin;
pub mod owner;
pub mod process;
pub mod record;
pub mod resync;
#[cfg(test)]
mod schema;
pub mod socket;
pub mod start;
pub mod state;
pub mod stuck;
pub mod summary;
pub mod time_in_state;
pub mod transition;
pub mod views;

pub use bounds::{LISTED, LONGEST_RECORD, TEXT_BYTES};
pub use cause::Cause;
pub use cleared::Cleared;
pub use ending::Ending;
pub use event_sink::EventSink;
pub use fields::{Fields, FromFields};
pub use figures::{Figures, ProcessFigures, SocketFigures, StuckFigures, TracerInfo};
pub use instant::{Instant, milliseconds, nanoseconds};
pub use life::{CloseReason, LifeRecord, Role};
pub use lost::{Lost, LostReason};
pub use name::Name;
pub use origin::{OriginHow, OriginRecord};
pub use owner::{Owner, OwnerHow};
pub use process::ProcessRecord;
pub use record::{Event, Record, SCHEMA_VERSION};
pub use resync::Resync;
pub use socket::{Family, SocketId, is_link_local};
pub use start::{KernelFeature, Start};
pub use state::State;
pub use stuck::{Listener, Peer, SocketDetails, Stuck};
pub use summary::Summary;
pub use time_in_state::TimeInState;
pub use transition::Transition;
pub use views::Views;
