//! Records as text for people: aligned, what matters first, and never thousands of lines.
//!
//! A record is one line where that fits the terminal, else it goes on, indented, on the next: no line is wider than the
//! terminal (`layout.rs`). Without a terminal, every record is one line and nothing is shortened. Records of the stuck
//! view wait up to a second for others, and many that have everything that matters in common become one line
//! (`group.rs`).

pub mod columns;
pub mod fold;
pub mod group;
pub mod layout;
pub mod life;
pub mod process;
pub mod stuck;
pub mod transition;
pub mod words;

use std::cmp::Reverse;

use jiff::{Timestamp, tz::TimeZone};

use self::fold::fold;
use self::layout::{Ends, LONG, Layout, Needs};
use self::{
    columns::{Zones, cell, end, left, port, remote, right, zone},
    group::{FEW, group},
    words::{Holders, lost_words, resync_words, visible},
};
use crate::{
    events::{Cleared, Event, Instant, Name, Owner, ProcessRecord, Record, SocketId, Stuck},
    outputs::timestamp_cache::Second,
};

/// How long the first one waits for more like it, nanoseconds.
const GATHERING_NS: u64 = 100_000_000;

/// Between two times at which what has waited is written, nanoseconds.
const SETTLING_NS: u64 = 1_000_000_000;

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
    needs: Needs,
    layout: Layout,
    colour: bool,
    zone: TimeZone,
    /// The names of interfaces, where they are known.
    zones: Option<Zones>,
    second: Second,
    /// After how many lines a heading comes again; `None`: never.
    screenful: Option<u64>,
    /// The line under way; empty between two.
    line: String,
    /// What goes on the line after it; empty if nothing does.
    below: String,
    /// Lines written; and for each view how many there were before its last heading, and what that was.
    lines: u64,
    headed: [Option<(u64, Layout)>; 3],
    waiting: Waiting,
    /// When what had waited was last written, `CLOCK_MONOTONIC` nanoseconds.
    written_ns: u64,
}

/// Records that wait for others to be put together with.
#[derive(Debug, Default)]
struct Waiting {
    /// When the first of them happened, `CLOCK_MONOTONIC` nanoseconds.
    since_ns: Option<u64>,
    /// As they came: thousands of them are not small.
    stuck: Vec<(Instant, Box<Stuck>)>,
    cleared: Vec<(Instant, Cleared)>,
    processes: Vec<(Instant, ProcessRecord)>,
}

impl Waiting {
    /// Takes in a record that waits for others; those of the other views and notices never do.
    fn add(&mut self, Record { at, event }: Record) {
        self.since_ns.get_or_insert(at.mono_ns);
        match event {
            Event::Stuck(mut stuck) => {
                put_requested_first(&mut stuck);
                self.stuck.push((at, stuck));
            }
            Event::Cleared(cleared) => self.cleared.push((at, cleared)),
            Event::Process(process) => self.processes.push((at, process)),
            _ => {}
        }
    }
}

/// Which columns a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Transitions,
    Stuck,
    Lives,
}

impl Text {
    /// Text for a terminal of `width` columns, or for no terminal; times in `zone`.
    pub fn new(width: Option<u16>, colour: bool, zone: TimeZone) -> Self {
        Self {
            width,
            needs: Needs::default(),
            layout: Layout::of(width, Needs::default()),
            colour,
            zone,
            zones: None,
            second: Second::default(),
            screenful: None,
            line: String::new(),
            below: String::new(),
            lines: 0,
            headed: [None; 3],
            waiting: Waiting::default(),
            written_ns: 0,
        }
    }

    /// Names the interfaces of link-local addresses.
    #[must_use]
    pub fn with_zones(self, zones: Option<Zones>) -> Self {
        Self { zones, ..self }
    }

    /// Lays out the lines to come for a terminal of this size. 0 is a size that the terminal does not know.
    ///
    /// On a terminal, headings come again before they are out of sight.
    pub fn fit(&mut self, columns: u16, rows: u16) {
        self.screenful = (rows > 0).then(|| u64::from(rows.saturating_sub(2)).max(10));
        if self.width != Some(columns) {
            self.width = Some(columns);
            self.layout = Layout::of(self.width, self.needs);
        }
    }

