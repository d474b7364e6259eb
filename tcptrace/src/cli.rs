//! The command line. It is parsed and checked before anything else happens.

pub mod advice;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Parser};
use tcptrace_common::state;

use crate::{
    config::{Color, Config},
    engine::{filter::Filter, tracker::Policy},
    events::{State, Views},
    host::features::Feature,
};

/// The longest duration: sums of two still fit a 64-bit nanosecond clock.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Reports TCP sockets stuck in CLOSE_WAIT: since when, held by whom, and why.
///
/// A socket is in CLOSE_WAIT when the peer has closed the connection and the local process has
/// not. They pile up when a program forgets to close, until it runs out of file descriptors.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub struct Cli {
    /// One record per TCP state transition; the default when no view is named
    #[arg(long, help_heading = "Views")]
    transitions: bool,

    /// One record when a socket has been in a watched state for DUR, one when it clears
    #[arg(
        long,
        value_name = "DUR",
        value_parser = parse_duration,
        allow_hyphen_values = true,
        help_heading = "Views"
    )]
    stuck: Option<Duration>,

    /// One record per connection when it is over: how long, who closed it and why, bytes,
    /// retransmits
    #[arg(long, help_heading = "Views")]
    lives: bool,

    /// The states that --stuck watches, as `ss` spells them
    #[arg(
        long,
        value_name = "S[,S…]",
        requires = "stuck",
        value_delimiter = ',',
        default_value = "close-wait",
        help_heading = "Views"
    )]
    state: Vec<State>,

    /// Repeat the record of a socket that is still stuck, every DUR
    #[arg(
        long,
        value_name = "DUR",
        value_parser = parse_positive_duration,
        allow_hyphen_values = true,
        requires = "stuck",
        help_heading = "Views"
    )]
    remind: Option<Duration>,

    /// Judge the sockets that are open now, report, and exit: with 1 if any is stuck
    #[arg(
        long,
        requires = "stuck",
        conflicts_with_all = ["transitions", "lives", "remind", "duration"],
        help_heading = "Views"
    )]
    once: bool,

    /// Read a recorded JSON stream instead of the kernel (`-` is stdin; gzip and zstd too); needs
    /// no privilege
    #[arg(long, value_name = "FILE", conflicts_with_all = ["once", "duration", "without"], help_heading = "Views")]
    replay: Option<PathBuf>,

    #[command(flatten)]
    filter: Filter,

    /// Stop after DUR
    #[arg(
        long,
        value_name = "DUR",
        value_parser = parse_positive_duration,
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    duration: Option<Duration>,

    /// Stop after N records of the views
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_count,
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    count: Option<u64>,

    /// One JSON object per line instead of aligned text
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Append the records to FILE instead of stdout; SIGHUP reopens it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,

    /// Colour the text; `auto` obeys `NO_COLOR`
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    color: Color,

    /// Print only errors and warnings on stderr
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,

    /// Print more on stderr: what is watched and the totals, also with --json
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,

    /// Serve Prometheus metrics at http://ADDR:PORT/metrics while running
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = parse_address,
        conflicts_with_all = ["once", "replay"],
        help_heading = "Output"
    )]
    metrics: Option<SocketAddr>,

    /// Do not use these kernel features: shows what an older kernel would do
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', hide = true)]
    without: Vec<Feature>,

    /// Size of the ring buffer for transitions, bytes: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", value_parser = parse_ring_size, default_value_t = 4 << 20, hide = true)]
    ring_size: u32,

    /// Bytes of output that may wait for a slow reader before transitions are dropped: at least
    /// 4096
    #[arg(long, value_name = "BYTES", value_parser = parse_queue_size, default_value_t = 32 << 20, hide = true)]
    queue_size: usize,
}

const AFTER_HELP: &str = "\
DUR is a number with a unit: 500ms, 30s, 2m, 1h30m.

