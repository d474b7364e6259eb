//! tcptrace: which TCP sockets are stuck, since when, held by whom, and why.
//!
//! Data flows one way: [`sources`] feed the [`engine`], which emits [`events`]; [`outputs`] show them. [`host`] is all
//! that touches the kernel and `/proc`.

pub mod cli;
pub mod clock;
pub mod diagnostics;
pub mod engine;
pub mod events;
pub mod host;
pub mod humanize;
pub mod outputs;
pub mod sources;
pub mod terminal;