    /// Takes a record: appends its line, with a heading before the first one of its columns, or lets it wait until
    /// [`Self::settle`]. `start` and `summary` have none: see [`welcome`](words::welcome) and
    /// [`farewell`](words::farewell).
    pub fn take(&mut self, record: Record, out: &mut Vec<u8>) {
        let at = record.at;
        match &record.event {
            Event::Transition(transition) => {
                self.make_room(&transition.socket);
                self.head(View::Transitions, out);
                self.put(out, |text, line| text.transition(line, at, transition));
            }
            Event::Life(life) => {
                self.make_room(&life.socket);
                self.head(View::Lives, out);
                self.put(out, |text, line| text.life(line, at, life));
            }
            Event::Lost(lost) => self.put(out, |text, line| text.notice(line, at, &lost_words(lost))),
            Event::Resync(resync) => {
                self.put(out, |text, line| text.notice(line, at, &resync_words(resync)));
            }
            Event::Stuck(_) | Event::Cleared(_) | Event::Process(_) => self.waiting.add(record),
            // What is found is for recordings.
            Event::Start(_) | Event::Found(_) | Event::Summary(_) => {}
        }
    }

    /// Appends the line that `write` makes, and the line below it if it says what goes there. Either goes on, indented, on
    /// the next where it is wider than the terminal.
    fn put(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Self, &mut String)) {
        let mut line = std::mem::take(&mut self.line);
        write(self, &mut line);
        self.append(line.trim_end(), out);
        line.clear();
        self.line = line;
        if !self.below.is_empty() {
            let below = std::mem::take(&mut self.below);
            self.append(&format!("{:1$}{below}", "", self.layout.indent()), out);
        }
    }

    fn append(&mut self, line: &str, out: &mut Vec<u8>) {
        match self.layout.width {
            // A line has no fewer bytes than columns.
            Some(width) if line.len() > width && visible(line) > width => {
                self.lines += fold(line, width, self.layout.indent(), out);
            }
            _ => {
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
                self.lines += 1;
            }
        }
    }

    /// Widens the columns of both ends if those of this socket take more.
    fn make_room(&mut self, socket: &SocketId) {
        let is_ipv4 = socket.local_addr.is_ipv4() && socket.remote_addr.is_ipv4();
        if is_ipv4 || self.needs.end >= LONG && socket.interface.is_none() {
            return;
        }
        let zone = zone(self.zones, socket);
        let mut text = String::new();
        end(&mut text, socket.local_addr, &zone, socket.local_port);
        let mut needs = self.needs;
        needs.end(text.len());
        text.clear();
        remote(&mut text, socket, &zone);
        needs.end(text.len());
        self.widen(needs);
    }

    fn widen(&mut self, needs: Needs) {
        if needs != self.needs {
            self.needs = needs;
            self.layout = Layout::of(self.width, needs);
        }
    }

    /// When what waits is to be written, `CLOCK_MONOTONIC` nanoseconds: soon after the first of it, but some time after
    /// the last lines, so that a flood becomes a few.
    pub fn due_ns(&self) -> Option<u64> {
        let since_ns = self.waiting.since_ns?;
        Some(since_ns.saturating_add(GATHERING_NS).max(self.ready_ns()))
    }

    /// When what waits can be written at the earliest, `CLOCK_MONOTONIC` nanoseconds.
    pub const fn ready_ns(&self) -> u64 {
        self.written_ns.saturating_add(SETTLING_NS)
    }

    /// Appends the lines of what has waited long enough by now.
    pub fn settle(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if self.due_ns().is_some_and(|due| due <= now_ns) {
            self.settle_all(now_ns, out);
        }
    }

    /// Appends the lines of all that waits.
    pub fn settle_all(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.written_ns = now_ns;
        let Waiting { mut stuck, cleared, processes, .. } = std::mem::take(&mut self.waiting);
        stuck.sort_by_cached_key(|(at, one)| {
            // In the order of the times that are shown, by process, the oldest first.
            let first = one.details.owners.first();
            let tenths = (one.age_ms / 100.0) as u64;
            let pid = first.map_or(u32::MAX, |owner| owner.pid);
            (at.wall_ns.div_euclid(1_000_000_000), pid, Reverse(tenths), first.and_then(|owner| owner.fd))
        });
        if !(stuck.is_empty() && cleared.is_empty()) {
            for socket in
                stuck.iter().map(|(_, one)| &one.socket).chain(cleared.iter().map(|(_, one)| &one.socket))
            {
                self.make_room(socket);
            }
            let mut needs = self.needs;
            for holders in stuck.iter().map(|(_, one)| Holders::of(one)) {
                needs.descriptor(holders.descriptors().len());
                needs.process(holders.named(0).len());
            }
            self.widen(needs);
            self.head(View::Stuck, out);
        }
        for group in group(stuck) {
            match &group.1[..] {
                few if few.len() <= FEW => {
                    few.iter().for_each(|(at, one)| self.put(out, |text, line| text.stuck(line, *at, one)));
                }
                _ => self.put(out, |text, line| text.many_stuck(line, &group)),
            }
        }
        for group in group(cleared) {
            match &group.1[..] {
                few if few.len() <= FEW => {
                    few.iter().for_each(|(at, one)| self.put(out, |text, line| text.cleared(line, *at, one)));
                }
                _ => self.put(out, |text, line| text.many_cleared(line, &group)),
            }
        }
        self.processes(processes, out);
    }

    /// Writes a view's heading, unless the last one is in sight and says the same.
    fn head(&mut self, view: View, out: &mut Vec<u8>) {
        let is_in_sight = |at: u64| self.screenful.is_none_or(|screenful| self.lines < at + screenful);
        let Layout { age, process, descriptor, is_roomy, .. } = self.layout;
        if let Some((at, of)) = &self.headed[view as usize]
            && is_in_sight(*at)
            && *of == self.layout
        {
            return;
        }
        self.headed[view as usize] = Some((self.lines, self.layout));
        let ends = self.layout.ends_heading();
        let heading = match view {
            View::Transitions => format!(
                "{:time$} {ends}{:10} {:10} {:>6} PROCESS/PID",
                "TIME",
                "OLD",
                "NEW",
                "AFTER",
                time = if is_roomy { 12 } else { 8 }
            ),
            View::Stuck => format!(
                "{:8} {:age$} {:process$} {:>descriptor$} {ends}WHY",
                "TIME",
                "AGE",
                // A wide descriptor takes columns of it.
                if process < 11 { "PROCESS" } else { "PROCESS/PID" },
                "FD"
            ),
            View::Lives => self.life_heading(&ends),
        };
        if self.layout.ends == Ends::Below {
            self.below = "LPORT->REMOTE".to_owned();
        }
        self.put(out, |text, line| text.paint(line, BOLD, |line| line.push_str(&heading)));
    }

    fn add_if_it_fits(&self, line: &mut String, more: &str) {
        if self.layout.fits(visible(line) + visible(more)) {
            line.push_str(more);
        }
    }

    fn notice(&mut self, line: &mut String, at: Instant, words: &str) {
        self.time(line, at);
        line.push(' ');
        self.paint(line, YELLOW, |line| line.push_str(words));
    }

    /// Appends the time of day, and returns the nanoseconds since that second began.
    fn time(&mut self, line: &mut String, at: Instant) -> u32 {
        let zoned =
            |timestamp: Timestamp| timestamp.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string();
        let (second, nanosecond) = self.second.of(at, zoned);
        line.push_str(second);
        nanosecond
    }

    /// Appends what `write` does, in that colour.
    fn paint(&self, line: &mut String, colour: &str, write: impl FnOnce(&mut String)) {
        let is_coloured = self.colour && !colour.is_empty();
        line.push_str(if is_coloured { colour } else { "" });
        write(line);
        line.push_str(if is_coloured { PLAIN } else { "" });
    }

    /// Appends the columns of both ends, and a blank. What does not fit its column is written below, with the other end.
    fn ends(&mut self, line: &mut String, socket: &SocketId) {
        let zone = zone(self.zones, socket);
        let local = |line: &mut String| end(line, socket.local_addr, &zone, socket.local_port);
        let remote = |line: &mut String| remote(line, socket, &zone);
        let ports = (socket.local_port, socket.remote_port);
        self.both_ends(line, ports, local, remote);
    }

    /// Appends the columns of what `local` and `remote` write, with these ports.
    fn both_ends(
        &mut self,
        line: &mut String,
        (local_port, remote_port): (u16, u16),
        local: impl Fn(&mut String),
        remote: impl Fn(&mut String),
    ) {
        let fit = match self.layout.ends {
            Ends::Both(width) => {
                let local = cell(line, width, local_port, &local);
                line.push(' ');
                cell(line, width, remote_port, &remote) & local
            }
            Ends::Port(width) => {
                right(line, 5, |line| port(line, local_port));
                line.push(' ');
                cell(line, width, remote_port, &remote)
            }
            Ends::Below => false,
        };
        if self.layout.ends != Ends::Below {
            line.push(' ');
        }
        if !fit {
            local(&mut self.below);
            self.below.push_str("->");
            remote(&mut self.below);
            if !self.layout.fits(self.layout.indent() + visible(&self.below)) {
                self.below.clear();
                self.below.push(':');
                port(&mut self.below, local_port);
                self.below.push_str("->");
                remote(&mut self.below);
            }
        }
    }
}

/// Moves the owners that a filter asked for to the front: a line names the first owner.
fn put_requested_first(stuck: &mut Stuck) {
    stuck.details.owners.sort_by_key(|owner| !owner.is_requested);
    if stuck.details.owners.first().is_some_and(|first| !first.is_requested)
        && let Some(at) = stuck.details.unlisted.iter().position(|owner| owner.is_requested)
    {
        stuck.details.owners.insert(0, stuck.details.unlisted.remove(at));
    }
}

fn named(owner: &Owner) -> (u32, Option<&Name>) {
    (owner.pid, owner.comm.as_ref())
}

#[cfg(test)]
mod tests;
