//! Records as text for people: aligned, what matters first, and never thousands of lines.
//!
//! 80 columns hold a record with IPv4 addresses; where there is more room, or no terminal at all, nothing is
//! shortened. Records of the stuck view wait up to a second for others, and many that have everything that matters in
//! common become one line (`group.rs`).

mod life;
mod stuck;
mod transition;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    columns::{end, left, port, remote, right},
    group::{FEW, group},
    process::ProcessRecord,
    record::{Cleared, Event, Instant, Name, Owner, Record, SocketId, Stuck},
    second::Second,
    words::{lost_words, resync_words, visible},
};

/// From this width on there is room for both addresses.
const WIDE: u16 = 110;

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
    colour: bool,
    zone: TimeZone,
    second: Second,
    /// After how many lines a heading comes again; `None`: never.
    screenful: Option<u64>,
    /// The line under way; empty between two.
    line: String,
    /// Lines written, and the number of the one before each layout's last heading.
    lines: u64,
    headed: [Option<u64>; 3],
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
            Event::Stuck(stuck) => self.stuck.push((at, stuck)),
            Event::Cleared(cleared) => self.cleared.push((at, cleared)),
            Event::Process(process) => self.processes.push((at, process)),
            _ => {}
        }
    }
}

/// Which columns a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Transitions,
    Stuck,
    Lives,
}

impl Text {
    /// Text for a terminal of `width` columns, or for no terminal; times in `zone`.
    pub fn new(width: Option<u16>, colour: bool, zone: TimeZone) -> Self {
        Self {
            width,
            colour,
            zone,
            second: Second::default(),
            screenful: None,
            line: String::new(),
            lines: 0,
            headed: [None; 3],
            waiting: Waiting::default(),
            written_ns: 0,
        }
    }

    /// The same on a terminal of so many rows: headings come again before they are out of sight.
    #[must_use]
    pub fn with_rows(self, rows: u16) -> Self {
        // A terminal that does not tell its size says 0.
        Self { screenful: (rows > 0).then(|| u64::from(rows.saturating_sub(2)).max(10)), ..self }
    }

    /// Takes a record: appends its line, with a heading before the first one of its columns, or lets it wait until
    /// [`Self::settle`]. `start` and `summary` have none: see [`welcome`](super::welcome) and
    /// [`farewell`](super::farewell).
    pub fn take(&mut self, record: Record, out: &mut Vec<u8>) {
        let at = record.at;
        match &record.event {
            Event::Transition(transition) => {
                self.head(Layout::Transitions, out);
                self.put(out, |text, line| text.transition(line, at, transition));
            }
            Event::Life(life) => {
                self.head(Layout::Lives, out);
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

    /// Appends the line that `write` makes.
    fn put(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Self, &mut String)) {
        let mut line = std::mem::take(&mut self.line);
        write(self, &mut line);
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
        line.clear();
        self.line = line;
        self.lines += 1;
    }

    /// When what waits is to be written, `CLOCK_MONOTONIC` nanoseconds: soon after the first of it, but some time after
    /// the last lines, so that a flood becomes a few.
    pub fn due_ns(&self) -> Option<u64> {
        let since_ns = self.waiting.since_ns?;
        Some(since_ns.saturating_add(GATHERING_NS).max(self.written_ns.saturating_add(SETTLING_NS)))
    }

    /// Appends the lines of what has waited long enough by now.
    pub fn settle(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if self.due_ns().is_none_or(|due| due > now_ns) {
            return;
        }
        self.written_ns = now_ns;
        let Waiting { stuck, cleared, processes, .. } = std::mem::take(&mut self.waiting);
        if !(stuck.is_empty() && cleared.is_empty()) {
            self.head(Layout::Stuck, out);
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
        for (at, record) in processes {
            self.put(out, |text, line| text.process(line, at, &record));
        }
    }

    fn head(&mut self, layout: Layout, out: &mut Vec<u8>) {
        let headed = &mut self.headed[layout as usize];
        let is_in_sight = |at: u64| self.screenful.is_none_or(|screenful| self.lines < at + screenful);
        if headed.is_some_and(is_in_sight) {
            return;
        }
        *headed = Some(self.lines);
        let local = self.local_heading();
        let process = self.process_width();
        let heading = match layout {
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
            Layout::Lives => self.life_heading(),
        };
        self.put(out, |text, line| text.paint(line, BOLD, |line| line.push_str(&heading)));
    }

    fn add_if_it_fits(&self, line: &mut String, more: &str) {
        if self.width.is_none_or(|width| visible(line) + visible(more) <= width.into()) {
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

    fn is_wide(&self) -> bool {
        self.width.is_none_or(|width| width >= WIDE)
    }

    fn process_width(&self) -> usize {
        if self.is_wide() { 20 } else { 15 }
    }

    fn local_heading(&self) -> String {
        if self.is_wide() { format!("{:21}", "LOCAL") } else { "LPORT".to_owned() }
    }

    /// Appends the columns of both ends.
    fn ends(&self, line: &mut String, socket: &SocketId) {
        if self.is_wide() {
            left(line, 21, |line| end(line, socket.local_addr, socket.local_port));
        } else {
            right(line, 5, |line| port(line, socket.local_port));
        }
        line.push(' ');
        left(line, 21, |line| remote(line, socket));
    }
}

fn named(owner: &Owner) -> (u32, Option<&Name>) {
    (owner.pid, owner.comm.as_ref())
}
