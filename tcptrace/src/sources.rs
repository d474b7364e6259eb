//! Where the engine's input comes from: the live kernel, one snapshot of it, or a recording.

pub mod interruption;
pub mod live;
pub mod recording;
pub mod replay;
pub mod shutdown;
pub mod snapshot;

use std::io;

use crate::{
    clock,
    config::Config,
    diagnostics::{print_info, print_problem},
    engine::settings::Settings,
    host::{bpf::decode::DecodeError, shortage::Shortage, walk::error::WalkError},
    outputs::{
        prometheus::serve::CannotServe,
        publisher::Publisher,
        writer::{EarlyEnd, WriteEnd},
    },
    sources::recording::BadLine,
};

/// A run that could not go on. Exit status 4.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel's sockets could not be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The ring held something that is no transition.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The counters of what was lost could not be read.
    #[error("cannot read how much was lost: {0}")]
    Counters(#[from] aya::maps::MapError),
    /// The records could not be written.
    #[error(
        "cannot write to {to}: {error}; {}the rest is not written, the summary included",
        if *.is_cut { "the last line is cut off, and " } else { "" }
    )]
    Output {
        /// Where the records went, in words.
        to: String,
        /// Why they could not be written.
        error: io::Error,
        /// Whether only the beginning of the last line was written.
        is_cut: bool,
    },
    /// Privileges that would let the user read more than he may could not be given up.
    #[error("cannot give up privileges before reading the recording: {0}")]
    Privileges(io::Error),
    /// The recording could not be read.
    #[error(transparent)]
    Recording(#[from] BadLine),
    /// Metrics could not be served where that was asked for.
    #[error(transparent)]
    Metrics(#[from] CannotServe),
    /// The thread that writes the records could not be started.
    #[error("cannot start the thread that writes the records: {0}")]
    Writer(#[source] io::Error),
    /// Waiting for the kernel, or for signals, could not be set up.
    #[error("cannot wait for events: {0}")]
    Wait(#[from] io::Error),
}

impl Failure {
    /// What this process or the host has run out of, if that is why.
    pub fn shortage(&self) -> Option<Shortage> {
        Shortage::find_in(self)
    }
}

/// What the engine is asked for.
fn settings_of(config: &Config) -> Settings {
    Settings {
        views: config.views,
        policy: config.policy,
        filter: config.filter.clone(),
        recorded_states: config.recorded_states,
        // A transition as text shows the name only, which the kernel tells.
        describes_actors: config.json,
        jiffy_ns: clock::jiffy_ns(),
    }
}

/// Delivers what was published, and then says the last words, if any: on a terminal both are in one
/// place.
fn deliver(publisher: Publisher, last_words: Option<String>) -> Result<(), Failure> {
    let delivered = publisher.finish();
    last_words.into_iter().for_each(print_info);
    for WriteEnd { to, ended, left } in delivered {
        match ended {
            Some(EarlyEnd::Failed { error, is_cut }) => return Err(Failure::Output { to, error, is_cut }),
            None if left > 0 => {
                print_problem(format_args!("nobody reads {to}: the last {left} bytes were not written"));
            }
            Some(EarlyEnd::ReaderGone) | None => {}
        }
    }
    Ok(())
}
