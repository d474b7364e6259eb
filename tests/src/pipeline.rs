//! Runs the commands and configurations of docs/pipelines.md, with the tools that they need.
//!
//! What runs is what the document shows, but for the threshold and the directory of the files.

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
/// The threshold of a user, and that of a test.
const THRESHOLDS: [&str; 2] = ["--stuck 30s", "--stuck 300ms"];
/// The directory in which a user has the files.
const LOGS: &str = "/var/log/";
/// Makes `tcptrace` in a command the tracer under test, and keeps its pid.
const TRACER: &str =
    r#"tcptrace() { sh -c 'echo $$ > "$TRACER_PID"; exec "$TRACER" $TRACER_MORE "$@"' sh "$@"; }"#;

/// Returns the block of the document that has this name after its language.
///
/// # Panics
/// If there is none, or more than one.
fn block(name: &str) -> String {
    let mut blocks = DOCUMENT.split("\n```").filter_map(|block| {
        let (fence, text) = block.split_once('\n')?;
        (fence.split(' ').nth(1) == Some(name)).then_some(text)
    });
    let block = blocks.next().unwrap_or_else(|| panic!("docs/pipelines.md has no block {name}"));
    assert!(blocks.next().is_none(), "docs/pipelines.md has two blocks {name}");
    block.to_owned()
}

/// Returns the names of all blocks that have one.
pub fn names() -> Vec<&'static str> {
    let fences = DOCUMENT.lines().filter_map(|line| line.strip_prefix("```"));
    fences.filter_map(|fence| fence.split(' ').nth(1)).collect()
}

/// Returns whether there are no tools here on purpose, as in a guest: then the test counts as not
/// run. Anywhere else a missing tool makes the test fail.
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

/// A directory in which commands of the document run. Dropping it removes it.
#[derive(Debug)]
pub struct Shop {
    folder: PathBuf,
    /// More arguments for the tracer.
    more: String,
}

impl Shop {
    /// Makes an empty directory.
    ///
    /// # Panics
    /// If it cannot be made.
    #[expect(clippy::new_without_default, reason = "it makes a folder: nothing for a default")]
    pub fn new() -> Self {
        static SHOPS: AtomicU32 = AtomicU32::new(0);
        let number = SHOPS.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("tcptrace-pipeline-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder in the temporary one");
        let more = without_features().map(|features| format!("--without {features}")).unwrap_or_default();
        Self { folder, more }
    }

    /// Gives the tracer more arguments than the document shows.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.more = format!("{} {arguments}", self.more);
        self
    }

    /// Returns the path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the file that the tracer writes to.
    pub fn trace(&self) -> PathBuf {
        self.path("tcptrace.json")
    }

    /// Reads a file as far as it is written; a missing file is empty.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Returns the block of this name, with its log files in this directory.
    pub fn block(&self, name: &str) -> String {
        block(name).replace(LOGS, &format!("{}/", self.folder.display()))
    }

    /// Writes the block of this name to a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, self.block(name)).expect("room on the disk");
        path
    }

    /// Returns a shell command that runs the block of this name, with the tools on its PATH.
    pub fn command(&self, name: &str) -> Command {
        let block = self.block(name).replace(THRESHOLDS[0], THRESHOLDS[1]);
        assert!(!block.contains("30s"), "it would take as long as for a user: {block}");
        let mut command = self.shell(&format!("{TRACER}\n{block}"));
        command.env("TRACER", tracer_program()).env("TRACER_MORE", &self.more);
        command.env("TRACER_PID", self.path("pid")).env("TRACE", self.trace());
        command
    }

    /// Returns a shell command that runs a script, with the tools on its PATH.
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
    /// If there is no shell.
    pub fn start(&self, name: &str) -> Running {
        self.start_command(name, self.command(name))
    }

    /// Starts a command that was prepared for the block of this name.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn start_command(&self, name: &str, mut command: Command) -> Running {
        let file = |end| fs::File::create(self.path(&format!("{name}.{end}"))).expect("room on the disk");
        command.stdout(file("out")).stderr(file("err"));
        Running { process: Process::spawn(command.process_group(0)), folder: self.folder.clone() }
    }

    /// Returns the whole lines of a file as records, and validates them against the contract.
    ///
    /// # Panics
    /// If a line violates the contract.
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

/// Returns the whole lines of a stream as records, and validates them against the contract.
///
/// # Panics
/// If a line violates the contract.
pub fn records(text: &str) -> Vec<Record> {
    let mut stream = Stream::default();
    let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
    let read = |line: &str| stream.record(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(read).collect()
}

/// Returns the whole lines of a tool's output as JSON. Tools may write 5.0 as 5, so both sides of
/// a comparison are normalized.
///
/// # Panics
/// If a line is not JSON.
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
            // Not every integer above 2^53 is a `f64`.
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

/// Returns what a command prints.
///
/// # Panics
/// If it fails, or writes to stderr.
pub fn output(mut command: Command) -> String {
    let output = command.output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the rows and columns of a command's output, which has a JSON list for each row and no
/// control characters.
///
/// # Panics
/// If the output has another form.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{text:?}");
    let cell = |cell: Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let row = |row: Value| match row {
        Value::Array(cells) => cells.into_iter().map(cell).collect(),
        other => panic!("no list: {other}"),
    };
    values(text).into_iter().map(row).collect()
}

/// A running command of the document. Dropping it kills all its processes.
#[derive(Debug)]
pub struct Running {
    process: Process,
    folder: PathBuf,
}

impl Running {
    /// Sends a signal to the command's tracer.
    ///
    /// # Panics
    /// If the tracer is not running.
    pub fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.folder.join("pid")).expect("it has begun");
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends the command's tracer, and waits for the programs that read from it.
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
