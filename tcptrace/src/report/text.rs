//! Records as text for people: one line each, aligned, what matters first.
//!
//! 80 columns hold a record with IPv4 addresses; where there is more room, or no terminal at all, nothing is
//! shortened. What a process chose (its name) is escaped, so that it cannot forge a line or move the cursor.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use jiff::tz::TimeZone;

use super::record::{
    Cleared, Event, Instant, Lost, LostReason, Name, Owner, Record, Resync, SocketId, Start, Stuck, Summary,
    Transition,
};
use crate::{cause::Cause, states::State};
use tcptrace_common::state;

/// From this width on there is room for both addresses.
const WIDE: u16 = 110;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// How to write text, and what has been written.
#[derive(Debug)]
pub struct Text {
    /// Columns of the terminal; `None` where stdout is none.
    width: Option<u16>,
    colour: bool,
    zone: TimeZone,
    transitions_headed: bool,
    stuck_headed: bool,
}

/// Which columns a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Transitions,
    Stuck,
}

impl Text {
    /// Text for a terminal of `width` columns, or for no terminal; times in `zone`.
    pub const fn new(width: Option<u16>, colour: bool, zone: TimeZone) -> Self {
        Self { width, colour, zone, transitions_headed: false, stuck_headed: false }
    }

    /// Appends a record's line, with a heading before the first one of its columns. `start` and `summary` have none: see
    /// [`welcome`] and [`farewell`].
    pub fn line(&mut self, record: &Record, out: &mut Vec<u8>) {
        let line = match &record.event {
            Event::Transition(transition) => {
                self.head(Layout::Transitions, out);
                self.transition(record.at, transition)
            }
            Event::Stuck(stuck) => {
                self.head(Layout::Stuck, out);
                self.stuck(record.at, stuck)
            }
            Event::Cleared(cleared) => {
                self.head(Layout::Stuck, out);
                self.cleared(record.at, cleared)
            }
            Event::Lost(lost) => self.notice(record.at, &lost_words(lost)),
            Event::Resync(resync) => self.notice(record.at, &resync_words(resync)),
            Event::Start(_) | Event::Summary(_) => return,
        };
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }

    fn head(&mut self, layout: Layout, out: &mut Vec<u8>) {
        let shown = match layout {
            Layout::Transitions => &mut self.transitions_headed,
            Layout::Stuck => &mut self.stuck_headed,
        };
        if std::mem::replace(shown, true) {
            return;
        }
        let local = self.local_heading();
        let process = self.process_width();
        let line = match layout {
            Layout::Transitions => format!(
                "{:time$} {local} {:21} {:10} {:10} {:>6} PROCESS/PID",
                "TIME",
                "REMOTE",
                "OLD",
                "NEW",
                "AFTER",
                time = if self.is_wide() { 12 } else { 8 }
            ),
            Layout::Stuck => format!(
                "{:8} {:8} {:process$} {:>5} {local} {:21} WHY",
                "TIME", "AGE", "PROCESS/PID", "FD", "REMOTE"
            ),
        };
        out.extend_from_slice(self.paint(BOLD, &line).as_bytes());
        out.push(b'\n');
    }

    fn transition(&self, at: Instant, record: &Transition) -> String {
        let Transition { socket, old_state, new_state, in_old_state_ms, owner, .. } = record;
        let after = in_old_state_ms.map_or_else(|| "-".to_owned(), span);
        let state = self.paint(state_colour(*new_state), &format!("{new_state:10}"));
        // Milliseconds and the whole name are for those who have room.
        let (time, room) = if self.is_wide() { ("%H:%M:%S%.3f", usize::MAX) } else { ("%H:%M:%S", 14) };
        format!(
            "{} {} {:21} {old_state:10} {state} {after:>6} {}",
            self.time(at, time),
            self.local(socket),
            remote(socket),
            owner.as_ref().map_or_else(|| "-".to_owned(), |owner| process(owner, room)),
        )
    }

