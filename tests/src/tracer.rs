//! The tracer under test, as a user runs it: arguments in; records, words on stderr and an exit status out.
//!
//! Its stdout is read to the last byte. With `--json` each line is held against the contract as it comes in.

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

/// How the tracer is to be started.
#[derive(Debug)]
pub struct TracerCommand {
    /// For what there is no option here.
    pub command: Command,
    json: bool,
    /// Where its stdout comes out, where that is not the pipe.
    reader: Option<File>,
    held: bool,
}

impl TracerCommand {
    /// With these arguments, and without the features that all tests are to do without; its stdout read by nobody
    /// but us.
    pub fn new(arguments: &[&str]) -> Self {
        let features = without_features();
        let forced = if arguments.contains(&"--without") { None } else { features.as_deref() };
        let forced: Vec<&str> =
            forced.map(|features| ["--without", features]).into_iter().flatten().collect();
        Self::exactly(&[&forced, arguments].concat())
    }

    /// With these arguments and no others: for a test that takes features away by other means.
    pub fn exactly(arguments: &[&str]) -> Self {
        let mut command = Command::new(tracer_program());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("NO_COLOR");
        Self { command, json: arguments.contains(&"--json"), reader: None, held: false }
    }

    /// With `writer` for its stdout; what comes out at `reader` is read.
    #[must_use]
    pub fn stdout(mut self, writer: impl Into<OwnedFd>, reader: impl Into<OwnedFd>) -> Self {
        self.command.stdout(writer.into());
        self.reader = Some(File::from(reader.into()));
        self
    }

    /// After its first line nobody reads its stdout, until [`Tracer::read_on`].
    #[must_use]
    pub const fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Starts it.
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

    /// Starts it and waits for its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }
}

/// The tracer, running. Dropping it kills it.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
    shared: Arc<Shared>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What stdout carried, line by line.
    pub lines: Vec<String>,
    /// The same as records, with `--json`.
    pub records: Vec<Record>,
    /// What stderr carried.
    pub stderr: String,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
    /// Whether reading stdout waits.
    held: Mutex<bool>,
    released: Condvar,
    /// The test to be told of losses, unless it provokes them.
    test: Option<String>,
}

#[derive(Debug)]
struct State {
    lines: Vec<String>,
    records: Vec<Record>,
    stderr: String,
    /// What was wrong with the stream, from the first thing that was.
    wrong: Option<String>,
    /// Of stdout and stderr, how many may still bring something.
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

    /// Waits for `look` to find something; what comes in is shown to it from the beginning each time.
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
            // Looking again at each of many thousand lines would keep the reader from reading them.
            drop(guard);
            thread::sleep(4 * took);
            state = self.state();
        }
    }
}

