//! The terminal that text goes to: its size, and whether it shows colours.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::fd::{AsFd, OwnedFd},
};

/// A terminal. It may be resized at any time, so its size is read before each batch of lines.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

/// The size of a terminal, in characters; 0 if the terminal does not know it (serial lines, some
/// containers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The number of columns.
    pub columns: u16,
    /// The number of rows.
    pub rows: u16,
}

impl Terminal {
    /// Returns the terminal behind a file, or `None` if the file is something else.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn behind_file(file: &impl AsFd) -> io::Result<Option<Self>> {
        let fd = file.as_fd();
        if !fd.is_terminal() {
            return Ok(None);
        }
        fd.try_clone_to_owned().map(|fd| Some(Self(fd)))
    }

    /// Returns the size now (`TIOCGWINSZ`).
    pub fn size(&self) -> Size {
        // A terminal that has hung up has no size. The next write fails.
        rustix::termios::tcgetwinsize(&self.0)
            .map_or_else(|_| Size::default(), |size| Size { columns: size.ws_col, rows: size.ws_row })
    }
}

/// Whether the environment allows colours: not with `NO_COLOR` (<https://no-color.org>), and not
/// if `TERM` is unset, empty or `dumb`.
pub fn shows_colour(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let value = |name| variable(name).unwrap_or_default();
    let term = value("TERM");
    value("NO_COLOR").is_empty() && !term.is_empty() && term != "dumb"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_that_has_it_and_a_user_who_wants_it() {
        for (no_colour, term, expected) in [
            (None, Some("xterm"), true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (Some("0"), Some("xterm"), false),
            (None, Some("dumb"), false),
            (None, Some(""), false),
            (None, None, false),
        ] {
            let variable = |name: &str| match name {
                "NO_COLOR" => no_colour.map(OsString::from),
                "TERM" => term.map(OsString::from),
                _ => None,
            };
            assert_eq!(shows_colour(variable), expected, "NO_COLOR={no_colour:?} TERM={term:?}");
        }
    }
}
