//! The stuck view's lines of sockets: one by one or many together, and how they cleared.

use std::fmt::Write as _;

use tcptrace_common::state;

use crate::{
    events::{Cleared, State, Stuck},
    outputs::text::{
        GREEN, Instant, Layout, RED, Text,
        columns::{span, zone},
        group::{self, Group, Groupable},
        left,
        words::{Holders, age, cause_words, detail, ending, origin, padded, peer, visible},
    },
};

impl Text {
    pub(crate) fn stuck(&mut self, line: &mut String, at: Instant, record: &Stuck) {
        let Stuck { socket, state, age_ms, age_max_ms, exact, details, .. } = record;
        let holders = Holders::of(record);
        let age = age((*age_ms, *age_max_ms, *exact), self.layout.age);
        self.columns(line, at, (RED, &age), &holders, &holders.descriptors());
        self.ends(line, socket);
        self.add_why(line, *state, cause_words(details.cause));
        self.add_if_it_fits(line, &detail(details));
        for more in [holders.detail(), origin(details), peer(details)].into_iter().flatten() {
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
        self.add_why(line, first.state, cause_words(first.details.cause));
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
