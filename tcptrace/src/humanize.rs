//! Words and numbers for people: what messages on stderr, text, metrics, and any later screen or
//! page share.

pub mod interface;
pub mod message;
pub mod name;
pub mod number;
pub mod span;
pub mod width;
pub mod words;
