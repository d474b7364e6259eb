//! Runs the tracer under test as a user does: with arguments, for its records, stderr and exit
//! status.
//!
//! Stdout is read to the last byte. With `--json` each line is validated against the contract.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Instant,
};

use crate::{
    feature,
    process::{Process, patience, poll_until, tracer_program},
    puppet::Sock,
    record::{Record, Stream},
};
use rustix::process::Signal;

/// The tracer's arguments and surroundings, before it starts.
#[derive(Debug)]
pub struct TracerCommand {
    /// The command itself, for what has no method here.
    pub command: Command,
    json: bool,
    /// The other end of stdout, if that is not the pipe.
    reader: Option<File>,
    held: bool,
}

impl TracerCommand {
    /// Runs the tracer with these arguments, and without the features that all tests do without.
    pub fn new(arguments: &[&str]) -> Self {
        let features = without_features();
        let forced = if arguments.contains(&"--without") { None } else { features.as_deref() };
        let forced: Vec<&str> =
            forced.map(|features| ["--without", features]).into_iter().flatten().collect();
        Self::exactly(&[&forced, arguments].concat())
    }

    /// Runs the tracer with these arguments only, for tests that take features away by other
    /// means.
    pub fn exactly(arguments: &[&str]) -> Self {
        let mut command = Command::new(tracer_program());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("NO_COLOR");
        Self { command, json: arguments.contains(&"--json"), reader: None, held: false }
    }

    /// Makes `writer` the tracer's stdout; `reader` is read.
    #[must_use]
    pub fn stdout(mut self, writer: impl Into<OwnedFd>, reader: impl Into<OwnedFd>) -> Self {
        self.command.stdout(writer.into());
        self.reader = Some(File::from(reader.into()));
        self
    }

    /// Stops reading stdout after the first line, until [`Tracer::read_on`].
    #[must_use]
    pub const fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Starts the tracer.
    pub fn start(self) -> Tracer {
        let Self { mut command, json, reader, held } = self;
        let mut process = Process::spawn(&mut command);
        let (_, stdout, stderr) = process.pipes();
        // libtest names threads after their tests.
        let test = thread::current().name().filter(|_| !is_to_lose(&command)).map(str::to_owned);
        drop(command); // and with it our copy of its stdout
        let shared = Arc::new(Shared { test, held: Mutex::new(held), ..Shared::default() });
        let stdout: Option<Box<dyn Read + Send>> = match (reader, stdout) {
            (Some(reader), _) => Some(Box::new(reader)),
            (None, Some(stdout)) => Some(Box::new(stdout)),
            (None, None) => None,
        };
        match stdout {
            Some(stdout) => spawn_reader(&shared, move |shared| read_stdout(shared, json, stdout)),
            None => shared.state().open -= 1,
        }
        let stderr = stderr.expect("piped");
        spawn_reader(&shared, move |shared| {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                shared.state().stderr.push_str(&(String::from_utf8_lossy(&line).into_owned() + "\n"));
                shared.news.notify_all();
            }
        });
        Tracer { process, shared }
    }

    /// Starts the tracer and waits for its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }
}

/// A running tracer. Dropping it kills it.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
    shared: Arc<Shared>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// The lines of stdout.
    pub lines: Vec<String>,
    /// The lines of stdout as records, with `--json`.
    pub records: Vec<Record>,
    /// The text of stderr.
    pub stderr: String,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
    /// Whether reading stdout waits.
    held: Mutex<bool>,
    released: Condvar,
    /// The test, which is reported if the tracer lost transitions and the test did not provoke
    /// that.
    test: Option<String>,
}

#[derive(Debug)]
struct State {
    lines: Vec<String>,
    records: Vec<Record>,
    stderr: String,
    /// The first error in the stream.
    wrong: Option<String>,
    /// How many of stdout and stderr are still open.
    open: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { lines: vec![], records: vec![], stderr: String::new(), wrong: None, open: 2 }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something in all that has come so far.
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let end = Instant::now() + patience();
        let mut state = self.state();
        loop {
            if let Some(wrong) = &state.wrong {
                panic!("a line of the stream is wrong: {wrong}; {}", state.tail());
            }
            let began = Instant::now();
            if let Some(found) = look(&state) {
                return found;
            }
            let (left, took) = (end.saturating_duration_since(Instant::now()), began.elapsed());
            assert!(state.open > 0 && !left.is_zero(), "waited in vain for {what}; {}", state.tail());
            let (guard, _) = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            // Looking again after each of many thousand lines would keep them from being taken in.
            drop(guard);
            thread::sleep(4 * took);
            state = self.state();
        }
    }
}

