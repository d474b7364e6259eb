//! What stands in a column, appended to its line: every line has several, and none of them allocates.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    events::{Name, SocketId, is_link_local},
    outputs::{
        dotted::Dotted,
        text::words::{printable, visible},
    },
};

/// As wide as the widest column.
const BLANKS: &str = "                                                                                ";

/// Appends what `write` does, and behind it as many blanks as fill `width` columns, 80 at most.
pub(crate) fn left(line: &mut String, width: usize, write: impl FnOnce(&mut String)) {
    let begin = line.len();
    write(line);
    line.push_str(blanks(columns(&line[begin..]), width));
}

/// Appends what `write` does, behind as many blanks as fill `width` columns, 80 at most.
pub(crate) fn right(line: &mut String, width: usize, write: impl FnOnce(&mut String)) {
    let begin = line.len();
    write(line);
    line.insert_str(begin, blanks(columns(&line[begin..]), width));
}

/// Appends the end of a socket that `write` writes, and as many blanks as fill `width` columns. If the end has more, its
/// port stands there and that there is more of it: `[…]:443`. Returns whether it fits.
pub(crate) fn cell(
    line: &mut String,
    width: usize,
    port_number: u16,
    write: impl FnOnce(&mut String),
) -> bool {
    let begin = line.len();
    write(line);
    let mut taken = columns(&line[begin..]);
    let fits = taken <= width;
    if !fits {
        line.truncate(begin);
        line.push_str("[…]:");
        port(line, port_number);
        taken = columns(&line[begin..]);
    }
    line.push_str(blanks(taken, width));
    fits
}

fn blanks(taken: usize, width: usize) -> &'static str {
    &BLANKS[..width.min(BLANKS.len()).saturating_sub(taken)]
}

/// Columns of a text without colours: most are ASCII, a column for each byte.
fn columns(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { visible(text) }
}

pub(crate) fn number(line: &mut String, number: impl itoa::Integer) {
    line.push_str(itoa::Buffer::new().format(number));
}

/// What `write` makes of a value; `-` where there is none.
pub(crate) fn or_dash<T>(line: &mut String, value: Option<T>, write: impl FnOnce(&mut String, T)) {
    match value {
        Some(value) => write(line, value),
        None => line.push('-'),
    }
}

/// A length of time in six columns: see [`words::span`](super::words::span).
pub(crate) fn span(line: &mut String, ms: f64) {
    let seconds = (ms / 1000.0) as u64;
    let _infallible = match seconds {
        _ if ms < 10.0 => return tenths(line, ms, "ms"),
        0 => write!(line, "{}ms", ms as u64),
        1..60 => return tenths(line, (ms / 100.0).floor() / 10.0, "s"),
        60..3_600 => write!(line, "{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => write!(line, "{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        86_400..8_640_000 => write!(line, "{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
        _ => write!(line, "{}d", seconds / 86_400),
    };
}

/// Appends what `{:.1}` makes of a number below a thousand, which takes that several times as long.
pub(crate) fn tenths(line: &mut String, amount: f64, unit: &str) {
    let thousandths = (amount * 1_000.0 + 0.5) as u32;
    // Halfway between two tenths it takes every digit of the number to say which is nearer.
    if amount > 0.0 && thousandths % 100 != 50 {
        let nearest = (thousandths + 50) / 100;
        number(line, nearest / 10);
        line.push('.');
        number(line, nearest % 10);
    } else {
        let _infallible = write!(line, "{amount:.1}");
    }
    line.push_str(unit);
}

/// Names the interfaces that link-local addresses are on.
#[derive(Clone, Copy, Debug)]
pub struct Zones {
    /// The network namespace that the names are of, by its inode number.
    pub netns: u32,
    /// The name of the interface with this index in that namespace.
    pub name: fn(u16) -> Option<Name>,
}

/// The zone of a socket's link-local addresses: `%eth0`, or `%3` if the interface has no name here; empty if no end has one.
pub(crate) fn zone(zones: Option<Zones>, socket: &SocketId) -> String {
    let Some(index) = socket.interface else { return String::new() };
    match zones.filter(|zones| socket.netns == Some(zones.netns)).and_then(|zones| (zones.name)(index)) {
        Some(name) => format!("%{}", printable(&name)),
        None => format!("%{index}"),
    }
}

/// A socket's other end; a listener has none.
pub(crate) fn remote(line: &mut String, socket: &SocketId, zone: &str) {
    if socket.remote_port == 0 && socket.remote_addr.is_unspecified() {
        line.push('*');
    } else {
        end(line, socket.remote_addr, zone, socket.remote_port);
    }
}

/// One end of a socket, with its zone if it is link-local; port 0 is any.
pub(crate) fn end(line: &mut String, address: IpAddr, zone: &str, port_number: u16) {
    match address {
        IpAddr::V4(v4) => {
            line.push_str(Dotted::of(v4).text());
        }
        IpAddr::V6(v6) => {
            let zone = if is_link_local(address) { zone } else { "" };
            let _infallible = write!(line, "[{v6}{zone}]");
        }
    }
    line.push(':');
    port(line, port_number);
}

/// A port; 0 is any.
pub(crate) fn port(line: &mut String, port_number: u16) {
    if port_number == 0 { line.push('*') } else { number(line, port_number) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenths_of(amount: f64) -> String {
        let mut line = String::new();
        tenths(&mut line, amount, "s");
        line
    }

    #[test]
    fn every_thousandth_is_rounded_as_format_does() {
        for thousandths in 0..100_000 {
            let amount = f64::from(thousandths) / 1_000.0;
            assert_eq!(tenths_of(amount), format!("{amount:.1}s"));
        }
    }

    proptest! {
        #[test]
        fn so_is_any_number_and_those_next_to_a_half(amount in -1.0..1_000.0, twentieth in 0_u32..20_000) {
            let half = f64::from(twentieth) / 20.0;
            for amount in [amount, half, half.next_up(), half.next_down()] {
                prop_assert_eq!(tenths_of(amount), format!("{amount:.1}s"));
            }
        }
    }
}
