//! docs/pipelines.md as a test runs it: its commands and configurations, the tools they need, and a place to run them in.
//!
//! What the document shows is what runs, but for how long a socket has to be stuck, and where the files are.

mod story;

use std::{
    env, fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::{
    Process, Record, feature,
    process::{beside_the_tests, poll_until, tracer_program},
    record::Stream,
    tracer::without_features,
};
pub use story::{ANSWERED, SENT, Story, exited, record};

const DOCUMENT: &str = include_str!("../../docs/pipelines.md");
/// What a user waits for, and what a test does.
const THRESHOLDS: [&str; 2] = ["--stuck 30s", "--stuck 300ms"];
/// Where a user has the files.
const LOGS: &str = "/var/log/";
/// `tcptrace` in a command is the tracer under test, and its pid is told.
const TRACER: &str =
    r#"tcptrace() { sh -c 'echo $$ > "$TRACER_PID"; exec "$TRACER" $TRACER_MORE "$@"' sh "$@"; }"#;

/// The block of the document that is fenced with this as the second word after its language.
///
/// # Panics
/// There is none, or more than one.
fn block(name: &str) -> String {
    let mut blocks = DOCUMENT.split("\n```").filter_map(|block| {
        let (fence, text) = block.split_once('\n')?;
        (fence.split(' ').nth(1) == Some(name)).then_some(text)
    });
    let block = blocks.next().unwrap_or_else(|| panic!("docs/pipelines.md has no block {name}"));
    assert!(blocks.next().is_none(), "docs/pipelines.md has two blocks {name}");
    block.to_owned()
}

/// The names of all blocks that have one.
pub fn names() -> Vec<&'static str> {
    let fences = DOCUMENT.lines().filter_map(|line| line.strip_prefix("```"));
    fences.filter_map(|fence| fence.split(' ').nth(1)).collect()
}

/// Whether there are no tools here on purpose, as in a guest: the test is then told as not run. Anywhere else a tool
/// that is missing makes its test fail.
pub fn has_no_tools(test: &str, needed: &str) -> bool {
    let is_meant = env::var_os("TCPTRACE_TEST_TOOLS").is_some_and(|folder| folder.is_empty());
    if is_meant {
        feature::tell_not_run(
            test,
            needed,
            "guests have no tools but those that the tracer is compared with",
        );
    }
    is_meant
}

/// A folder to run commands of the document in, and how they are to run. Dropping it removes it.
#[derive(Debug)]
pub struct Shop {
    folder: PathBuf,
    /// More arguments for the tracer.
    more: String,
}

impl Shop {
    /// Makes one.
    ///
    /// # Panics
    /// There is no place for it.
    #[expect(clippy::new_without_default, reason = "it makes a folder: nothing for a default")]
    pub fn new() -> Self {
        static SHOPS: AtomicU32 = AtomicU32::new(0);
        let number = SHOPS.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("tcptrace-pipeline-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder in the temporary one");
        let more = without_features().map(|features| format!("--without {features}")).unwrap_or_default();
        Self { folder, more }
    }

    /// Has the tracer take more arguments than the document shows.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.more = format!("{} {arguments}", self.more);
        self
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file that the tracer writes to.
    pub fn trace(&self) -> PathBuf {
        self.path("tcptrace.json")
    }

    /// What a file has so far; nothing where it is not there yet.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The block of this name, with its log files in this folder.
    pub fn block(&self, name: &str) -> String {
        block(name).replace(LOGS, &format!("{}/", self.folder.display()))
    }

