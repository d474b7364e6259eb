//! The records of the JSON stream, each as one type.

pub mod bounds;
pub mod figures;
pub mod life;
pub mod process;
pub mod record;
pub mod state;
pub mod views;

pub use bounds::{LISTED, LONGEST_RECORD, TEXT_BYTES};
pub use figures::{Figures, ProcessFigures, SocketFigures, StuckFigures, TracerInfo};
pub use life::LifeRecord;
pub use process::ProcessRecord;
pub use record::{
    Cleared, Event, Family, Instant, Listener, Lost, LostReason, Name, OriginHow, OriginRecord, Owner,
    OwnerHow, Peer, Record, Resync, SCHEMA_VERSION, SocketId, Start, Stuck, Summary, Transition,
    milliseconds, nanoseconds,
};
pub use state::State;
pub use views::Views;
