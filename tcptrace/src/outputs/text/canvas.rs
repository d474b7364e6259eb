//! What lines are written on: piece by piece into one buffer, in columns of the present layout,
//! coloured, and folded to the width of the terminal.

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    events::Instant,
    humanize::{interface::InterfaceNames, width::display_width},
    outputs::{
        text::{
            fold::fold_line,
            heading::{Headings, View, heading_of},
            layout::{ColumnNeeds, Endpoints, Layout},
        },
        timestamp_cache::SecondCache,
    },
};

pub(crate) const RED: &str = "\x1b[31m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const YELLOW: &str = "\x1b[33m";
pub(crate) const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// The state of the terminal, or of the file, that lines are written for.
#[derive(Debug)]
pub(crate) struct Canvas {
    /// Columns of the terminal; `None` if there is none.
    width: Option<u16>,
    /// How much room the columns have needed so far.
    pub(crate) needs: ColumnNeeds,
    /// The columns of the lines to come.
    pub(crate) layout: Layout,
    has_colour: bool,
    time_zone: TimeZone,
    /// The names of interfaces, if they are known.
    pub(crate) interface_names: Option<InterfaceNames>,
    second: SecondCache,
    headings: Headings,
    /// The line that is being written; empty between two lines.
    line: String,
    /// What continues below that line; empty if nothing does.
    pub(crate) below: String,
    /// How many lines were written.
    lines: u64,
}

impl Canvas {
    /// Makes an empty one for a terminal of `width` columns, or for no terminal, with times in
    /// `time_zone`.
    pub(crate) fn new(width: Option<u16>, has_colour: bool, time_zone: TimeZone) -> Self {
        Self {
            width,
            needs: ColumnNeeds::default(),
            layout: Layout::fit(width, ColumnNeeds::default()),
            has_colour,
            time_zone,
            interface_names: None,
            second: SecondCache::default(),
            headings: Headings::default(),
            line: String::new(),
            below: String::new(),
            lines: 0,
        }
    }

    /// Fits the lines to come to a terminal of this size; 0 if it is not known.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.headings.set_rows(rows);
        if self.width != Some(columns) {
            self.width = Some(columns);
            self.layout = Layout::fit(self.width, self.needs);
        }
    }

    /// Changes the layout if columns need more room than they have.
    pub(crate) fn widen(&mut self, needs: ColumnNeeds) {
        if needs != self.needs {
            self.needs = needs;
            self.layout = Layout::fit(self.width, needs);
        }
    }

    /// Writes a view's heading, unless its last one is in sight and has the same layout.
    pub(crate) fn write_heading(&mut self, view: View, out: &mut Vec<u8>) {
        if !self.headings.note_written(view, &self.layout, self.lines) {
            return;
        }
        let heading = heading_of(view, &self.layout);
        if self.layout.endpoints == Endpoints::Below {
            self.below.push_str("LPORT->REMOTE");
        }
        self.write_line(out, |canvas, line| {
            canvas.write_coloured(line, BOLD, |line| line.push_str(&heading));
        });
    }

    /// Appends the line that `write` writes, and what it leaves in `below` as a line of its own.
    /// Either is folded if it is wider than the terminal.
    pub(crate) fn write_line(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Self, &mut String)) {
        let mut line = std::mem::take(&mut self.line);
        write(self, &mut line);
        self.append_folded(line.trim_end(), out);
        line.clear();
        self.line = line;
        if !self.below.is_empty() {
            let below = std::mem::take(&mut self.below);
            self.append_folded(&format!("{:1$}{below}", "", self.layout.continuation_indent()), out);
        }
    }

    fn append_folded(&mut self, line: &str, out: &mut Vec<u8>) {
        match self.layout.width {
            // No line has fewer bytes than columns: most need no look at their characters.
            Some(width) if line.len() > width && display_width(line) > width => {
                self.lines += fold_line(line, width, self.layout.continuation_indent(), out);
            }
            _ => {
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
                self.lines += 1;
            }
        }
    }

    /// Appends a text to a line if there is room for all of it.
    pub(crate) fn append_if_fits(&self, line: &mut String, text: &str) {
        if self.layout.has_room_for(display_width(line) + display_width(text)) {
            line.push_str(text);
        }
    }

    /// Writes a line that is about the run as a whole.
    pub(crate) fn write_notice(&mut self, line: &mut String, at: Instant, words: &str) {
        self.write_time(line, at);
        line.push(' ');
        self.write_coloured(line, YELLOW, |line| line.push_str(words));
    }

    /// Appends the time of day, and returns the nanoseconds since that second began.
    pub(crate) fn write_time(&mut self, line: &mut String, at: Instant) -> u32 {
        let format_time = |timestamp: Timestamp| {
            timestamp.to_zoned(self.time_zone.clone()).strftime("%H:%M:%S").to_string()
        };
        let (second, nanosecond) = self.second.format_second(at, format_time);
        line.push_str(second);
        nanosecond
    }

    /// Appends what `write` writes, in a colour.
    pub(crate) fn write_coloured(&self, line: &mut String, colour: &str, write: impl FnOnce(&mut String)) {
        let is_coloured = self.has_colour && !colour.is_empty();
        line.push_str(if is_coloured { colour } else { "" });
        write(line);
        line.push_str(if is_coloured { RESET } else { "" });
    }
}
