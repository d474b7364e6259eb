//! The BPF programs: loads and attaches them, drains their ring, decodes what they write, and
//! counts what was lost.

pub mod attach;
pub mod attach_targets;
pub mod attachment;
pub mod btf;
pub mod decode;
pub mod drain;
pub mod fallback;
pub mod helpers;
pub mod loader;
pub mod loss;
pub mod loss_reader;
pub mod no_btf;
pub mod object;
pub mod offsets;
#[cfg(test)]
mod offsets_tests;
pub mod programs;
pub mod ring_event;
pub mod skip_count;
pub mod state_change;
pub mod with_btf;
