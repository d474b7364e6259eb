//! Where events go: each form in a folder of its own.

pub mod dotted;
pub mod json;
pub mod prometheus;
pub mod publisher;
pub mod text;
pub mod timestamp_cache;
pub mod writer;
