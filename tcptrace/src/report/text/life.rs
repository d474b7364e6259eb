//! A connection's life as a line: how long, whose, from where to where, how much each way, and what ended it.

use super::{Instant, RED, Text, YELLOW, named, process, remote};
use crate::{
    report::{LifeRecord, words::span},
    tracker::CloseReason,
};

impl Text {
    pub(super) fn life_heading(&self) -> String {
        let (local, process) = (self.local_heading(), self.life_process_width());
        let mut line = format!(
            "{:8} {:>6} {:process$} {local} {:21} {:>5} {:>5}",
            "TIME", "LIFE", "PROCESS/PID", "REMOTE", "TX", "RX"
        );
        if self.is_wide() {
            line.push_str(&format!(" {:>4} {:>6}", "RETR", "RTT"));
        }
        line + " ENDED"
    }

    pub(super) fn life(&self, at: Instant, record: &LifeRecord) -> String {
        let LifeRecord { socket, duration_ms, bytes_sent, bytes_received, owner, close_reason, .. } = record;
        let width = self.life_process_width();
        let life = duration_ms.map_or_else(|| "-".to_owned(), lasted);
        let who = owner.as_ref().map_or_else(|| "-".to_owned(), |owner| process(named(owner), width));
        let bytes = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
        let mut line = format!(
            "{:8} {life:>6} {who:width$} {} {:21} {:>5} {:>5}",
            self.time(at, "%H:%M:%S"),
            self.local(socket),
            remote(socket),
            bytes(*bytes_sent),
            bytes(*bytes_received),
        );
        if self.is_wide() {
            let retransmits = record.retransmits.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let rtt = record.rtt_us.map_or_else(|| "-".to_owned(), round_trip);
            line.push_str(&format!(" {retransmits:>4} {rtt:>6}"));
        }
        let (words, colour) = ended(*close_reason);
        line.push(' ');
        line.push_str(&self.paint(colour, words));
        if let Some(error) = record.error.as_ref().filter(|_| self.is_wide()) {
            self.add_if_it_fits(&mut line, &format!(", {error}"));
        }
        line
    }

    /// Narrower than in the other views: there is more to show.
    fn life_process_width(&self) -> usize {
        if self.is_wide() { 16 } else { 14 }
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
fn lasted(ms: impl std::borrow::Borrow<f64>) -> String {
    let ms = *ms.borrow();
    if ms < 1.0 { format!("{:.0}µs", ms * 1e3) } else { span(ms) }
}

/// A number of bytes in five columns: `512B`, `1.5K`, `999K`, `1.0M`; a K is 1024.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count}B");
    }
    let mut scaled = count as f64;
    let mut unit = 'B';
    for larger in ['K', 'M', 'G', 'T', 'P', 'E'] {
        if scaled < 1023.5 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, larger);
    }
    if scaled < 9.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// A round-trip time in six columns: `34µs`, `1.2ms`, `120ms`, `1.5s`.
pub(super) fn round_trip(us: u32) -> String {
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..100_000 => format!("{:.1}ms", f64::from(us) / 1e3),
        _ => span(f64::from(us) / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(bytes(count), text, "{count}");
            assert!(text.len() <= 5);
        }
    }

    #[test]
    fn the_shortest_lives_are_told_in_microseconds() {
        for (ms, text) in [(0.043, "43µs"), (0.999, "999µs"), (1.0, "1.0ms"), (62_000.0, "1m02s")] {
            assert_eq!(lasted(ms), text);
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
            assert_eq!(round_trip(us), text, "{us}");
        }
    }
}