    fn stuck(&self, at: Instant, record: &Stuck) -> String {
        let Stuck { socket, state, age_ms, age_max_ms, exact, cause, owners, .. } = record;
        let width = self.process_width();
        let (who, fd) = match owners.first() {
            Some(owner) => (process(owner, width), descriptors(owner, owners.len())),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let age = age(*age_ms, *age_max_ms, *exact);
        let mut line = format!(
            "{:8} {} {who:width$} {fd:>5} {} {:21} ",
            self.time(at, "%H:%M:%S"),
            self.paint(RED, &format!("{age:8}")),
            self.local(socket),
            remote(socket),
        );
        if state.0 != state::CLOSE_WAIT {
            let _infallible = write!(line, "{state}: ");
        }
        line.push_str(cause.words());
        self.add_if_it_fits(&mut line, &detail(record));
        line
    }

    fn cleared(&self, at: Instant, record: &Cleared) -> String {
        let Cleared { socket, new_state, in_state_ms, by, .. } = record;
        let width = self.process_width();
        let who = by.as_ref().map_or_else(|| "-".to_owned(), |owner| process(owner, width));
        let mut line = format!(
            "{:8} {} {who:width$} {:>5} {} {:21} after {}",
            self.time(at, "%H:%M:%S"),
            self.paint(GREEN, "cleared "),
            "-",
            self.local(socket),
            remote(socket),
            span(in_state_ms),
        );
        self.add_if_it_fits(&mut line, &format!(", now {new_state}"));
        line
    }

    fn add_if_it_fits(&self, line: &mut String, more: &str) {
        if self.width.is_none_or(|width| visible(line) + more.len() <= width.into()) {
            line.push_str(more);
        }
    }

    fn notice(&self, at: Instant, words: &str) -> String {
        format!("{:8} {}", self.time(at, "%H:%M:%S"), self.paint(YELLOW, words))
    }

    fn time(&self, at: Instant, format: &str) -> String {
        at.timestamp().to_zoned(self.zone.clone()).strftime(format).to_string()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !colour.is_empty() { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    fn is_wide(&self) -> bool {
        self.width.is_none_or(|width| width >= WIDE)
    }

    fn process_width(&self) -> usize {
        if self.is_wide() { 20 } else { 15 }
    }

    fn local_heading(&self) -> String {
        if self.is_wide() { format!("{:21}", "LOCAL") } else { "LPORT".to_owned() }
    }

    fn local(&self, socket: &SocketId) -> String {
        if self.is_wide() {
            format!("{:21}", end(socket.local_addr, socket.local_port))
        } else {
            format!("{:>5}", port(socket.local_port))
        }
    }
}

/// What to say on stderr when starting: that it watches, how much, and for what.
pub fn welcome(start: &Start, namespaces: usize, watched: Option<(&[State], &str)>) -> String {
    let sockets = plural(start.sockets, "TCP socket");
    let namespaces = plural(namespaces, "namespace");
    let mut text = format!("watching {sockets} in {namespaces}");
    if let Some((states, threshold)) = watched {
        let states: Vec<_> = states.iter().map(|state| state.ss_name()).collect();
        let _infallible = write!(text, " for {threshold} in {}", states.join(", "));
    }
    text
}

/// What to say on stderr at the end.
pub fn farewell(summary: &Summary) -> String {
    let Summary { transitions, lost, dropped, stuck, cleared, duration_ms, .. } = summary;
    let mut text = format!("{} seen", plural(*transitions as usize, "transition"));
    if *stuck + *cleared > 0 {
        let _infallible = write!(text, ", {stuck} stuck, {cleared} cleared");
    }
    if *lost > 0 {
        let _infallible = write!(text, ", {lost} lost");
    }
    if *dropped > 0 {
        let _infallible = write!(text, ", {dropped} not written (reader too slow)");
    }
    let _infallible = write!(text, " in {}", span(duration_ms));
    text
}

/// A length of time in six columns, or seven from a hundred days on: `350ms`, `30.0s`, `1m02s`, `5h02m`, `3d04h`.
pub fn span(ms: impl std::borrow::Borrow<f64>) -> String {
    let ms = *ms.borrow();
    let seconds = (ms / 1000.0) as u64;
    match seconds {
        _ if ms < 10.0 => format!("{ms:.1}ms"),
        0 => format!("{}ms", ms as u64),
        1..60 => format!("{:.1}s", (ms / 100.0).floor() / 10.0),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// An age: `30.0s` where it is exact, `30.0s-5h02m` or `30.0s+` where it is a bracket.
fn age(at_least_ms: f64, at_most_ms: Option<f64>, exact: bool) -> String {
    let least = span(at_least_ms);
    match at_most_ms.map(span) {
        _ if exact => least,
        Some(most) if most == least => least,
        Some(most) => format!("{least}-{most}"),
        None => format!("{least}+"),
    }
}

/// What else there is to say about a stuck socket, where there is room.
fn detail(record: &Stuck) -> String {
    match record.cause {
        Cause::DataUnread => format!(": {} wait", plural(record.recv_queue as usize, "byte")),
        Cause::Sending => format!(": {} unacknowledged", plural(record.send_queue as usize, "byte")),
        Cause::NotClosed => ": all read, nothing to send".to_owned(),
        Cause::EofUnread => ": all data read, the end is not".to_owned(),
        Cause::NotAccepted => ": waits in the accept queue".to_owned(),
        Cause::Peer | Cause::Unknown => String::new(),
    }
}

/// `57`, or `57+2` where two more descriptors hold the socket, in this process or in others.
fn descriptors(first: &Owner, count: usize) -> String {
    let mut text = first.fd.map_or_else(|| "-".to_owned(), |fd| fd.to_string());
    if count > 1 {
        let _infallible = write!(text, "+{}", count - 1);
    }
    text
}

fn lost_words(lost: &Lost) -> String {
    match lost.reason {
        LostReason::RingFull => format!(
            "lost {}: the kernel could not hand them over ({} in all)",
            plural(lost.lost as usize, "transition"),
            lost.lost_total
        ),
        LostReason::ReaderSlow => format!(
            "left out {}: the reader was too slow ({} in all)",
            plural(lost.lost as usize, "record"),
            lost.lost_total
        ),
    }
}

fn resync_words(resync: &Resync) -> String {
    format!("looked at all {} again: {} repaired", plural(resync.sockets, "socket"), resync.repaired)
}

const fn state_colour(new_state: State) -> &'static str {
    match new_state.0 {
        state::CLOSE_WAIT => YELLOW,
        _ => "",
    }
}

/// `name/pid` in at most `width` columns, if the pid leaves room.
fn process(owner: &Owner, width: usize) -> String {
    let pid = owner.pid.to_string();
    let Some(comm) = &owner.comm else { return format!("?/{pid}") };
    let room = width.saturating_sub(pid.len() + 1).max(1);
    let name: String = printable(comm).chars().take(room).collect();
    format!("{name}/{pid}")
}

/// A process's name with everything escaped that is not a visible character.
fn printable(name: &Name) -> String {
    let mut text = String::new();
    for chunk in name.bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn remote(socket: &SocketId) -> String {
    if socket.remote_port == 0 && socket.remote_addr.is_unspecified() {
        "*".to_owned()
    } else {
        end(socket.remote_addr, socket.remote_port)
    }
}

fn end(address: IpAddr, port_number: u16) -> String {
    if port_number == 0 { format!("{address}:*") } else { SocketAddr::new(address, port_number).to_string() }
}

fn port(number: u16) -> String {
    if number == 0 { "*".to_owned() } else { number.to_string() }
}

fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Columns that a line takes: its characters without the colours.
fn visible(line: &str) -> usize {
    let mut columns = 0;
    let mut in_colour = false;
    for c in line.chars() {
        match (in_colour, c) {
            (false, '\x1b') => in_colour = true,
            (true, 'm') => in_colour = false,
            (false, _) => columns += 1,
            (true, _) => {}
        }
    }
    columns
}