impl State {
    /// Returns the end of the output, for the message of a failed test.
    fn tail(&self) -> String {
        let from = self.lines.len().saturating_sub(20);
        let lost: Vec<_> = self.records.iter().filter(|record| record.is("lost")).collect();
        format!(
            "stdout had {} lines and ended with\n{}\nit told of these losses: {lost:?}\nstderr was\n{}",
            self.lines.len(),
            self.lines[from..].join("\n"),
            self.stderr
        )
    }
}

impl Tracer {
    /// Starts the tracer with these arguments and `--json`, and waits until it traces.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(arguments: &[&str]) -> Self {
        let tracer = TracerCommand::new(&[arguments, &["--json"]].concat()).start();
        tracer.await_record("the start", |record| record.is("start"));
        tracer
    }

    /// Returns the tracer's pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for a record, among those that have come and will come.
    pub fn await_record(&self, what: &str, mut wanted: impl FnMut(&Record) -> bool) -> Record {
        self.await_records(what, |records| records.iter().find(|record| wanted(record)).cloned())
    }

    /// Waits until `look` finds something in all records so far.
    pub fn await_records<T>(&self, what: &str, mut look: impl FnMut(&[Record]) -> Option<T>) -> T {
        self.shared.wait(what, |state| look(&state.records))
    }

    /// Waits for the record that a socket is stuck.
    pub fn await_stuck(&self, socket: &Sock) -> Record {
        self.await_record(&format!("{socket:?} stuck"), |record| record.is_about("stuck", socket))
    }

    /// Waits for the record that a socket is no longer stuck.
    pub fn await_cleared(&self, socket: &Sock) -> Record {
        self.await_record(&format!("{socket:?} cleared"), |record| record.is_about("cleared", socket))
    }

    /// Waits for the `life` record of a connection.
    pub fn await_life(&self, socket: &Sock) -> Record {
        self.await_record(&format!("the life of {socket:?}"), |record| record.is_about("life", socket))
    }

    /// Waits for a line of text.
    pub fn await_line(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        self.shared.wait(what, |state| state.lines.iter().find(|line| wanted(line)).cloned())
    }

    /// Waits for words on stderr.
    pub fn await_stderr(&self, words: &str) {
        self.shared.wait(words, |state| state.stderr.contains(words).then_some(()));
    }

    /// Waits for the address of the metrics on stderr, and returns it.
    ///
    /// # Panics
    /// If it is no address.
    pub fn await_metrics(&self) -> SocketAddr {
        let url = self.shared.wait("where metrics are", |state| {
            let said = state.stderr.lines().find_map(|line| line.strip_prefix("tcptrace: metrics at "));
            said.map(str::to_owned)
        });
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {url}"))
    }

    /// Returns all records so far.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records.clone()
    }

    /// Returns all lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.state().lines.clone()
    }

    /// Waits until the tracer sleeps and uses no CPU time.
    pub fn await_idle(&self) {
        let path = format!("/proc/{0}/task/{0}/stat", self.pid());
        let (mut before, mut calm) = (String::new(), 0);
        poll_until("the tracer to be idle", || {
            let stat = std::fs::read_to_string(&path).expect("it lives");
            // proc(5): after the name its state, then, ten fields later, the time it has been
            // running.
            let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
            let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
            let now = fields[11..13].join(" ");
            calm = if fields[0] == "S" && now == before { calm + 1 } else { 0 };
            before = now;
            (calm >= 20).then_some(())
        });
    }

    /// Reads stdout again, after [`TracerCommand::held`].
    pub fn read_on(&self) {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.shared.released.notify_all();
    }

    /// Sends a signal to the tracer.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the tracer's end, and reads all that it wrote.
    ///
    /// # Panics
    /// If it does not end, or its last line is not whole.
    pub fn finish(mut self) -> Finished {
        let status = self.process.wait();
        self.shared.wait("the end of its output", |state| (state.open == 0).then_some(()));
        let state = std::mem::take(&mut *self.shared.state());
        Finished { status, lines: state.lines, records: state.records, stderr: state.stderr }
    }

    /// Ends the tracer as a service manager does, with SIGTERM.
    ///
    /// # Panics
    /// If it does not exit with 0, or the summary is not the last record.
    pub fn stop(self) -> Finished {
        self.signal(Signal::TERM);
        let finished = self.finish();
        assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
        if let Some(last) = finished.records.last() {
            assert!(last.is("summary"), "the last record is {last:?}; stderr: {}", finished.stderr);
        }
        finished
    }
}

