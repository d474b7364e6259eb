//! Which columns there are, and how wide: what the terminal has room for, and what has to stand in them.
//!
//! Every view needs the same for its other columns, so that one rule holds for all of them.

/// Columns of a terminal that does not know its size.
const USUAL: u16 = 80;

/// Columns that every view needs beside the two ends of a socket: with the local port only, and with both ends in full.
const WITH_PORT: usize = 59;
const WITH_BOTH: usize = 68;

/// With so much to spare, the local port's layout has the wider columns too.
const SPARE: usize = 14;

/// A terminal that is narrower has both ends on a line of their own.
const NARROW: usize = WITH_PORT + SHORT;

/// An end with an IPv4 address: `255.255.255.255:65535`.
pub(crate) const SHORT: usize = 21;

/// An end with an IPv6 address that has no zone: `[2001:db8:…]:65535`.
pub(crate) const LONG: usize = 47;

/// Columns of a descriptor, as a rule; and of a process with two letters of its name.
const DESCRIPTOR: usize = 5;
const PROCESS: usize = 10;

/// What has to stand in the columns that grow: the longest that has been written so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// An end of a socket.
    pub(crate) end: usize,
    /// A descriptor, and how many more there are.
    pub(crate) descriptor: usize,
    /// A process with a name that is cut, and how many more there are.
    pub(crate) process: usize,
}

impl Default for Needs {
    fn default() -> Self {
        Self { end: SHORT, descriptor: DESCRIPTOR, process: PROCESS }
    }
}

impl Needs {
    /// Makes room for an end of so many columns. An IPv6 address makes room for any other, so that a heading changes once.
    pub(crate) fn end(&mut self, columns: usize) {
        if columns > self.end {
            self.end = columns.max(LONG);
        }
    }

    /// Makes room for a descriptor of so many columns.
    pub(crate) fn descriptor(&mut self, columns: usize) {
        self.descriptor = self.descriptor.max(columns);
    }

    /// Makes room for a process of at least so many columns.
    pub(crate) fn process(&mut self, columns: usize) {
        self.process = self.process.max(columns);
    }
}

/// Where the ends of a socket stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Both in columns of this width.
    Both(usize),
    /// The local port, and the remote end in a column of this width.
    Port(usize),
    /// On a line of their own.
    Below,
}

/// The widths of the columns, and what is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of the terminal; `None`: there is none, and nothing is too wide.
    pub(crate) width: Option<usize>,
    pub(crate) ends: Ends,
    /// Whether there is room for what is useful beside the rest: milliseconds, retransmits, round-trip times.
    pub(crate) is_roomy: bool,
    /// An age: a range fits where it is roomy.
    pub(crate) age: usize,
    /// A process in the stuck view; in the others.
    pub(crate) process: usize,
    pub(crate) actor: usize,
    pub(crate) descriptor: usize,
}

impl Layout {
    /// The layout for a terminal of so many columns, or for none.
    pub(crate) fn of(width: Option<u16>, Needs { end, descriptor, process: least }: Needs) -> Self {
        let width = width.map(|width| usize::from(if width == 0 { USUAL } else { width }));
        // A wide descriptor takes columns of the process, and what that cannot spare of the ends.
        let beyond = descriptor - DESCRIPTOR;
        let process = |usual: usize| usual.saturating_sub(beyond).max(least);
        let taken = |usual| process(usual) + beyond - usual;
        let (ends, is_roomy) = match width {
            None => (Ends::Both(end), true),
            Some(width) if width >= WITH_BOTH + 2 * end + taken(20) => (Ends::Both(end), true),
            Some(width) if width >= WITH_PORT + end + SPARE + taken(20) => (Ends::Port(end), true),
            Some(width) if width >= NARROW => {
                (Ends::Port(end.min(width.saturating_sub(WITH_PORT + taken(15)))), false)
            }
            Some(_) => (Ends::Below, false),
        };
        let (age, usual, actor) = if is_roomy { (15, 20, 16) } else { (8, 15, 14) };
        Self { width, ends, is_roomy, age, process: process(usual), actor, descriptor }
    }

    /// The heading of both ends, in one piece with the blank behind it.
    pub(crate) fn ends_heading(&self) -> String {
        match self.ends {
            Ends::Both(width) => format!("{:width$} {:width$} ", "LOCAL", "REMOTE"),
            Ends::Port(width) => format!("LPORT {:width$} ", "REMOTE"),
            Ends::Below => String::new(),
        }
    }

    /// How far a line is indented that goes on with a record.
    pub(crate) fn indent(&self) -> usize {
        if self.ends == Ends::Below { 2 } else { 9 }
    }

    /// Whether so many columns fit.
    pub(crate) fn fits(&self, columns: usize) -> bool {
        self.width.is_none_or(|width| columns <= width)
    }
}
