//! Who is responsible for a socket, and what else a walk proves about it.

pub mod details;
pub mod ends;
pub mod responsible;
pub mod walk_index;
