//! Headings: one above the first line of a view, and again before it scrolls out of sight.

use crate::outputs::text::layout::Layout;

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

    /// Notes that a view's heading is written after so many lines, if that is needed: its last one
    /// is out of sight, or had another layout. Returns whether it is.
    pub(crate) fn note_written(&mut self, view: View, layout: &Layout, lines: u64) -> bool {
        let is_in_sight = |at: u64| self.repeat_after.is_none_or(|count| lines < at + count);
        let last = &mut self.last[view as usize];
        let is_current = last.as_ref().is_some_and(|(at, last)| is_in_sight(*at) && last == layout);
        if !is_current {
            *last = Some((lines, *layout));
        }
        !is_current
    }
}

/// Returns a view's heading in this layout.
pub(crate) fn heading_of(view: View, layout: &Layout) -> String {
    let Layout { age, process, descriptor, actor, is_roomy, .. } = *layout;
    let ends = layout.endpoints_heading();
    match view {
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
        View::Lives => {
            let counters = if is_roomy { format!(" {:>4} {:>6}", "RETR", "RTT") } else { String::new() };
            format!(
                "{:8} {:>6} {:actor$} {ends}{:>5} {:>5}{counters} ENDED",
                "TIME", "LIFE", "PROCESS/PID", "TX", "RX"
            )
        }
    }
}
