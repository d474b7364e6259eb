//! A pseudo-terminal, for what the tracer does on a terminal alone.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

/// Opens a terminal of so many columns: (the program's side, the side to read from). It shows bytes as they are
/// written, without making CR LF of LF.
///
/// # Panics
/// There is no `/dev/ptmx`.
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

/// Resizes a terminal to so many columns, by either side.
///
/// # Panics
/// It is no terminal.
pub fn resize(terminal: impl AsFd, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}
