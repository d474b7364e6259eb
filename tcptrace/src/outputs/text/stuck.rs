//! The stuck view's lines: sockets one by one or many together, how they cleared, and what they come to in a process.

use crate::outputs::text::group;
use std::fmt::Write as _;

use rustc_hash::FxHashMap;
use tcptrace_common::state;

use crate::outputs::text::{BOLD, GREEN, Instant, Layout, RED, Text, YELLOW, left};
use crate::{
    events::{Cleared, ProcessRecord, State, Stuck},
    outputs::text::{
        columns::{span, zone},
        group::{Group, Groupable},
        words::{Holders, age, detail, ending, origin, padded, peer, visible},
    },
};

/// Descriptors that run out sooner than this are shown in red, or in yellow, seconds.
const ALARMING_S: f64 = 600.0;
const WORRYING_S: f64 = 7_200.0;

/// So many lines of processes are written at a time at the most.
const PROCESSES: usize = 10;

impl Text {
    pub(crate) fn stuck(&mut self, line: &mut String, at: Instant, record: &Stuck) {
        let Stuck { socket, state, age_ms, age_max_ms, exact, cause, .. } = record;
        let holders = Holders::of(record);
        let age = age((*age_ms, *age_max_ms, *exact), self.layout.age);
        self.columns(line, at, (RED, &age), &holders, &holders.descriptors());
        self.ends(line, socket);
        self.add_why(line, *state, cause.words());
        self.add_if_it_fits(line, &detail(record));
        for more in [holders.detail(), origin(record), peer(record)].into_iter().flatten() {
            self.add_if_it_fits(line, &format!("; {more}"));
        }
    }

    /// Stuck sockets as one line, with the age of the oldest.
    pub(crate) fn many_stuck(&mut self, line: &mut String, group: &Group<Box<Stuck>>) {
        let by_age =
            |(_, a): &&(Instant, Box<Stuck>), (_, b): &&(Instant, Box<Stuck>)| a.age_ms.total_cmp(&b.age_ms);
        let of = |one: Option<&(Instant, Box<Stuck>)>| {
            one.map_or_else(String::new, |(_, one)| age((one.age_ms, None, one.exact), 8))
        };
        let (oldest, youngest) = (of(group.1.iter().max_by(by_age)), of(group.1.iter().min_by(by_age)));
        let (at, first) = &group.1[0];
        let holders = Holders::of(first);
        self.columns(line, *at, (RED, &oldest), &holders, &group::times(group.1.len()));
        self.ends_of(line, group);
        self.add_why(line, first.state, first.cause.words());
        self.add_if_it_fits(line, &format!(", youngest {youngest}"));
        if let Some(held) = holders.detail() {
            self.add_if_it_fits(line, &format!("; {held}"));
        }
    }

    pub(crate) fn cleared(&mut self, line: &mut String, at: Instant, record: &Cleared) {
        let Cleared { socket, new_state, in_state_ms, by, how, .. } = record;
        self.columns(line, at, (GREEN, "cleared"), &Holders::among(by.as_slice()), "-");
        self.ends(line, socket);
        line.push_str("after ");
        span(line, *in_state_ms);
        if let Some(how) = ending(*how) {
            self.add_if_it_fits(line, &format!(", {how}"));
        }
        self.add_if_it_fits(line, &format!(", now {new_state}"));
    }

    /// Cleared sockets as one line, with the longest time that one of them was stuck.
    pub(crate) fn many_cleared(&mut self, line: &mut String, group: &Group<Cleared>) {
        let longest = group.1.iter().map(|(_, one)| one.in_state_ms).fold(0.0, f64::max);
        let (at, first) = &group.1[0];
        let by = Holders::among(first.by.as_slice());
        self.columns(line, *at, (GREEN, "cleared"), &by, &group::times(group.1.len()));
        self.ends_of(line, group);
        line.push_str("in ≤");
        span(line, longest);
        let how = ending(first.how).filter(|_| group.1.iter().all(|(_, one)| one.how == first.how));
        if let Some(how) = how {
            self.add_if_it_fits(line, &format!(", {how}"));
        }
        self.add_if_it_fits(line, &format!(", now {}", first.new_state));
    }

