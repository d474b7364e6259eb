//! Lengths of time, in at most six columns.

use std::fmt::Write as _;

use crate::humanize::number::{truncate, write_number, write_tenths};

/// Formats a length of time, given in milliseconds: `350ms`, `30.0s`, `1m02s`, `5h02m`, `3d04h`,
/// `100d`.
pub fn format_span(ms: f64) -> String {
    let mut text = String::new();
    write_span(&mut text, ms);
    text
}

/// Appends a length of time as [`format_span`] formats it.
pub(crate) fn write_span(line: &mut String, ms: f64) {
    let seconds = truncate(ms / 1000.0);
    let _infallible = match seconds {
        _ if ms < 10.0 => return write_tenths(line, ms, "ms"),
        0 => write!(line, "{}ms", truncate(ms)),
        1..60 => return write_tenths(line, (ms / 100.0).floor() / 10.0, "s"),
        60..3_600 => write!(line, "{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => write!(line, "{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        86_400..8_640_000 => write!(line, "{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
        _ => write!(line, "{}d", seconds / 86_400),
    };
}

/// Appends how long a connection lasted, given in milliseconds. Many last less than one: those are
/// in microseconds, `43µs`.
pub(crate) fn write_lifetime(line: &mut String, ms: f64) {
    if ms < 1.0 {
        let _infallible = write!(line, "{:.0}µs", ms * 1e3);
    } else {
        write_span(line, ms);
    }
}

/// Appends a round-trip time, given in microseconds: `34µs`, `1.2ms`, `120ms`, `1.5s`.
pub(crate) fn write_round_trip(line: &mut String, us: u32) {
    match us {
        0..1_000 => {
            write_number(line, us);
            line.push_str("µs");
        }
        1_000..100_000 => write_tenths(line, f64::from(us) / 1e3, "ms"),
        _ => write_span(line, f64::from(us) / 1e3),
    }
}

/// How long a socket has been in its state, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    /// At least this long.
    pub(crate) at_least_ms: f64,
    /// At most this long; `None` if nothing proves a bound.
    pub(crate) at_most_ms: Option<f64>,
    /// Whether it was seen entering the state.
    pub(crate) exact: bool,
}

impl Age {
    /// Formats an age: `30.0s` if it is exact, else its range, `30.0s-5h02m`. A range that is
    /// wider than `width` columns or has no upper bound shows the lower bound only: `30.0s+`.
    pub(crate) fn fit_width(self, width: usize) -> String {
        let least = format_span(self.at_least_ms);
        let range = self
            .at_most_ms
            .map(format_span)
            .map(|most| if most == least { least.clone() } else { format!("{least}-{most}") });
        match range {
            _ if self.exact => least,
            Some(range) if range.len() <= width => range,
            _ => format!("{least}+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut line = String::new();
        write(&mut line);
        line
    }

    #[test]
    fn spans_are_short_and_never_too_long() {
        for (ms, text) in [
            (0.04, "0.0ms"),
            (9.94, "9.9ms"),
            (350.0, "350ms"),
            (999.4, "999ms"),
            (999.9, "999ms"),
            (1_000.0, "1.0s"),
            (30_000.4, "30.0s"),
            (59_999.0, "59.9s"),
            (62_000.0, "1m02s"),
            (18_120_000.0, "5h02m"),
            (273_600_000.0, "3d04h"),
        ] {
            assert_eq!(format_span(ms), text, "{ms}");
        }
    }

    #[test]
    fn the_shortest_lives_are_in_microseconds() {
        for (ms, text) in [(0.043, "43µs"), (0.999, "999µs"), (1.0, "1.0ms"), (62_000.0, "1m02s")] {
            assert_eq!(written(|line| write_lifetime(line, ms)), text);
        }
    }

    #[test]
    fn round_trips_take_six_columns() {
        for (us, text) in [
            (1, "1µs"),
            (999, "999µs"),
            (1_000, "1.0ms"),
            (99_949, "99.9ms"),
            (100_000, "100ms"),
            (1_500_000, "1.5s"),
        ] {
            assert_eq!(written(|line| write_round_trip(line, us)), text, "{us}");
        }
    }
}
