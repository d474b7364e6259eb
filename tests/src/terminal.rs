//! Opens pseudo-terminals: some output of the tracer is for terminals only.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

/// Opens a terminal with this many columns. Returns the program's side, and the side to read from.
/// LF stays LF.
///
/// # Panics
/// If there is no `/dev/ptmx`.
pub fn open(columns: u16) -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).expect("/dev/ptmx can be opened");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a fresh pseudo-terminal is ours");
    let theirs = ioctl_tiocgptpeer(&ours, flags).expect("TIOCGPTPEER, Linux 4.13");
    resize(&theirs, columns);
    let mut attributes = tcgetattr(&theirs).expect("a terminal has attributes");
    attributes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &attributes).expect("they can be set");
    (theirs, ours)
}

/// Resizes a terminal to this many columns; either side will do.
///
/// # Panics
/// If it is no terminal.
pub fn resize(terminal: impl AsFd, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}
