//! tcptrace: which TCP sockets are stuck, since when, held by whom, and why.
//!
//! Data flows one way: [`sources`] feed the [`engine`], which emits [`events`]; [`outputs`] show
//! them. [`host`] is all that touches the kernel and `/proc`.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::float_cmp,
        clippy::large_types_passed_by_value,
        clippy::match_same_arms,
        clippy::unchecked_time_subtraction,
        clippy::unnecessary_wraps,
        reason = "tests count in small numbers, compare what is exact, and take records by value to change them"
    )
)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod diagnostics;
pub mod engine;
pub mod events;
pub mod host;
pub mod humanize;
pub mod outputs;
pub mod sources;
pub mod terminal;
#[cfg(test)]
mod testing;
