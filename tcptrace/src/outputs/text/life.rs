//! A connection's life as a line: how long, whose, from where to where, how much each way, and what ended it.

use std::fmt::Write as _;

use crate::outputs::text::{Instant, RED, Text, YELLOW, left, named, right};
use crate::{
    diagnostics::harmless,
    events::{CloseReason, LifeRecord},
    outputs::text::{
        columns::{number, or_dash, span, tenths},
        words::add_process,
    },
};

impl Text {
    pub(crate) fn life_heading(&self, ends: &str) -> String {
        let width = self.layout.actor;
        let mut line =
            format!("{:8} {:>6} {:width$} {ends}{:>5} {:>5}", "TIME", "LIFE", "PROCESS/PID", "TX", "RX");
        if self.layout.is_roomy {
            line.push_str(&format!(" {:>4} {:>6}", "RETR", "RTT"));
        }
        line + " ENDED"
    }

    pub(crate) fn life(&mut self, line: &mut String, at: Instant, record: &LifeRecord) {
        let LifeRecord { socket, duration_ms, bytes_sent, bytes_received, owner, close_reason, .. } = record;
        let width = self.layout.actor;
        self.time(line, at);
        line.push(' ');
        right(line, 6, |line| or_dash(line, *duration_ms, lasted));
        line.push(' ');
        left(line, width, |line| {
            or_dash(line, owner.as_ref(), |line, owner| add_process(line, named(owner), width));
        });
        line.push(' ');
        self.ends(line, socket);
        right(line, 5, |line| or_dash(line, *bytes_sent, bytes));
        line.push(' ');
        right(line, 5, |line| or_dash(line, *bytes_received, bytes));
        if self.layout.is_roomy {
            line.push(' ');
            right(line, 4, |line| or_dash(line, record.retransmits, count));
            line.push(' ');
            right(line, 6, |line| or_dash(line, record.rtt_us, round_trip));
        }
        let (words, colour) = ended(*close_reason);
        line.push(' ');
        self.paint(line, colour, |line| line.push_str(words));
        if let Some(error) = record.error.as_ref().filter(|_| self.layout.is_roomy) {
            // A recording may hold any text here.
            self.add_if_it_fits(line, &format!(", {}", harmless(error)));
        }
    }
}

/// What ended it in nine columns, and in which colour.
const fn ended(reason: CloseReason) -> (&'static str, &'static str) {
    match reason {
        CloseReason::LocalClose => ("closed", ""),
        CloseReason::PeerClose => ("by peer", ""),
        CloseReason::ResetReceived => ("peer RST", RED),
        CloseReason::ResetSent => ("sent RST", YELLOW),
        CloseReason::Timeout => ("timed out", RED),
        CloseReason::Refused => ("refused", RED),
        CloseReason::Exit => ("exited", ""),
        CloseReason::Destroyed => ("destroyed", YELLOW),
        CloseReason::Unknown => ("unknown", ""),
    }
}

/// How long a connection lasted in six columns: many last for less than a millisecond.
fn lasted(line: &mut String, ms: f64) {
    if ms < 1.0 {
        let _infallible = write!(line, "{:.0}µs", ms * 1e3);
    } else {
        span(line, ms);
    }
}

/// A number in four columns: `9999`, `10k`, `999M`, `4G`.
fn count(line: &mut String, count: u32) {
    let _infallible = match count {
        0..10_000 => return number(line, count),
        10_000..1_000_000 => write!(line, "{}k", count / 1_000),
        1_000_000..1_000_000_000 => write!(line, "{}M", count / 1_000_000),
        _ => write!(line, "{}G", count / 1_000_000_000),
    };
}

/// A number of bytes in five columns: `512B`, `1.5K`, `999K`, `1.0M`; a K is 1024.
fn bytes(line: &mut String, count: u64) {
    let mut scaled = count as f64;
    let mut unit = 'B';
    for larger in ['K', 'M', 'G', 'T', 'P', 'E'] {
        if scaled < 1023.5 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, larger);
    }
    let _infallible = match unit {
        'B' => write!(line, "{count}B"),
        _ if scaled < 9.95 => write!(line, "{scaled:.1}{unit}"),
        _ => write!(line, "{scaled:.0}{unit}"),
    };
}

/// A round-trip time in six columns: `34µs`, `1.2ms`, `120ms`, `1.5s`.
fn round_trip(line: &mut String, us: u32) {
    match us {
        0..1_000 => {
            number(line, us);
            line.push_str("µs");
        }
        1_000..100_000 => tenths(line, f64::from(us) / 1e3, "ms"),
        _ => span(line, f64::from(us) / 1e3),
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
    fn bytes_have_a_unit_and_five_columns() {
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10_188, "9.9K"),
            (10_189, "10K"),
            (1_048_063, "1023K"),
            (1_048_064, "1.0M"),
            (1_048_576, "1.0M"),
            (5 << 30, "5.0G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(written(|line| bytes(line, count)), text, "{count}");
            assert!(text.len() <= 5);
        }
    }

    #[test]
    fn the_shortest_lives_are_told_in_microseconds() {
        for (ms, text) in [(0.043, "43µs"), (0.999, "999µs"), (1.0, "1.0ms"), (62_000.0, "1m02s")] {
            assert_eq!(written(|line| lasted(line, ms)), text);
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
            assert_eq!(written(|line| round_trip(line, us)), text, "{us}");
        }
    }
}
