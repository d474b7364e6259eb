//! Where the engine's input comes from: the live kernel, one snapshot of it, or a recording.

pub mod live;
pub mod recording;
pub mod replay;
pub mod snapshot;
