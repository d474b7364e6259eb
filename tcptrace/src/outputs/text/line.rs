//! Lines: written piece by piece into one buffer, coloured, and folded to the width of the
//! terminal.

use jiff::Timestamp;

use crate::{
    events::Instant,
    humanize::width::display_width,
    outputs::text::{TextRenderer, fold::fold_line},
};

pub(crate) const RED: &str = "\x1b[31m";
pub(crate) const GREEN: &str = "\x1b[32m";
pub(crate) const YELLOW: &str = "\x1b[33m";
pub(crate) const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

impl TextRenderer {
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
            self.append_folded(&format!("{:1$}{below}", "", self.layout.indent()), out);
        }
    }

    fn append_folded(&mut self, line: &str, out: &mut Vec<u8>) {
        match self.layout.width {
            // No line has fewer bytes than columns: most need no look at their characters.
            Some(width) if line.len() > width && display_width(line) > width => {
                self.lines += fold_line(line, width, self.layout.indent(), out);
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
        if self.layout.fits(display_width(line) + display_width(text)) {
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
        let (second, nanosecond) = self.second.of(at, format_time);
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
