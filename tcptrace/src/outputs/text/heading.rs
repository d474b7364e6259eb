//! Headings: one above the first line of a view, and again before it scrolls out of sight.

use crate::outputs::text::{
    TextRenderer,
    layout::{Endpoints, Layout},
    line::BOLD,
};

/// A view has a heading of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Transitions,
    Stuck,
    Lives,
}

/// The headings that were written.
#[derive(Debug, Default)]
pub(crate) struct Headings {
    /// After how many lines a heading is repeated; `None`: never.
    repeat_after: Option<u64>,
    /// For each view, how many lines were written before its last heading, and the layout of that.
    last: [Option<(u64, Layout)>; 3],
}

impl Headings {
    /// Sets the height of the terminal; 0 if it is not known.
    pub(crate) fn set_rows(&mut self, rows: u16) {
        self.repeat_after = (rows > 0).then(|| u64::from(rows.saturating_sub(2)).max(10));
    }

    /// Whether a view's last heading is in sight and has this layout.
    fn is_current(&self, view: View, layout: &Layout, lines: u64) -> bool {
        let is_in_sight = |at: u64| self.repeat_after.is_none_or(|count| lines < at + count);
        self.last[view as usize].as_ref().is_some_and(|(at, last)| is_in_sight(*at) && last == layout)
    }
}

impl TextRenderer {
    /// Writes a view's heading, unless its last one is in sight and has the same layout.
    pub(crate) fn write_heading(&mut self, view: View, out: &mut Vec<u8>) {
        if self.headings.is_current(view, &self.layout, self.lines) {
            return;
        }
        self.headings.last[view as usize] = Some((self.lines, self.layout));
        let Layout { age, process, descriptor, is_roomy, .. } = self.layout;
        let ends = self.layout.endpoints_heading();
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
                // A wide descriptor takes columns from the process.
                if process < 11 { "PROCESS" } else { "PROCESS/PID" },
                "FD"
            ),
            View::Lives => self.life_heading(&ends),
        };
        if self.layout.endpoints == Endpoints::Below {
            self.below.push_str("LPORT->REMOTE");
        }
        self.write_line(out, |text, line| text.write_coloured(line, BOLD, |line| line.push_str(&heading)));
    }
}
