//! The layout: which columns there are and how wide they are, from the room that the terminal has
//! and what the columns have to hold.
//!
//! All views need the same width for their other columns, so one rule holds for all of them.

/// Columns of a terminal that does not know its size.
const DEFAULT_WIDTH: u16 = 80;

/// Columns that every view needs beside the remote end, if the local end is its port only.
const BESIDE_REMOTE: usize = 59;

/// Columns that every view needs beside both ends in full.
const BESIDE_BOTH: usize = 68;

/// Columns to spare from which on the layout with the local port has the wider columns too.
const ROOMY: usize = 14;

/// A narrower terminal has both ends on a line of their own.
const MIN_WIDTH_FOR_ENDS: usize = BESIDE_REMOTE + SHORT_ENDPOINT;

/// Columns of an endpoint with an IPv4 address: `255.255.255.255:65535`.
const SHORT_ENDPOINT: usize = 21;

/// Columns of an endpoint with an IPv6 address without a zone: `[2001:db8:…]:65535`.
pub(crate) const LONG_ENDPOINT: usize = 47;

/// Usual columns of a descriptor.
const DESCRIPTOR: usize = 5;

/// Least columns of a process: two letters of its name, and its pid.
const MIN_PROCESS: usize = 10;

/// The widths that the growing columns need: those of the longest content so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnNeeds {
    /// An end of a socket.
    pub(crate) endpoint: usize,
    /// A descriptor, and how many more there are.
    descriptor: usize,
    /// A process with its name cut, and how many more there are.
    process: usize,
}

impl Default for ColumnNeeds {
    fn default() -> Self {
        Self { endpoint: SHORT_ENDPOINT, descriptor: DESCRIPTOR, process: MIN_PROCESS }
    }
}

impl ColumnNeeds {
    /// Makes room for an endpoint. An IPv6 address makes room for any other, so that the heading
    /// changes once.
    pub(crate) fn fit_endpoint(&mut self, columns: usize) {
        if columns > self.endpoint {
            self.endpoint = columns.max(LONG_ENDPOINT);
        }
    }

    /// Makes room for a descriptor.
    pub(crate) fn fit_descriptor(&mut self, columns: usize) {
        self.descriptor = self.descriptor.max(columns);
    }

    /// Makes room for a process.
    pub(crate) fn fit_process(&mut self, columns: usize) {
        self.process = self.process.max(columns);
    }
}

/// Where the two ends of a socket are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    /// Both are in columns of this width.
    Both(usize),
    /// The local port, and the remote end in a column of this width.
    LocalPort(usize),
    /// Both are on a line of their own.
    Below,
}

/// The widths of the columns, and what is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of the terminal; `None` without a terminal: nothing is too wide then.
    pub(crate) width: Option<usize>,
    pub(crate) endpoints: Endpoints,
    /// Whether there is room for what is useful beside the rest: milliseconds, retransmits,
    /// round-trip times.
    pub(crate) is_roomy: bool,
    /// Columns of an age. A range fits if the layout is roomy.
    pub(crate) age: usize,
    /// Columns of a process in the stuck view.
    pub(crate) process: usize,
    /// Columns of a process in the other views.
    pub(crate) actor: usize,
    /// Columns of a descriptor.
    pub(crate) descriptor: usize,
}

impl Layout {
    /// Fits the columns to a terminal of this width, or to none.
    pub(crate) fn fit(width: Option<u16>, needs: ColumnNeeds) -> Self {
        let ColumnNeeds { endpoint, descriptor, process: min_process } = needs;
        let width = width.map(|width| usize::from(if width == 0 { DEFAULT_WIDTH } else { width }));
        // A wide descriptor takes columns from the process, and from the ends what the process
        // cannot spare.
        let excess = descriptor - DESCRIPTOR;
        let process = |usual: usize| usual.saturating_sub(excess).max(min_process);
        let taken_from_ends = |usual| process(usual) + excess - usual;
        let (endpoints, is_roomy) = match width {
            None => (Endpoints::Both(endpoint), true),
            Some(width) if width >= BESIDE_BOTH + 2 * endpoint + taken_from_ends(20) => {
                (Endpoints::Both(endpoint), true)
            }
            Some(width) if width >= BESIDE_REMOTE + endpoint + ROOMY + taken_from_ends(20) => {
                (Endpoints::LocalPort(endpoint), true)
            }
            Some(width) if width >= MIN_WIDTH_FOR_ENDS => {
                let room = width.saturating_sub(BESIDE_REMOTE + taken_from_ends(15));
                (Endpoints::LocalPort(endpoint.min(room)), false)
            }
            Some(_) => (Endpoints::Below, false),
        };
        let (age, usual_process, actor) = if is_roomy { (15, 20, 16) } else { (8, 15, 14) };
        Self { width, endpoints, is_roomy, age, process: process(usual_process), actor, descriptor }
    }

    /// Returns the heading of both ends, with the space behind it.
    pub(crate) fn endpoints_heading(&self) -> String {
        match self.endpoints {
            Endpoints::Both(width) => format!("{:width$} {:width$} ", "LOCAL", "REMOTE"),
            Endpoints::LocalPort(width) => format!("LPORT {:width$} ", "REMOTE"),
            Endpoints::Below => String::new(),
        }
    }

    /// Returns the indent of a line that continues a record.
    pub(crate) fn continuation_indent(&self) -> usize {
        if self.endpoints == Endpoints::Below { 2 } else { 9 }
    }

    /// Whether the terminal has that many columns.
    pub(crate) fn has_room_for(&self, columns: usize) -> bool {
        self.width.is_none_or(|width| columns <= width)
    }
}