impl Finished {
    /// Returns the records of a network namespace.
    pub fn records_in(&self, netns: u64) -> Vec<Record> {
        self.records.iter().filter(|record| record.is_in(netns)).cloned().collect()
    }

    /// Returns the transitions of a socket, in the order in which they came.
    pub fn life(&self, cookie: u64) -> Vec<Record> {
        let of_it = |record: &&Record| record.is("transition") && record.cookie() == cookie;
        self.records.iter().filter(of_it).cloned().collect()
    }

    /// Counts the records of an event.
    pub fn count(&self, event: &str) -> u64 {
        self.records.iter().filter(|record| record.is(event)).count() as u64
    }

    /// Returns the heading of text in a pipe. Losses may be reported before it.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub fn heading(&self) -> &str {
        let mut headings = self.lines.iter().filter(|line| line.starts_with("TIME"));
        match (headings.next(), headings.next()) {
            (Some(heading), None) => heading,
            _ => panic!("not one heading: {:?}", self.lines),
        }
    }

    /// Returns the last record.
    ///
    /// # Panics
    /// If it is no summary.
    pub fn summary(&self) -> &Record {
        self.records.last().filter(|record| record.is("summary")).expect("the summary comes last")
    }
}

/// Returns the kernel features that all tests do without (`TCPTRACE_TEST_WITHOUT`, such as `btf`),
/// unless they choose them.
pub fn without_features() -> Option<String> {
    std::env::var("TCPTRACE_TEST_WITHOUT").ok().filter(|features| !features.is_empty())
}

fn spawn_reader(shared: &Arc<Shared>, read: impl FnOnce(&Shared) + Send + 'static) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        read(&shared);
        shared.state().open -= 1;
        shared.news.notify_all();
    });
}

/// Returns whether a test makes the tracer lose transitions, or report those of another run.
fn is_to_lose(command: &Command) -> bool {
    command.get_args().any(|argument| argument == "--ring-size" || argument == "--replay")
}

/// Returns whether a line, as text or JSON, reports lost transitions.
fn tells_loss(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let is_record = line.contains(r#""event":"lost""#) && !line.contains(r#""reason":"reader_slow""#);
    is_record
        || line.contains(": the ring buffer was full (")
        || line.contains(": the kernel did not run the program (")
}

/// Reads stdout in this thread, and takes its lines in with another one. However long a test looks
/// at the records, the pipe is read: an ending tracer waits 2 s for a reader that takes nothing.
fn read_stdout(shared: &Shared, json: bool, stdout: impl Read) {
    thread::scope(|scope| {
        // The other thread ends when this one drops its end.
        let (read, lines) = mpsc::channel::<Vec<u8>>();
        scope.spawn(move || {
            let mut stream = Stream::default();
            lines.iter().for_each(|line| take_in(shared, json.then_some(&mut stream), line));
        });
        let mut stdout = BufReader::new(stdout);
        loop {
            let mut line = Vec::new();
            // A pseudo-terminal whose other side is closed reads as EIO: the end, as for a pipe.
            let _end = stdout.read_until(b'\n', &mut line);
            if line.is_empty() || read.send(line).is_err() {
                return;
            }
            let held = shared.held.lock().unwrap_or_else(PoisonError::into_inner);
            drop(shared.released.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
        }
    });
}

/// Adds a line to what has come; with a stream, as a record of it too.
fn take_in(shared: &Shared, stream: Option<&mut Stream>, mut line: Vec<u8>) {
    let is_whole = line.pop_if(|last| *last == b'\n').is_some();
    let mut state = shared.state();
    if let Some(test) = shared.test.as_ref().filter(|_| tells_loss(&line)) {
        feature::tell_lost(test);
    }
    let record = stream.map(|stream| stream.record(&line)).transpose();
    match record {
        Ok(record) if is_whole => state.records.extend(record),
        record => {
            let why = record.err().unwrap_or_else(|| "no newline at its end".to_owned());
            let line = String::from_utf8_lossy(&line);
            state.wrong.get_or_insert_with(|| format!("{why}: {line}"));
        }
    }
    state.lines.push(String::from_utf8_lossy(&line).into_owned());
    drop(state);
    shared.news.notify_all();
}