impl State {
    /// For a test that failed: what there was.
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
    /// Starts it with these arguments and `--json`, and waits until it traces.
    ///
    /// # Panics
    /// It does not.
    pub fn start(arguments: &[&str]) -> Self {
        let tracer = TracerCommand::new(&[arguments, &["--json"]].concat()).start();
        tracer.await_record("the start", |record| record.is("start"));
        tracer
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for a record, among all that have come and will come.
    pub fn await_record(&self, what: &str, mut wanted: impl FnMut(&Record) -> bool) -> Record {
        self.await_records(what, |records| records.iter().find(|record| wanted(record)).cloned())
    }

    /// Waits until all records so far satisfy something.
    pub fn await_records<T>(&self, what: &str, mut look: impl FnMut(&[Record]) -> Option<T>) -> T {
        self.shared.wait(what, |state| look(&state.records))
    }

    /// Waits for the record that a socket is stuck.
    pub fn await_stuck(&self, socket: &Sock) -> Record {
        self.await_record(&format!("{socket:?} stuck"), |record| record.is_about("stuck", socket))
    }

    /// Waits for the record that it no longer is.
    pub fn await_cleared(&self, socket: &Sock) -> Record {
        self.await_record(&format!("{socket:?} cleared"), |record| record.is_about("cleared", socket))
    }

    /// Waits for what a connection came to.
    pub fn await_life(&self, socket: &Sock) -> Record {
        self.await_record(&format!("the life of {socket:?}"), |record| record.is_about("life", socket))
    }

    /// Waits for a line of text.
    pub fn await_line(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        self.shared.wait(what, |state| state.lines.iter().find(|line| wanted(line)).cloned())
    }

    /// Waits until stderr has said something.
    pub fn await_stderr(&self, words: &str) {
        self.shared.wait(words, |state| state.stderr.contains(words).then_some(()));
    }

    /// Waits until stderr has said where metrics are served. Returns that address.
    ///
    /// # Panics
    /// It is none.
    pub fn await_metrics(&self) -> SocketAddr {
        let url = self.shared.wait("where metrics are", |state| {
            let said = state.stderr.lines().find_map(|line| line.strip_prefix("tcptrace: metrics at "));
            said.map(str::to_owned)
        });
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {url}"))
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records.clone()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.state().lines.clone()
    }

    /// Waits until it has done all there was to do, and waits itself.
    pub fn await_idle(&self) {
        let path = format!("/proc/{0}/task/{0}/stat", self.pid());
        let (mut before, mut calm) = (String::new(), 0);
        poll_until("the tracer to be idle", || {
            let stat = std::fs::read_to_string(&path).expect("it lives");
            // proc(5): after the name its state, then, ten fields later, the time it has been running.
            let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
            let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
            let now = fields[11..13].join(" ");
            calm = if fields[0] == "S" && now == before { calm + 1 } else { 0 };
            before = now;
            (calm >= 20).then_some(())
        });
    }

    /// Lets the reader go on.
    pub fn read_on(&self) {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.shared.released.notify_all();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end, and for all that it wrote.
    ///
    /// # Panics
    /// It does not end, or what it wrote is not whole.
    pub fn finish(mut self) -> Finished {
        let status = self.process.wait();
        self.shared.wait("the end of its output", |state| (state.open == 0).then_some(()));
        let state = std::mem::take(&mut *self.shared.state());
        Finished { status, lines: state.lines, records: state.records, stderr: state.stderr }
    }

    /// Ends it as a service manager would.
    ///
    /// # Panics
    /// It does not end well: with 0, and the summary for its last record.
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
    /// The records of a network namespace.
    pub fn of(&self, netns: u64) -> Vec<Record> {
        self.records.iter().filter(|record| record.is_in(netns)).cloned().collect()
    }

    /// The transitions of a socket, in the order in which they came.
    pub fn life(&self, cookie: u64) -> Vec<Record> {
        let of_it = |record: &&Record| record.is("transition") && record.cookie() == cookie;
        self.records.iter().filter(of_it).cloned().collect()
    }

    /// How many records of `event` there are.
    pub fn count(&self, event: &str) -> u64 {
        self.records.iter().filter(|record| record.is(event)).count() as u64
    }

    /// The heading of a pipe's text, which has one. What was lost may be told before it.
    ///
    /// # Panics
    /// There is none, or more than one.
    pub fn heading(&self) -> &str {
        let mut headings = self.lines.iter().filter(|line| line.starts_with("TIME"));
        match (headings.next(), headings.next()) {
            (Some(heading), None) => heading,
            _ => panic!("not one heading: {:?}", self.lines),
        }
    }

    /// The last record.
    ///
    /// # Panics
    /// It is no summary.
    pub fn summary(&self) -> &Record {
        self.records.last().filter(|record| record.is("summary")).expect("the summary comes last")
    }
}

/// The kernel features that all tests are to do without (`TCPTRACE_TEST_WITHOUT`, such as `btf`), but for those that
/// say themselves which.
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

/// Whether a test makes the tracer lose transitions, or tell of what another run has lost.
fn is_to_lose(command: &Command) -> bool {
    command.get_args().any(|argument| argument == "--ring-size" || argument == "--replay")
}

/// Whether a line says, as text or as JSON, that the kernel kept transitions from the tracer.
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
