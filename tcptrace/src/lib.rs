//! tcptrace: which TCP sockets are stuck, since when, held by whom, and why.
//!
//! A transition flows one way: [`kernel`] (the ring) → [`decode`] → [`tracker`] → [`report`] → [`sink`] → [`output`];
//! [`session`] turns the crank. What decides — [`age`], [`cause`], [`tracker`], [`report`] — is pure.

pub mod age;
pub mod cause;
pub mod cli;
pub mod clock;
pub mod decode;
pub mod diagnostics;
pub mod filter;
pub mod input;
pub mod kernel;
pub mod metrics;
pub mod once;
pub mod output;
pub mod recording;
pub mod replay;
pub mod report;
pub mod rollup;
pub mod scheduling;
pub mod session;
pub mod sight;
pub mod sink;
pub mod states;
pub mod terminal;
pub mod tracker;
pub mod walk;
