//! The BPF programs: loading, attaching, the ring, and the counts of what was lost.

pub mod attach_targets;
pub mod btf;
pub mod decode;
pub mod drain;
pub mod load;
pub mod loader;
pub mod loss;
pub mod no_btf;
pub mod offsets;
#[cfg(test)]
mod offsets_tests;
