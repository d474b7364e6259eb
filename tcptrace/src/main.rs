//! The program: arguments in, exit status out. What happens in between is in the library.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::process::getuid;
use tcptrace::{
    cli::Cli,
    config::{Color, Config},
    diagnostics::{escape_harmful, print_info, print_problem, print_problem_lines, set_verbosity},
    host::{
        capabilities::{give_up_all, keep_only_user_rights, keep_only_writing, with_user_rights},
        kernel::Kernel,
        options::Options,
        preflight, scheduling,
        walk::namespaces::own_interface_names,
    },
    outputs::{
        json::Json,
        prometheus::{output::PrometheusOutput, serve::MetricsListener},
        publisher::Publisher,
        stream::StreamOutput,
        text::{TextRenderer, format::TextFormat},
        writer::{LineWriter, WriterOptions, target::Target},
    },
    sources::{
        Failure,
        interruption::Interruption,
        live,
        recording::input::RecordingFile,
        replay,
        snapshot::{self, SnapshotVerdict},
    },
    terminal::{Terminal, shows_colour},
};

/// `--once` found stuck sockets.
const STUCK: u8 = 1;
/// Exit status: the command line is wrong, or a file that it names cannot be used.
const WRONG_USAGE: u8 = 2;
/// This host cannot be traced, or `--once` could not look at what it was asked about.
const REFUSED: u8 = 3;
/// Failed while running.
const FAILED: u8 = 4;

/// Bytes; a page, where pages are the largest that Linux has.
const SMALLEST_RING: u32 = 64 << 10;

/// Sockets that can be told apart on kernels without cookies; takes 16 MB of kernel memory there.
const MAX_COOKIES: u32 = 262_144;

fn main() -> ExitCode {
    let config = parse_arguments().into_config();
    set_verbosity(config.verbosity);
    if let Some(file) = &config.replay {
        return exit_code(run_replay(&config, file));
    }
    let options = Options {
        watched_states: config.policy.followed,
        lives: config.policy.lives,
        transitions: !config.once,
        // Of no use without transitions, and the smallest is the fastest to make.
        ring_bytes: if config.once { SMALLEST_RING } else { config.ring_bytes },
        max_cookies: MAX_COOKIES,
        without: config.without.clone(),
    };
    // Before any thread is started, and before a file or a port is touched.
    if let Err(error) = preflight::prepare(&options) {
        print_problem_lines(error.explanation());
        return REFUSED.into();
    }
    // Before privileges are given up that a port below 1024 takes.
    let metrics = match config.metrics.map(MetricsListener::bind).transpose() {
        Ok(metrics) => metrics,
        Err(error) => return exit_code(Err(error.into())),
    };
    // Before privileges are given up that root may need for a file in somebody else's folder.
    let target = match open_target(&config) {
        Ok(target) => target,
        Err(status) => return status,
    };
    if !config.once {
        // Without it the run is as right, and only less considerate.
        let _refused = scheduling::yield_to_others();
    }
    // A look waits for its reader; what traces has to keep up.
    let waits = config.once.then(Arc::default);
    let publisher = match build_publisher(&config, target, waits) {
        Ok(publisher) => publisher,
        Err(failure) => return cut_short(&config, failure),
    };
    let kernel = match Kernel::attach(&options) {
        Ok(kernel) => kernel,
        Err(error) => {
            print_problem_lines(error.explanation());
            return REFUSED.into();
        }
    };
    run_live_or_once(&config, kernel, publisher, metrics)
        .unwrap_or_else(|failure| cut_short(&config, failure))
}

/// The exit status after a failure. A look that runs out of threads, descriptors or memory has not
/// looked: for a health check that is the status of a host that cannot be traced.
fn cut_short(config: &Config, failure: Failure) -> ExitCode {
    let has_not_looked = config.once && failure.shortage().is_some();
    let failed = exit_code(Err(failure));
    if has_not_looked { REFUSED.into() } else { failed }
}

/// The exit status, and a word on stderr where something failed.
fn exit_code(ended: Result<ExitCode, Failure>) -> ExitCode {
    ended.unwrap_or_else(|failure| {
        match failure.shortage() {
            Some(shortage) => {
                print_problem_lines(format_args!("{failure}: {shortage}\n  do:   {}", shortage.remedy()));
            }
            None => print_problem(failure),
        }
        FAILED.into()
    })
}

