//! What ends a run from outside: signals, `--duration`, and a reader that has gone.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, ptr, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use crate::outputs::writer::{LineWriter, is_reader_gone};

/// What ends a run from outside.
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started this wants it to go on without its terminal (nohup(1)).
    hangup: Option<Signal>,
    /// Whether SIGHUP asks for the output file to be opened again, as log rotation does.
    opens_again: bool,
    at: Option<Instant>,
    /// The other end of stdout.
    reader: Option<AsyncFd<OwnedFd>>,
}

impl Ends {
    /// Signals, the time when it has run for so long, and the end of whoever reads `output`.
    ///
    /// SIGINT and SIGTERM end a run also where they were ignored before: a script that starts this in the background, where
    /// the shell has SIGINT ignored, ends it with `kill -INT`, as it does tcpdump.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub(crate) fn new(
        duration: Option<Duration>,
        output: &LineWriter,
        opens_again: bool,
    ) -> io::Result<Self> {
        let hangup =
            if opens_again || !is_ignored(libc::SIGHUP) { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            opens_again,
            at: duration.and_then(|duration| Instant::now().checked_add(duration)),
            reader: output.reader().map(watch).transpose()?.flatten(),
        })
    }

    /// Waits for one of them. What asks for the output file to be opened again is passed on meanwhile.
    pub(crate) async fn come(&mut self, output: &LineWriter) {
        let Self { interrupt, terminate, hangup, opens_again, at, reader } = self;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                () = received(hangup.as_mut()) => {
                    if !*opens_again {
                        return;
                    }
                    output.reopen();
                }
                () = gone(reader.as_ref()) => return,
                () = until(*at) => return,
            }
        }
    }
}

/// Whether a signal was ignored when this program was started.
fn is_ignored(number: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is set; the kernel writes what is in force to where there is room for it.
    let got = unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it has been written where the call succeeded.
    got == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Waits for a signal; forever where it is not waited for.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        // `None` never comes: nothing ends this stream.
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A pipe, a socket or a terminal, to wait for its other end to go. `None` for what cannot be waited for, such as
/// `/dev/null`.
fn watch(file: &OwnedFd) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    // Nothing is read from it: that it has gone is told whatever is waited for.
    let interest = Interest::READABLE.add(Interest::ERROR);
    // SAFETY: an `OwnedFd` is open, and stays the same descriptor, for as long as the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(file.try_clone()?, interest) }.ok())
}

/// Waits until nobody can read it any more.
async fn gone(reader: Option<&AsyncFd<OwnedFd>>) {
    let Some(reader) = reader else { return std::future::pending().await };
    while let Ok(mut ready) = reader.ready(Interest::READABLE.add(Interest::ERROR)).await {
        if is_reader_gone(reader.get_ref()) {
            return;
        }
        // A key was pressed at the terminal, or a socket's peer has sent something.
        ready.clear_ready();
    }
    std::future::pending::<()>().await;
}

/// Waits until then, or forever.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
