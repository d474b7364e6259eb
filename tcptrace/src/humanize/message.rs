//! Messages on stderr about a run as a whole.

use std::fmt::Write as _;

use crate::{
    events::{Start, Summary},
    humanize::{number::count_of, span::format_span},
};

/// Says at the start what is watched: how many sockets, and for which states and how long.
pub fn watching_message(start: &Start, namespaces: usize, watched: Option<&str>) -> String {
    let mut text = format!("watching {}", sockets_in(start, namespaces));
    if let Some(watched) = watched {
        let _infallible = write!(text, " for {watched}");
    }
    text
}

/// Says after `--once` what was looked at, and for which states and how long.
pub fn looked_at_message(start: &Start, namespaces: usize, watched: &str) -> String {
    format!("looked at {} for {watched}", sockets_in(start, namespaces))
}

/// Says what `--once` found: how many sockets are stuck, and how many others are in a watched
/// state but not proven to have been there for the threshold.
pub fn verdict_message(stuck: u64, others: usize, states: &str, threshold: &str) -> String {
    let mut text = if stuck == 0 { "nothing stuck".to_owned() } else { format!("{stuck} stuck") };
    if others > 0 {
        let _infallible =
            write!(text, "; {others} more in {states}, younger than {threshold} or of unknown age");
    }
    text
}

fn sockets_in(start: &Start, namespaces: usize) -> String {
    format!("{} in {}", count_of(start.sockets, "TCP socket"), count_of(namespaces, "namespace"))
}

/// Says at the end what the run came to.
pub fn totals_message(summary: &Summary) -> String {
    let Summary { transitions, lost, dropped, stuck, cleared, lives, duration_ms, .. } = summary;
    let mut text = format!("{} seen", count_of(*transitions, "transition"));
    if *stuck + *cleared > 0 {
        let _infallible = write!(text, ", {stuck} stuck, {cleared} cleared");
    }
    if *lives > 0 {
        let _infallible = write!(text, ", {lives} {} told", if *lives == 1 { "life" } else { "lives" });
    }
    if *lost > 0 {
        let _infallible = write!(text, ", {lost} lost");
    }
    if *dropped > 0 {
        let _infallible = write!(text, ", {dropped} not written (reader too slow)");
    }
    let _infallible = write!(text, " in {}", format_span(*duration_ms));
    text
}
