//! What ends a run from outside: signals, and `--duration`.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

/// What ends a run from outside.
pub(super) struct Ends {
    signals: [Signal; 3],
    at: Option<Instant>,
}

impl Ends {
    /// Signals, and the time when it has run for so long.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub(super) fn new(duration: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
            at: duration.and_then(|duration| Instant::now().checked_add(duration)),
        })
    }

    /// Waits for one of them.
    pub(super) async fn come(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = until(self.at) => {}
        }
    }
}

/// Waits until then, or forever.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
