//! The stuck view's lines of sockets: stuck or cleared, one by one or as a group.

use std::fmt::Write as _;

use tcptrace_common::state;

use crate::{
    events::{Cleared, Instant, State, Stuck},
    humanize::{
        number::format_multiplier,
        span::{Age, write_span},
        width::{display_width, pad_end},
        words::{cause_words, ending_words},
    },
    outputs::text::{
        canvas::{Canvas, GREEN, RED},
        column::align_left,
        detail::{describe_cause, describe_origin, describe_peer},
        endpoint::zone_suffix,
        group::{Group, Groupable, write_local_ends, write_remote_ends},
        holders::Holders,
        layout::Layout,
    },
};

/// Columns of an age that is not a range.
const SINGLE_AGE: usize = 8;

impl Canvas {
    /// Writes the line of a stuck socket.
    pub(crate) fn write_stuck(&mut self, line: &mut String, at: Instant, record: &Stuck) {
        let Stuck { socket, state, age_ms, age_max_ms, exact, details, .. } = record;
        let holders = Holders::of_socket(record);
        let age = Age { at_least_ms: *age_ms, at_most_ms: *age_max_ms, exact: *exact };
        let age = age.fit_width(self.layout.age);
        self.write_stuck_columns(line, at, (RED, &age), &holders, &holders.format_descriptors());
        self.write_socket_endpoints(line, socket);
        self.write_state_and_cause(line, *state, cause_words(details.cause));
        self.append_if_fits(line, &describe_cause(details));
        let more = [holders.describe_others(), describe_origin(details), describe_peer(details)];
        for more in more.into_iter().flatten() {
            self.append_if_fits(line, &format!("; {more}"));
        }
    }

    /// Writes one line for a group of stuck sockets, with the age of the oldest.
    pub(crate) fn write_stuck_group(&mut self, line: &mut String, group: &Group<Box<Stuck>>) {
        let ages = || {
            group.members.iter().map(|(_, one)| Age {
                at_least_ms: one.age_ms,
                at_most_ms: None,
                exact: one.exact,
            })
        };
        let by_age = |one: &Age, other: &Age| one.at_least_ms.total_cmp(&other.at_least_ms);
        let format_age = |age: Option<Age>| age.map_or_else(String::new, |age| age.fit_width(SINGLE_AGE));
        let (oldest, youngest) = (format_age(ages().max_by(by_age)), format_age(ages().min_by(by_age)));
        let (at, first) = &group.members[0];
        let holders = Holders::of_socket(first);
        let multiplier = format_multiplier(group.members.len());
        self.write_stuck_columns(line, *at, (RED, &oldest), &holders, &multiplier);
        self.write_group_endpoints(line, group);
        self.write_state_and_cause(line, first.state, cause_words(first.details.cause));
        self.append_if_fits(line, &format!(", youngest {youngest}"));
        if let Some(others) = holders.describe_others() {
            self.append_if_fits(line, &format!("; {others}"));
        }
    }

    /// Writes the line of a cleared socket.
    pub(crate) fn write_cleared(&mut self, line: &mut String, at: Instant, record: &Cleared) {
        let Cleared { socket, new_state, in_state_ms, by, how, .. } = record;
        let holders = Holders::of_descriptors(by.as_slice());
        self.write_stuck_columns(line, at, (GREEN, "cleared"), &holders, "-");
        self.write_socket_endpoints(line, socket);
        line.push_str("after ");
        write_span(line, *in_state_ms);
        if let Some(how) = ending_words(*how) {
            self.append_if_fits(line, &format!(", {how}"));
        }
        self.append_if_fits(line, &format!(", now {new_state}"));
    }

    /// Writes one line for a group of cleared sockets, with the longest time that one of them was
    /// stuck.
    pub(crate) fn write_cleared_group(&mut self, line: &mut String, group: &Group<Cleared>) {
        let longest_ms = group.members.iter().map(|(_, one)| one.in_state_ms).fold(0.0, f64::max);
        let (at, first) = &group.members[0];
        let holders = Holders::of_descriptors(first.by.as_slice());
        let multiplier = format_multiplier(group.members.len());
        self.write_stuck_columns(line, *at, (GREEN, "cleared"), &holders, &multiplier);
        self.write_group_endpoints(line, group);
        line.push_str("in ≤");
        write_span(line, longest_ms);
        let all_alike = group.members.iter().all(|(_, one)| one.how == first.how);
        if let Some(how) = ending_words(first.how).filter(|_| all_alike) {
            self.append_if_fits(line, &format!(", {how}"));
        }
        self.append_if_fits(line, &format!(", now {}", first.new_state));
    }

    /// Writes the first columns: the time, the age in its colour, the process and the descriptor.
    fn write_stuck_columns(
        &mut self,
        line: &mut String,
        at: Instant,
        (colour, age): (&str, &str),
        holders: &Holders<'_>,
        fd: &str,
    ) {
        let Layout { age: age_width, process: width, descriptor, .. } = self.layout;
        self.write_time(line, at);
        line.push(' ');
        self.write_coloured(line, colour, |line| align_left(line, age_width, |line| line.push_str(age)));
        let process = pad_end(&holders.format_process(width), width);
        let _infallible = write!(line, " {process} {fd:>descriptor$} ");
    }

    /// Appends the cause, with the state before it unless that is CLOSE_WAIT. If there is no room
    /// for both, the cause goes below.
    fn write_state_and_cause(&mut self, line: &mut String, state: State, cause: &str) {
        if state.0 == state::CLOSE_WAIT {
            return line.push_str(cause);
        }
        line.push_str(state.ss_name());
        if self.layout.has_room_for(display_width(line) + 2 + cause.len()) {
            line.push_str(": ");
            line.push_str(cause);
        } else {
            self.below.push_str(if self.below.is_empty() { "" } else { "  " });
            self.below.push_str(cause);
        }
    }

    /// Appends the columns of a group's ends.
    fn write_group_endpoints<T: Groupable>(&mut self, line: &mut String, group: &Group<T>) {
        let zone = zone_suffix(self.interface_names, group.members[0].1.socket());
        let local = |line: &mut String| write_local_ends(line, group, &zone);
        let remote = |line: &mut String| write_remote_ends(line, group, &zone);
        self.write_endpoints(line, group.service.shown_ports(), local, remote);
    }
}