    /// The first columns of the stuck view: up to the descriptor, with the age in its colour.
    fn columns(
        &mut self,
        line: &mut String,
        at: Instant,
        (colour, age): (&str, &str),
        holders: &Holders<'_>,
        fd: &str,
    ) {
        let Layout { age: age_width, process: width, descriptor, .. } = self.layout;
        self.time(line, at);
        line.push(' ');
        self.paint(line, colour, |line| left(line, age_width, |line| line.push_str(age)));
        let _infallible = write!(line, " {} {fd:>descriptor$} ", padded(&holders.named(width), width));
    }

    /// Writes the lines of processes, one for those that hold the same stuck sockets, and for those of a name that have
    /// ended. Of many lines those are left out that matter least.
    pub(crate) fn processes(&mut self, processes: Vec<(Instant, ProcessRecord)>, out: &mut Vec<u8>) {
        let mut lines: Vec<(Instant, ProcessRecord)> = Vec::new();
        let mut places = FxHashMap::default();
        for (at, record) in processes {
            match *places.entry(record.alike()).or_insert(lines.len()) {
                place if place < lines.len() => lines[place].1.add(&record),
                _ => lines.push((at, record)),
            }
        }
        let mut left_out = 0;
        if lines.len() > PROCESSES {
            let by_urgency = |(_, a): &(Instant, ProcessRecord), (_, b): &(Instant, ProcessRecord)| {
                let full = |record: &ProcessRecord| record.fds_full_in_s.unwrap_or(f64::INFINITY);
                full(a).total_cmp(&full(b)).then(b.stuck.cmp(&a.stuck))
            };
            lines.sort_by(by_urgency);
            left_out = lines.drain(PROCESSES - 1..).map(|(_, record)| 1 + record.others).sum();
        }
        let last = lines.last().map(|(at, _)| *at);
        for (at, record) in lines {
            self.put(out, |text, line| text.process(line, at, &record));
        }
        if let Some(at) = last.filter(|_| left_out > 0) {
            self.put(out, |text, line| {
                text.time(line, at);
                let _infallible = write!(line, " and {left_out} more processes");
            });
        }
    }

    fn process(&mut self, line: &mut String, at: Instant, record: &ProcessRecord) {
        self.time(line, at);
        line.push(' ');
        let room = self.layout.width.map(|width| width.saturating_sub(line.len()));
        let (who, words, full) = record.words(room);
        self.paint(line, BOLD, |line| line.push_str(&who));
        line.push_str(&words);
        if let Some(full) = full {
            let colour = match record.fds_full_in_s {
                Some(seconds) if seconds < ALARMING_S => RED,
                Some(seconds) if seconds < WORRYING_S => YELLOW,
                _ => "",
            };
            line.push_str(", ");
            self.paint(line, colour, |line| line.push_str(&full));
        }
    }

    /// Appends why a socket stays in its state, and which that is where it is not the usual one: the reason goes below if
    /// there is no room for both.
    fn add_why(&mut self, line: &mut String, state: State, words: &str) {
        if state.0 == state::CLOSE_WAIT {
            return line.push_str(words);
        }
        let state = state.ss_name();
        line.push_str(state);
        if self.layout.fits(visible(line) + 2 + words.len()) {
            line.push_str(": ");
            line.push_str(words);
        } else {
            self.below.push_str(if self.below.is_empty() { "" } else { "  " });
            self.below.push_str(words);
        }
    }

    /// Appends the columns of a group's ends.
    fn ends_of<T: Groupable>(&mut self, line: &mut String, group: &Group<T>) {
        let zone = zone(self.zones, group.1[0].1.socket());
        let local = |line: &mut String| group::local_ends(line, group, &zone);
        let remote = |line: &mut String| group::remote_ends(line, group, &zone);
        self.both_ends(line, group.0.ports(), local, remote);
    }
}
