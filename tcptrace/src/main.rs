//! The program: arguments in, exit status out. What happens in between is in the library.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd as _,
    path::Path,
    process::ExitCode,
};

use tcptrace::{
    cli::{Cli, Plan},
    diagnostics::say,
    kernel::{Kernel, Options, own_zones},
    metrics::Listener,
    once::{self, Verdict},
    output::Output,
    replay,
    report::{Json, Text},
    scheduling,
    session::{self, Failure},
    sink::Format,
    terminal::{Terminal, shows_colour},
};

/// `--once` found stuck sockets.
const STUCK: u8 = 1;
/// Wrong usage.
const WRONG_USAGE: u8 = 2;
/// This host cannot be traced, or `--once` could not look at what it was asked about.
const REFUSED: u8 = 3;
/// Failed while running.
const FAILED: u8 = 4;

/// Bytes; a page, where pages are the largest that Linux has.
const SMALLEST_RING: u32 = 64 << 10;

/// Live sockets that can be told apart on kernels without cookies; 16 MB of kernel memory there.
const IDENTITIES: u32 = 262_144;

fn main() -> ExitCode {
    // clap ends the program with 2 for wrong usage, with 0 after --help.
    let plan = Cli::from_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit()).plan();
    if let Some(file) = &plan.replay {
        return status(replay(&plan, file));
    }
    let options = Options {
        watched_states: plan.policy.followed,
        lives: plan.policy.lives,
        transitions: !plan.once,
        // Of no use without transitions, and the smallest is the fastest to make.
        ring_bytes: if plan.once { SMALLEST_RING } else { plan.ring_bytes },
        identities: IDENTITIES,
        without: plan.without.clone(),
    };
    // Before privileges are given up that a port below 1024 takes.
    let metrics = match plan.metrics.map(Listener::bind).transpose() {
        Ok(metrics) => metrics,
        Err(error) => return status(Err(error.into())),
    };
    let kernel = match Kernel::attach(&options) {
        Ok(kernel) => kernel,
        Err(refusal) => {
            say(refusal);
            return REFUSED.into();
        }
    };
    status(run(&plan, kernel, metrics))
}

/// The exit status, and a word on stderr where something failed.
fn status(ended: Result<ExitCode, Failure>) -> ExitCode {
    ended.unwrap_or_else(|failure| {
        say(failure);
        FAILED.into()
    })
}

/// Runs, or looks once.
fn run(plan: &Plan, kernel: Kernel, metrics: Option<Listener>) -> Result<ExitCode, Failure> {
    if !plan.once {
        // Without it the run is as right, and only less considerate.
        let _refused = scheduling::wait_for_others();
    }
    let (format, output) = stdout(plan)?;
    if plan.once {
        return Ok(match once::run(plan, kernel, output, format)? {
            Verdict::NothingStuck => ExitCode::SUCCESS,
            Verdict::Stuck => STUCK.into(),
            Verdict::NotLookedAt => REFUSED.into(),
        });
    }
    if let Some(metrics) = &metrics {
        say(format_args!("metrics at {}", metrics.url()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(session::run(plan, kernel, output, format, metrics))?;
    Ok(ExitCode::SUCCESS)
}

/// Replays a recording.
fn replay(plan: &Plan, file: &Path) -> Result<ExitCode, Failure> {
    let recording: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        match File::open(file) {
            Ok(file) => Box::new(BufReader::with_capacity(1 << 20, file)),
            Err(error) => {
                say(format_args!("cannot open {}: {error}", file.display()));
                return Ok(WRONG_USAGE.into());
            }
        }
    };
    let (format, output) = stdout(plan)?;
    replay::run(plan, recording, output, format)?;
    Ok(ExitCode::SUCCESS)
}

/// What to write to stdout, and how.
fn stdout(plan: &Plan) -> Result<(Format, Output), Failure> {
    let stdout = std::io::stdout();
    let format = if plan.json {
        Format::Json(Json::default())
    } else {
        let terminal = Terminal::behind(&stdout)?;
        let colour = terminal.is_some() && shows_colour(|name| std::env::var_os(name));
        let size = terminal.as_ref().map(Terminal::size);
        let text = Text::new(size.map(|size| size.columns), colour, jiff::tz::TimeZone::system());
        // A recording may be of another host.
        let zones = if plan.replay.is_none() { own_zones() } else { None };
        let text = text.with_zones(zones);
        Format::Text { text: Box::new(text), terminal }
    };
    // Not through std's stdout, which cuts lines where its buffer ends.
    let output = Output::start(File::from(stdout.as_fd().try_clone_to_owned()?), plan.queue_bytes)?;
    Ok((format, output))
}
