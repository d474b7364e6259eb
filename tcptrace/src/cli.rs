//! The command line: parsed and checked before anything is touched.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use tcptrace_common::state;

use crate::{filter::Filter, kernel::Feature, report::Views, states::State, tracker::Policy};

/// Thresholds and the like must leave room for sums on a 64-bit nanosecond clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reports TCP sockets stuck in CLOSE_WAIT: since when, held by whom, and why.
///
/// A socket is in CLOSE_WAIT when the peer has closed the connection and the local process has not. They pile
/// up when a program forgets to close, until it runs out of file descriptors.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// One record per TCP state transition; the default when no view is named
    #[arg(long, help_heading = "Views")]
    transitions: bool,

    /// One record when a socket has been in a watched state for DUR, one when it clears
    #[arg(long, value_name = "DUR", value_parser = duration, help_heading = "Views")]
    stuck: Option<Duration>,

    /// One record per connection when it is over: how long, who closed it and why, bytes, retransmits
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
    #[arg(long, value_name = "DUR", value_parser = positive_duration, requires = "stuck", help_heading = "Views")]
    remind: Option<Duration>,

    /// Judge what is open right now, report, exit with 1 if anything is stuck
    #[arg(
        long,
        requires = "stuck",
        conflicts_with_all = ["transitions", "lives", "remind", "duration"],
        help_heading = "Views"
    )]
    once: bool,

    /// Read a recorded JSON stream (`-` is stdin) in place of the kernel; needs no privilege
    #[arg(long, value_name = "FILE", conflicts_with_all = ["once", "duration", "without"], help_heading = "Views")]
    replay: Option<PathBuf>,

    #[command(flatten)]
    filter: Filter,

    /// Stop after DUR
    #[arg(long, value_name = "DUR", value_parser = positive_duration, help_heading = "Output")]
    duration: Option<Duration>,

    /// Stop after N records of the views
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Output")]
    count: Option<u64>,

    /// One JSON object per line instead of aligned text
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Do not use a kernel feature: for trying out what an older kernel would do
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', hide = true)]
    without: Vec<Feature>,

    /// Size of the ring that transitions come through, bytes: a power of two, of 4096 at least
    #[arg(long, value_name = "BYTES", value_parser = ring_size, default_value_t = 4 << 20, hide = true)]
    ring_size: u32,

    /// Bytes of output that may wait for a slow reader before transitions are dropped: 4096 at least
    #[arg(long, value_name = "BYTES", value_parser = queue_size, default_value_t = 32 << 20, hide = true)]
    queue_size: usize,
}

const AFTER_HELP: &str = "\
DUR is a number with a unit: 500ms, 30s, 2m, 1h30m.

Examples:
  sudo tcptrace --stuck 30s            what is stuck, as it happens
  sudo tcptrace --stuck 30s --json     the same for a log pipeline
  sudo tcptrace --stuck 30s --once     for a health check: 1 if anything is stuck
  sudo tcptrace --lives                each connection when it is over: who closed it, why, bytes
  sudo tcptrace                        every TCP state transition
  sudo tcptrace --port 443 -6          those of some sockets
  tcptrace --replay FILE --stuck 5s    what a recording says with another threshold

Exit status: 0 done; 1 --once found stuck sockets; 2 wrong usage; 3 this host cannot
be traced; 4 failed while running.";

/// What to do, from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which records to make.
    pub views: Views,
    /// What the tracker is to look for.
    pub policy: Policy,
    /// The states in `policy.watched`, as they were named.
    pub states: Vec<State>,
    /// Whether to judge what is open right now, and end.
    pub once: bool,
    /// What is to be read in place of the kernel.
    pub replay: Option<PathBuf>,
    /// What is reported.
    pub filter: Filter,
    /// When to stop.
    pub duration: Option<Duration>,
    /// After how many records to stop.
    pub count: Option<u64>,
    /// JSON in place of text.
    pub json: bool,
    /// Kernel features to leave alone.
    pub without: Vec<Feature>,
    /// Size of the ring, bytes.
    pub ring_bytes: u32,
    /// How much output may wait for a slow reader, bytes.
    pub queue_bytes: usize,
}

impl Plan {
    /// What the view of stuck sockets is of, in words: `30s in CLOSE-WAIT`.
    pub fn watched(&self) -> String {
        format!("{} in {}", self.threshold(), self.state_names())
    }

    /// The threshold in words.
    pub fn threshold(&self) -> String {
        humantime::format_duration(Duration::from_nanos(self.policy.threshold_ns)).to_string()
    }

    /// The watched states as `ss` spells them.
    pub fn state_names(&self) -> String {
        let names: Vec<_> = self.states.iter().map(|state| state.ss_name()).collect();
        names.join(", ")
    }
}

impl Cli {
    /// What these arguments ask for.
    pub fn plan(self) -> Plan {
        let (stuck, lives) = (self.stuck.is_some(), self.lives);
        let views = Views { transitions: self.transitions || !(stuck || lives), stuck, lives };
        let watched =
            if views.stuck { self.state.iter().fold(0, |mask, state| mask | state.bit()) } else { 0 };
        let policy = Policy {
            followed: if views.transitions || views.lives { state::ALL } else { watched },
            watched,
            threshold_ns: self.stuck.map_or(0, nanoseconds),
            remind_ns: self.remind.map(nanoseconds),
            lives,
        };
        Plan {
            views,
            policy,
            states: self.state,
            once: self.once,
            replay: self.replay,
            filter: self.filter,
            duration: self.duration,
            count: self.count,
            json: self.json,
            without: self.without,
            ring_bytes: self.ring_size,
            queue_bytes: self.queue_size,
        }
    }
}