    /// That, in a file.
    ///
    /// # Panics
    /// There is no room for it.
    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, self.block(name)).expect("room on the disk");
        path
    }

    /// The shell, about to run the block of this name; where the tools are, and the file of the tracer, is in its
    /// environment.
    pub fn command(&self, name: &str) -> Command {
        let block = self.block(name).replace(THRESHOLDS[0], THRESHOLDS[1]);
        assert!(!block.contains("30s"), "it would take as long as for a user: {block}");
        let mut command = self.shell(&format!("{TRACER}\n{block}"));
        command.env("TRACER", tracer_program()).env("TRACER_MORE", &self.more);
        command.env("TRACER_PID", self.path("pid")).env("TRACE", self.trace());
        command
    }

    /// The shell, about to run something with the tools.
    pub fn shell(&self, script: &str) -> Command {
        let tools =
            env::var_os("TCPTRACE_TEST_TOOLS").map_or_else(|| beside_the_tests("../tools"), PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [tools.join("bin")].into_iter().chain(env::split_paths(&path));
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PATH", env::join_paths(path).expect("paths without a colon"));
        // The document's own paths begin where the repository does.
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the block of this name; what it prints goes to the file `NAME.out`.
    ///
    /// # Panics
    /// There is no shell.
    pub fn start(&self, name: &str) -> Running {
        self.start_command(name, self.command(name))
    }

    /// The same, where the command needs something more.
    ///
    /// # Panics
    /// There is no shell.
    pub fn start_command(&self, name: &str, mut command: Command) -> Running {
        let file = |end| fs::File::create(self.path(&format!("{name}.{end}"))).expect("room on the disk");
        command.stdout(file("out")).stderr(file("err"));
        Running { process: Process::spawn(command.process_group(0)), folder: self.folder.clone() }
    }

    /// All whole lines of a file as records, held against the contract.
    ///
    /// # Panics
    /// One is not as it should be.
    pub fn records(&self, name: &str) -> Vec<Record> {
        records(&self.read(name))
    }

    /// Waits for a record in the file that the tracer writes to.
    pub fn await_record(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        poll_until(what, || self.records("tcptrace.json").into_iter().find(&wanted))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // For a test that failed: what there was.
            let trace = self.read("tcptrace.json");
            let mut lines: Vec<&str> = trace.lines().rev().take(20).collect();
            lines.reverse();
            let told = format!("the stream ended with\n{}\n{}\n", lines.join("\n"), self.read("record.err"));
            let _nobody_reads = std::io::stderr().write_all(told.as_bytes());
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// The whole lines of a stream as records, held against the contract.
///
/// # Panics
/// One is not as it should be.
pub fn records(text: &str) -> Vec<Record> {
    let mut stream = Stream::default();
    let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
    let read = |line: &str| stream.record(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(read).collect()
}

/// The whole lines of what a tool made of records; it may have written 5.0 as 5, and so have both sides of a comparison.
///
/// # Panics
/// One is no JSON.
pub fn values(text: &str) -> Vec<Value> {
    let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(|line| shortened(read(line))).collect()
}

fn shortened(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(shortened).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, shortened(value))).collect(),
        Value::Number(number) => match number.as_f64() {
            // Beyond 2^53 not every integer is one of these.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and 53 bits at most")]
                let integer = float as i64;
                Value::from(integer)
            }
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// What a command prints.
///
/// # Panics
/// It fails, or says something on stderr.
pub fn output(mut command: Command) -> String {
    let output = command.output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The rows and columns of what a command prints: a list in JSON for each row, in which nothing is left that a terminal
/// would obey.
///
/// # Panics
/// It is something else.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{text:?}");
    let cell = |cell: Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let row = |row: Value| match row {
        Value::Array(cells) => cells.into_iter().map(cell).collect(),
        other => panic!("no list: {other}"),
    };
    values(text).into_iter().map(row).collect()
}

/// A command of the document, running. Dropping it kills all of it.
#[derive(Debug)]
pub struct Running {
    process: Process,
    folder: PathBuf,
}

impl Running {
    /// Sends its tracer a signal.
    ///
    /// # Panics
    /// It is not running.
    pub fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.folder.join("pid")).expect("it has begun");
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends its tracer, and waits for the end of all that reads it.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group =
            i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        // Not after `stop`: there may be another process of that number by then.
        if self.process.ended().is_none() {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}