Examples:
  sudo tcptrace --stuck 30s            sockets that are stuck, as it happens
  sudo tcptrace --stuck 30s --json     the same for a log pipeline
  sudo tcptrace --stuck 30s --once     a health check: status 1 if any is stuck
  sudo tcptrace --lives                each connection when it is over
  sudo tcptrace                        every TCP state transition
  sudo tcptrace --port 443 -6          those of some sockets only
  sudo tcptrace --stuck 30s --metrics 127.0.0.1:9777
                                       Prometheus metrics beside the records
  sudo tcptrace --lives --json --output FILE
                                       append to FILE; SIGHUP reopens it
  tcptrace --replay FILE --stuck 5s    a recording, judged by another threshold;
                                       FILE may be compressed (.gz, .zst)

Exit status:
  0  done
  1  --once found stuck sockets
  2  wrong usage
  3  this host cannot be traced, or --once could not look at what it was asked
     about
  4  failed while running";

impl Cli {
    /// Parses the program's arguments.
    ///
    /// # Errors
    /// Wrong usage, or a request for help: clap's error prints itself, with a tip, and carries the
    /// exit status.
    pub fn from_arguments<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments).map_err(advice::add_tip)
    }

    /// Returns what these arguments ask for.
    pub fn into_config(self) -> Config {
        let (stuck, lives) = (self.stuck.is_some(), self.lives);
        let views = Views { transitions: self.transitions || !(stuck || lives), stuck, lives };
        let named = self.state.iter().fold(0, |mask, state| mask | state.bit());
        let watched = if views.stuck { named } else { 0 };
        let policy = Policy {
            followed: if views.transitions || views.lives { state::ALL } else { watched },
            watched,
            threshold_ns: self.stuck.map_or(0, nanoseconds),
            remind_ns: self.remind.map(nanoseconds),
            lives,
        };
        Config {
            views,
            policy,
            recorded_states: if views.transitions && self.json { named } else { 0 },
            states: self.state,
            once: self.once,
            replay: self.replay,
            filter: self.filter,
            duration: self.duration,
            count: self.count,
            json: self.json,
            output: self.output.filter(|path| path.as_os_str() != "-"),
            color: self.color,
            verbosity: if self.quiet { -1 } else { i8::from(self.verbose > 0) },
            metrics: self.metrics,
            without: self.without,
            ring_bytes: self.ring_size,
            queue_bytes: self.queue_size,
        }
    }
}

/// Parses `500ms`, `30s` or `1h30m`; never a bare number.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const RIGHT: &str = "a duration looks like 500ms, 30s, 2m or 1h30m";
    if let Some(positive) = text.strip_prefix('-') {
        return Err(match parse_duration(positive) {
            Ok(_) => format!("a duration is not negative: did you mean {positive}?"),
            Err(_) => RIGHT.to_owned(),
        });
    }
    // humantime takes a bare `0`.
    if text.trim().parse().is_ok_and(f64::is_finite) {
        return Err(format!("a duration needs a unit, for example `{text}s` or `{text}ms`"));
    }
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; {RIGHT}"))?;
    if duration > LONGEST {
        return Err("a duration is at most 100 years".to_owned());
    }
    Ok(duration)
}

fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it has to be longer than 0, for example 30s".to_owned()),
        duration => Ok(duration),
    }
}

/// Parses a number of records.
fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("it has to be at least 1; without --count the run does not stop by itself".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("a number of records is at least 1, for example 10".to_owned()),
    }
}

/// Parses `127.0.0.1:9777` or `[::1]:9777`; never a bare port, which does not say who can reach
/// it.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.trim_start_matches(['*', ':']).parse::<u16>() {
        Ok(port) => format!("an address is needed too, for example 127.0.0.1:{port}"),
        Err(_) => "an address and a port are needed, for example 127.0.0.1:9777 or [::1]:9777".to_owned(),
    })
}

fn parse_ring_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("the size of the ring is a power of two, from 4096 to 1073741824 bytes".to_owned()),
    }
}

fn parse_queue_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if (4096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("the size of the queue is from 4096 to 1073741824 bytes".to_owned()),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
