//! What a user asks of a replay while it goes on, by signals: to end, or to open its file again.

use std::{
    io::{self, PipeReader, PipeWriter, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::signal::{SIGHUP, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

use crate::sources::shutdown::is_ignored;

/// What has been asked for so far.
#[derive(Clone, Debug)]
pub struct Interruption {
    end: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
    /// Readable after each signal.
    woken: Arc<PipeReader>,
    waker: Arc<PipeWriter>,
}

impl Interruption {
    /// Nothing is asked for, and no signal is listened to.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let (woken, waker) = io::pipe()?;
        let (end, reopen) = Default::default();
        Ok(Self { end, reopen, woken: Arc::new(woken), waker: Arc::new(waker) })
    }

    /// Listens to SIGINT and SIGTERM, which ask for the end, and to SIGHUP: with `reopens` it asks
    /// for the file to be opened again, else for the end, unless it was ignored when this program
    /// was started (nohup(1)).
    ///
    /// # Errors
    /// No descriptor is left, or the kernel refuses a handler.
    pub fn listen_to_signals(&self, reopens: bool) -> io::Result<()> {
        let listen = |signal, request: &Arc<AtomicBool>| {
            flag::register(signal, Arc::clone(request))?;
            pipe::register(signal, OwnedFd::from(self.waker.try_clone()?)).map(drop)
        };
        listen(SIGINT, &self.end)?;
        listen(SIGTERM, &self.end)?;
        if reopens {
            listen(SIGHUP, &self.reopen)?;
        } else if !is_ignored(SIGHUP) {
            listen(SIGHUP, &self.end)?;
        }
        Ok(())
    }

    /// Whether the replay is to end.
    pub fn is_end_requested(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Whether the file is to be opened again, since this was last asked.
    pub fn take_reopen_request(&self) -> bool {
        self.reopen.load(Ordering::Relaxed) && self.reopen.swap(false, Ordering::Relaxed)
    }

    /// The flag that is set once the replay is to end.
    pub fn end_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.end)
    }

    /// What becomes readable when something is asked for, to wait for it besides other things.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Empties it, once it is readable.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn acknowledge(&self) -> io::Result<()> {
        (&*self.woken).read(&mut [0; 64]).map(drop)
    }
}
