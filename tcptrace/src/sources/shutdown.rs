//! What ends a run from outside, or asks for its file to be opened again: signals, `--duration`,
//! and a reader that has gone.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, ptr, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use crate::outputs::writer::is_reader_gone;

/// What somebody asks for from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownRequest {
    /// The run is to end.
    End,
    /// The output file is to be opened again, as log rotation asks for.
    Reopen,
}

/// Waits for whatever ends a run from outside.
pub(super) struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if whoever started this wants it to go on without its terminal (nohup(1)).
    hangup: Option<Signal>,
    /// Whether SIGHUP asks for the output file to be opened again.
    reopens: bool,
    at: Option<Instant>,
    /// The other end of stdout.
    reader: Option<AsyncFd<OwnedFd>>,
}

impl Shutdown {
    /// Ends a run by signals, when it has run for `duration`, and when the reader of `reader` has
    /// gone. With `reopens`, SIGHUP asks for the output file instead.
    ///
    /// SIGINT and SIGTERM end a run even if they were ignored before: a script that starts this in
    /// the background, where the shell has SIGINT ignored, ends it with `kill -INT`, as it does
    /// tcpdump.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub(super) fn new(
        duration: Option<Duration>,
        reader: Option<&OwnedFd>,
        reopens: bool,
    ) -> io::Result<Self> {
        let hangup =
            if reopens || !is_ignored(libc::SIGHUP) { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            reopens,
            at: duration.and_then(|duration| Instant::now().checked_add(duration)),
            reader: reader.map(watch_reader).transpose()?.flatten(),
        })
    }

    /// Waits for a request.
    pub(super) async fn next_request(&mut self) -> ShutdownRequest {
        let Self { interrupt, terminate, hangup, reopens, at, reader } = self;
        tokio::select! {
            _ = interrupt.recv() => ShutdownRequest::End,
            _ = terminate.recv() => ShutdownRequest::End,
            () = receive_signal(hangup.as_mut()) => if *reopens { ShutdownRequest::Reopen } else { ShutdownRequest::End },
            () = reader_gone(reader.as_ref()) => ShutdownRequest::End,
            () = sleep_until_or_forever(*at) => ShutdownRequest::End,
        }
    }
}

/// Whether a signal was ignored when this program was started.
pub(super) fn is_ignored(number: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is set; the kernel writes what is in force to where there is room for it.
    let got = unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it has been written where the call succeeded.
    got == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Waits for a signal; forever where it is not waited for.
async fn receive_signal(signal: Option<&mut Signal>) {
    match signal {
        // `None` never comes: nothing ends this stream.
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A pipe, a socket or a terminal, to wait for its other end to go. `None` for what cannot be
/// waited for, such as `/dev/null`.
fn watch_reader(file: &OwnedFd) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    // Nothing is read from it: that it has gone is told whatever is waited for.
    let interest = Interest::READABLE.add(Interest::ERROR);
    // SAFETY: an `OwnedFd` is open, and stays the same descriptor, for as long as the `AsyncFd`
    // owns it.
    Ok(unsafe { AsyncFd::register_with_interest(file.try_clone()?, interest) }.ok())
}

/// Waits until nobody can read it any more.
async fn reader_gone(reader: Option<&AsyncFd<OwnedFd>>) {
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
pub(super) async fn sleep_until_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