/// Traces, or looks once.
fn run_live_or_once(
    config: &Config,
    kernel: Kernel,
    mut publisher: Publisher,
    metrics: Option<MetricsListener>,
) -> Result<ExitCode, Failure> {
    if config.once {
        return Ok(match snapshot::run(config, kernel, publisher)? {
            SnapshotVerdict::NothingStuck => ExitCode::SUCCESS,
            SnapshotVerdict::Stuck => STUCK.into(),
            SnapshotVerdict::NotLookedAt => REFUSED.into(),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(metrics) = metrics {
            print_info(format_args!("metrics at {}", metrics.url()));
            publisher.add(PrometheusOutput::new(metrics.serve()?));
        }
        live::run(config, kernel, publisher).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Replays a recording.
fn run_replay(config: &Config, file: &Path) -> Result<ExitCode, Failure> {
    // File capabilities are for tracing: with them nobody reads more than he may read himself.
    // Root's rights are root's own.
    if !getuid().is_root() {
        keep_only_user_rights().map_err(Failure::Privileges)?;
    }
    let opened = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            print_info("reading a recording from this terminal; Ctrl-D ends it");
        }
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(file)
    };
    let recording = match opened {
        Ok(recording) => recording,
        Err(error) => return Ok(explain_unusable_file("open", file, &error)),
    };
    let target = match open_target(config) {
        Ok(target) => target,
        Err(status) => return Ok(status),
    };
    if target.is_same_file(&recording)? {
        print_problem(format_args!(
            "{} is read and written at once: choose another file to write to",
            file.display()
        ));
        return Ok(WRONG_USAGE.into());
    }
    let interruption = Interruption::new()?;
    interruption.listen_to_signals(config.output.is_some())?;
    let publisher = build_publisher(config, target, Some(interruption.end_flag()))?;
    let reader = publisher.reader().map(OwnedFd::try_clone).transpose()?;
    // From here on nothing is opened.
    let _as_it_was = give_up_all();
    match RecordingFile::new(recording, reader, interruption.clone()) {
        Ok(recording) => replay::run(config, recording, &interruption, publisher)?,
        Err(error) => return Ok(explain_unusable_file("read", file, &error)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that a file that was named cannot be used.
fn explain_unusable_file(what: &str, file: &Path, error: &io::Error) -> ExitCode {
    print_problem(format_args!("cannot {what} {}: {error}", file.display()));
    WRONG_USAGE.into()
}

/// Where the records are to go.
fn open_target(config: &Config) -> Result<Target, ExitCode> {
    match &config.output {
        Some(path) => {
            // File capabilities are for tracing: the user's own rights open the file. Root's rights
            // are its own.
            let open = || Target::open(path.clone());
            let opened = if getuid().is_root() { open() } else { with_user_rights(open) };
            opened.map_err(|error| explain_unusable_file("open", path, &error))
        }
        // Not through std's stdout, which cuts lines where its buffer ends.
        None => match io::stdout().as_fd().try_clone_to_owned() {
            Ok(stdout) => Ok(File::from(stdout).into()),
            Err(error) => Err(explain_unusable_file("write to", Path::new("stdout"), &error)),
        },
    }
}

/// The outputs of this run but for metrics, which take the runtime. With `waits` they wait for a
/// slow reader until that flag is set.
fn build_publisher(
    config: &Config,
    target: Target,
    waits: Option<Arc<AtomicBool>>,
) -> Result<Publisher, Failure> {
    let mut publisher = Publisher::new(config.count);
    let options = WriterOptions { queue_bytes: config.queue_bytes, drop_privileges: keep_only_writing };
    if config.json {
        let writer = LineWriter::start(target, options).map_err(Failure::Writer)?;
        publisher.add(StreamOutput::new(Json::default(), writer, waits));
    } else {
        let text = text_format(config, &target)?;
        let writer = LineWriter::start(target, options).map_err(Failure::Writer)?;
        publisher.add(StreamOutput::new(text, writer, waits));
    }
    Ok(publisher)
}

/// Text as it fits where it goes.
fn text_format(config: &Config, target: &Target) -> Result<TextFormat, Failure> {
    let terminal = Terminal::behind_file(target)?;
    let colour = match config.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal.is_some() && shows_colour(|name| std::env::var_os(name)),
    };
    let size = terminal.as_ref().map(Terminal::size);
    let text = TextRenderer::new(size.map(|size| size.columns), colour, jiff::tz::TimeZone::system());
    // A recording may be of another host.
    let names = if config.replay.is_none() { own_interface_names() } else { None };
    Ok(TextFormat::new(text.with_interface_names(names), terminal))
}

/// The arguments, or the end: with 2 for wrong usage, with 0 after --help.
fn parse_arguments() -> Cli {
    Cli::from_arguments(std::env::args_os()).unwrap_or_else(|error| {
        // The message quotes what is wrong: it must not do anything to a terminal.
        let quoted =
            std::env::args_os().map(|argument| escape_harmful(&argument.to_string_lossy()).into_owned());
        Cli::from_arguments(quoted).err().unwrap_or(error).exit()
    })
}
