//! Records as text for people: aligned, what matters first, and never thousands of lines.
//!
//! 80 columns hold a record with IPv4 addresses; where there is more room, or no terminal at all, nothing is
//! shortened. Records of the stuck view wait up to a second for others, and many that have everything that matters in
//! common become one line (`group.rs`).

mod life;

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::{
    group::{self, FEW, Group, group},
    process::ProcessRecord,
    record::{Cleared, Event, Instant, Name, Owner, Record, SocketId, Stuck, Transition},
    words::{
        age, descriptors, detail, end, ending, lost_words, origin, padded, peer, port, process, remote,
        resync_words, span, visible,
    },
};
use crate::states::State;
use tcptrace_common::state;

/// From this width on there is room for both addresses.
const WIDE: u16 = 110;

/// How long the first one waits for more like it, nanoseconds.
const GATHERING_NS: u64 = 100_000_000;

/// Between two times at which what has waited is written, nanoseconds.
const SETTLING_NS: u64 = 1_000_000_000;

/// Descriptors that run out sooner than this are shown in red, or in yellow, seconds.
const ALARMING_S: f64 = 600.0;
const WORRYING_S: f64 = 7_200.0;

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
    /// After how many lines a heading comes again; `None`: never.
    screenful: Option<u64>,
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
    stuck: Vec<(Instant, Stuck)>,
    cleared: Vec<(Instant, Cleared)>,
    processes: Vec<(Instant, ProcessRecord)>,
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
        let waiting = Waiting::default();
        Self { width, colour, zone, screenful: None, lines: 0, headed: [None; 3], waiting, written_ns: 0 }
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
        let begin = out.len();
        self.take_one(record, out);
        self.count(&out[begin..]);
    }

    fn count(&mut self, written: &[u8]) {
        self.lines += written.iter().filter(|byte| **byte == b'\n').count() as u64;
    }

    fn take_one(&mut self, record: Record, out: &mut Vec<u8>) {
        let Record { at, event } = record;
        if matches!(event, Event::Stuck(_) | Event::Cleared(_) | Event::Process(_)) {
            self.waiting.since_ns.get_or_insert(at.mono_ns);
        }
        match event {
            Event::Transition(transition) => {
                self.head(Layout::Transitions, out);
                put(&self.transition(at, &transition), out);
            }
            Event::Life(life) => {
                self.head(Layout::Lives, out);
                put(&self.life(at, &life), out);
            }
            Event::Stuck(stuck) => self.waiting.stuck.push((at, *stuck)),
            Event::Cleared(cleared) => self.waiting.cleared.push((at, cleared)),
            Event::Process(process) => self.waiting.processes.push((at, process)),
            Event::Lost(lost) => put(&self.notice(at, &lost_words(&lost)), out),
            Event::Resync(resync) => put(&self.notice(at, &resync_words(&resync)), out),
            Event::Start(_) | Event::Summary(_) => {}
        }
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
        let begin = out.len();
        let Waiting { stuck, cleared, processes, .. } = std::mem::take(&mut self.waiting);
        if !(stuck.is_empty() && cleared.is_empty()) {
            self.head(Layout::Stuck, out);
        }
        for group in group(stuck) {
            match &group.1[..] {
                few if few.len() <= FEW => few.iter().for_each(|(at, one)| put(&self.stuck(*at, one), out)),
                _ => put(&self.many_stuck(&group), out),
            }
        }
        for group in group(cleared) {
            match &group.1[..] {
                few if few.len() <= FEW => few.iter().for_each(|(at, one)| put(&self.cleared(*at, one), out)),
                _ => put(&self.many_cleared(&group), out),
            }
        }
        for (at, record) in processes {
            put(&self.process(at, &record), out);
        }
        self.count(&out[begin..]);
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
            Layout::Lives => self.life_heading(),
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
            owner.as_ref().map_or_else(|| "-".to_owned(), |owner| process(named(owner), room)),
        )
    }

    fn stuck(&self, at: Instant, record: &Stuck) -> String {
        let Stuck { socket, state, age_ms, age_max_ms, exact, cause, owners, .. } = record;
        let fd = owners.first().map_or_else(|| "-".to_owned(), |owner| descriptors(owner, owners.len()));
        let age = self.paint(RED, &format!("{:8}", age(*age_ms, *age_max_ms, *exact)));
        let mut line = self.columns(at, &age, owners.first(), &fd, &(self.local(socket), remote(socket)));
        line.push_str(&why(*state, cause.words()));
        self.add_if_it_fits(&mut line, &detail(record));
        for more in [origin(record), peer(record)].into_iter().flatten() {
            self.add_if_it_fits(&mut line, &format!("; {more}"));
        }
        line
    }

    /// Stuck sockets as one line, with the age of the oldest.
    fn many_stuck(&self, group: &Group<Stuck>) -> String {
        let by_age = |(_, a): &&(Instant, Stuck), (_, b): &&(Instant, Stuck)| a.age_ms.total_cmp(&b.age_ms);
        let of = |one: Option<&(Instant, Stuck)>| {
            one.map_or_else(String::new, |(_, one)| age(one.age_ms, None, one.exact))
        };
        let (oldest, youngest) = (of(group.1.iter().max_by(by_age)), of(group.1.iter().min_by(by_age)));
        let (at, first) = &group.1[0];
        let age = self.paint(RED, &format!("{oldest:8}"));
        let mut line =
            self.columns(*at, &age, first.owners.first(), &group::times(group.1.len()), &self.ends(group));
        line.push_str(&why(first.state, first.cause.words()));
        self.add_if_it_fits(&mut line, &format!(", youngest {youngest}"));
        line
    }

    fn cleared(&self, at: Instant, record: &Cleared) -> String {
        let Cleared { socket, new_state, in_state_ms, by, how, .. } = record;
        let cleared = self.paint(GREEN, "cleared ");
        let mut line = self.columns(at, &cleared, by.as_ref(), "-", &(self.local(socket), remote(socket)));
        let _infallible = write!(line, "after {}", span(in_state_ms));
        if let Some(how) = ending(*how) {
            self.add_if_it_fits(&mut line, &format!(", {how}"));
        }
        self.add_if_it_fits(&mut line, &format!(", now {new_state}"));
        line
    }

    /// Cleared sockets as one line, with the longest time that one of them was stuck.
    fn many_cleared(&self, group: &Group<Cleared>) -> String {
        let longest = group.1.iter().map(|(_, one)| one.in_state_ms).fold(0.0, f64::max);
        let (at, first) = &group.1[0];
        let cleared = self.paint(GREEN, "cleared ");
        let times = group::times(group.1.len());
        let mut line = self.columns(*at, &cleared, first.by.as_ref(), &times, &self.ends(group));
        let _infallible = write!(line, "after ≤{}", span(longest));
        let how = ending(first.how).filter(|_| group.1.iter().all(|(_, one)| one.how == first.how));
        if let Some(how) = how {
            self.add_if_it_fits(&mut line, &format!(", {how}"));
        }
        self.add_if_it_fits(&mut line, &format!(", now {}", first.new_state));
        line
    }

    /// All columns but the last.
    fn columns(
        &self,
        at: Instant,
        age: &str,
        owner: Option<&Owner>,
        fd: &str,
        (local, remote): &(String, String),
    ) -> String {
        let width = self.process_width();
        let who = owner.map_or_else(|| "-".to_owned(), |owner| process(named(owner), width));
        let who = padded(&who, width);
        format!("{:8} {age} {who} {fd:>5} {local} {remote:21} ", self.time(at, "%H:%M:%S"))
    }

    fn process(&self, at: Instant, record: &ProcessRecord) -> String {
        let time = self.time(at, "%H:%M:%S");
        let room = self.width.map(|width| usize::from(width).saturating_sub(time.len() + 1));
        let (words, full) = record.words(room);
        // A name may have a blank in it, and a colon.
        let who_ends = words
            .rfind(&format!("/{}: ", record.pid))
            .and_then(|at| words[at..].find(' ').map(|blank| at + blank));
        let (who, rest) = words.split_at(who_ends.unwrap_or(0));
        let mut line = format!("{time} {}{rest}", self.paint(BOLD, who));
        if let Some(full) = full {
            let colour = match record.fds_full_in_s {
                Some(seconds) if seconds < ALARMING_S => RED,
                Some(seconds) if seconds < WORRYING_S => YELLOW,
                _ => "",
            };
            let _infallible = write!(line, ", {}", self.paint(colour, &full));
        }
        line
    }

    fn add_if_it_fits(&self, line: &mut String, more: &str) {
        if self.width.is_none_or(|width| visible(line) + visible(more) <= width.into()) {
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
    /// The (local, remote) ends of a group.
    fn ends<T: group::Groupable>(&self, group: &Group<T>) -> (String, String) {
        let (address, number) = group::local_ends(group);
        let local = if self.is_wide() { format!("{address:21}") } else { format!("{number:>5}") };
        (local, group::remote_ends(group))
    }
}

fn put(line: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(line.trim_end().as_bytes());
    out.push(b'\n');
}

fn named(owner: &Owner) -> (u32, Option<&Name>) {
    (owner.pid, owner.comm.as_ref())
}

/// Why a socket stays in its state, and which that is where it is not the usual one.
fn why(state: State, words: &str) -> String {
    if state.0 == state::CLOSE_WAIT { words.to_owned() } else { format!("{state}: {words}") }
}

const fn state_colour(new_state: State) -> &'static str {
    match new_state.0 {
        state::CLOSE_WAIT => YELLOW,
        _ => "",
    }
}
