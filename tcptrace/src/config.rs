//! What a run is asked for: plain data, which the command line fills in and the sources read.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::{
    engine::{filter::Filter, tracker::Policy},
    events::{State, Views},
    host::features::Feature,
};

/// What a run is to do, from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The views, each of which has records of its own.
    pub views: Views,
    /// What the tracker looks for.
    pub policy: Policy,
    /// As a mask, the states whose sockets a JSON stream of transitions gets `found` records for,
    /// so that it can be replayed.
    pub recorded_states: u32,
    /// The states in `policy.watched`, in the order given.
    pub states: Vec<State>,
    /// Whether to judge the sockets that are open now, and exit.
    pub once: bool,
    /// The recording to read instead of the kernel.
    pub replay: Option<PathBuf>,
    /// The filters that a record has to pass.
    pub filter: Filter,
    /// How long to run.
    pub duration: Option<Duration>,
    /// After how many records to stop.
    pub count: Option<u64>,
    /// Whether to write JSON instead of text.
    pub json: bool,
    /// The file that records are appended to; `None` is stdout.
    pub output: Option<PathBuf>,
    /// When text has colour.
    pub color: Color,
    /// How much to print on stderr: below 0 less than usual, above 0 more.
    pub verbosity: i8,
    /// The address at which metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Kernel features that are not used.
    pub without: Vec<Feature>,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// How many bytes of output may wait for a slow reader.
    pub queue_bytes: usize,
}

impl Config {
    /// Formats what `--stuck` watches: `30s in CLOSE-WAIT`.
    pub fn format_watched(&self) -> String {
        format!("{} in {}", self.format_threshold(), self.state_names())
    }

    /// Formats the threshold.
    pub fn format_threshold(&self) -> String {
        humantime::format_duration(Duration::from_nanos(self.policy.threshold_ns)).to_string()
    }

    /// Lists the watched states, as `ss` spells them.
    pub fn state_names(&self) -> String {
        let names: Vec<_> = self.states.iter().map(|state| state.ss_name()).collect();
        names.join(", ")
    }
}

/// When text has colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless the environment forbids it.
    Auto,
    /// Text always has colour.
    Always,
    /// Text never has colour.
    Never,
}
