//! Who is responsible for a socket, from what a walk has seen.

pub mod ends;
pub mod responsible;
pub mod walk_index;