/// `500ms`, `30s`, `1h30m`; never a bare number.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| match text.trim().parse::<f64>() {
        Ok(_) => format!("a duration needs a unit, for example `{text}s` or `{text}ms`"),
        Err(_) => format!("{error}; a duration looks like 500ms, 30s, 2m or 1h30m"),
    })?;
    if duration > LONGEST {
        return Err("longer than 100 years".to_owned());
    }
    Ok(duration)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

fn ring_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("a ring is a power of two of bytes, from 4096 to 1073741824".to_owned()),
    }
}

fn queue_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if (4096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("a queue has from 4096 to 1073741824 bytes".to_owned()),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn plan(arguments: &str) -> Result<Plan, clap::Error> {
        Cli::try_parse_from(std::iter::once("tcptrace").chain(arguments.split_whitespace())).map(Cli::plan)
    }

    fn refusal(arguments: &str) -> String {
        plan(arguments).expect_err(arguments).to_string()
    }

    #[test]
    fn no_view_is_all_transitions() {
        let plan = plan("").expect("valid");
        assert_eq!(plan.views, Views { transitions: true, stuck: false, lives: false });
        assert_eq!((plan.policy.followed, plan.policy.watched), (state::ALL, 0));
    }

    #[test]
    fn stuck_alone_follows_only_what_it_watches() {
        let plan = plan("--stuck 1h30m").expect("valid");
        assert_eq!(plan.views, Views { transitions: false, stuck: true, lives: false });
        assert_eq!(plan.policy.threshold_ns, 5_400_000_000_000);
        assert_eq!(plan.policy.followed, state::bit(state::CLOSE_WAIT));
        assert_eq!(plan.policy.watched, state::bit(state::CLOSE_WAIT));
    }

    #[test]
    fn views_add_up() {
        let plan =
            plan("--stuck 500ms --transitions --state fin-wait-2,CLOSE_WAIT --remind 2m").expect("valid");
        assert_eq!(plan.views, Views { transitions: true, stuck: true, lives: false });
        assert_eq!(plan.policy.followed, state::ALL);
        assert_eq!(plan.policy.watched, state::bit(state::CLOSE_WAIT) | state::bit(state::FIN_WAIT2));
        assert_eq!(plan.policy.remind_ns, Some(120_000_000_000));
    }

    #[test]
    fn lives_follow_every_state_and_add_up_with_what_is_stuck() {
        let plan_of = |arguments| plan(arguments).expect("valid");
        assert_eq!(plan_of("--lives").views, Views { transitions: false, stuck: false, lives: true });
        let both = plan_of("--lives --stuck 30s");
        assert_eq!(both.views, Views { transitions: false, stuck: true, lives: true });
        assert_eq!((both.policy.followed, both.policy.lives), (state::ALL, true));
        assert_eq!(both.policy.watched, state::bit(state::CLOSE_WAIT));
    }

    #[test]
    fn once_is_a_way_to_look_at_what_is_stuck() {
        assert!(plan("--stuck 30s --once --json --state fin-wait-2").expect("valid").once);
        assert!(!plan("--stuck 30s").expect("valid").once);
    }

    #[test]
    fn a_bare_number_is_no_duration_and_the_error_says_so() {
        assert!(refusal("--stuck 30").contains("needs a unit, for example `30s`"));
        assert!(refusal("--duration 1.5").contains("needs a unit"));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for arguments in [
            "--stuck",
            "--stuck -5s",
            "--stuck 30x",
            "--stuck 30s --state time-wait",
            "--stuck 30s --state nonsense",
            "--state close-wait",
            "--remind 5s",
            "--stuck 30s --remind 0s",
            "--duration 0s",
            "--count 0",
            "--count -1",
            "--count 1e3",
            "--once",
            "--once --transitions",
            "--stuck 30s --once --transitions",
            "--stuck 30s --once --lives",
            "--stuck 30s --once --duration 5s",
            "--stuck 30s --once --remind 5s",
            "--stuck 99999999999999999999s",
            "--stuck 101years",
            "--ring-size 5000",
            "--ring-size 2048",
            "--queue-size 4095",
            "--queue-size 1073741825",
            "--queue-size 1k",
            "--replay",
            "--stuck 30s --once --replay x",
            "--replay x --duration 5s",
            "--port 0-65536",
            "--nonsense",
            "leftover",
        ] {
            let error = plan(arguments).expect_err(arguments);
            assert_eq!(error.exit_code(), 2, "{arguments}");
        }
    }

    #[test]
    fn what_waits_in_memory_is_bounded_as_asked_for() {
        let bounds = |arguments| {
            let plan = plan(arguments).expect("valid");
            (plan.ring_bytes, plan.queue_bytes)
        };
        assert_eq!(bounds(""), (4 << 20, 32 << 20));
        assert_eq!(bounds("--ring-size 8192 --queue-size 5000"), (8192, 5000));
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for (argument, kind) in [("--help", ErrorKind::DisplayHelp), ("--version", ErrorKind::DisplayVersion)]
        {
            let answer = plan(argument).expect_err(argument);
            assert_eq!((answer.kind(), answer.exit_code()), (kind, 0));
        }
    }
}
