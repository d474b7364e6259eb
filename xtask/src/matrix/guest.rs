//! Runs as the first process of a guest: prepares the machine, runs the test programs one after
//! the other, reports to the host, and turns the guest off.
//!
//! The host puts a [`Job`] into the guest's file system, and gets a [`Frame`] for each thing that
//! happens, as a line of JSON over the second serial line.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use fs_err::{self as fs, File};
use rustix::{
    mount::{MountFlags, mount},
    process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process_group, setrlimit, wait},
    system::{RebootCommand, finit_module, reboot, sethostname, uname},
    termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::features::{self, Features};
use crate::{
    environment::{Environment, WITHOUT_VARIABLE},
    results::{self, Results},
};

/// Where the guest finds its [`Job`], its modules and the test programs.
pub(super) const JOB: &str = "/job";
pub(super) const MODULES: &str = "/modules";
pub(super) const PROGRAMS: &str = "/programs";
/// The second serial line.
const RESULTS: &str = "/dev/ttyS1";
/// Time after which a test program is killed; the others still run. Three times what a test waits
/// (`image.rs`).
const PROGRAM_LIMIT: Duration = Duration::from_secs(500);
/// How many files a process may be allowed to open; the kernel gives its first process few.
const FILES: u64 = 1 << 20;
/// Has the kernel unpack a module (`MODULE_INIT_COMPRESSED_FILE` of
/// `include/uapi/linux/module.h`). Debian packs modules since 6.12, which has that.
const COMPRESSED: i32 = 4;

/// What is mounted: the type and the mount point.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// What a guest is to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// The names of the test programs.
    pub(super) programs: Vec<String>,
    /// The names of the modules, in the order of loading.
    pub(super) modules: Vec<String>,
    /// Arguments for each test program.
    pub(super) arguments: Vec<String>,
    /// The environment of all programs.
    pub(super) environment: Environment,
}

/// What a guest reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// `uname -r` and `uname -v`.
    Kernel(String, String),
    /// The kernel features that the tracer uses there.
    Features(Features),
    /// A test program is started.
    Run(String),
    /// A line of its stdout or stderr.
    Line(String),
    /// It has ended, and those of its tests that failed after a loss were run again.
    Results(Results),
    /// The guest could not do its job.
    Trouble(String),
    /// All programs were run, and nothing follows.
    End,
}

/// Runs the guest and turns it off.
pub(crate) fn main() -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is what a guest runs as its first process: use `cargo xtask test --kernels`");
    }
    if let Err(error) = run_guest() {
        eprintln!("guest: {error:#}"); // to the console, which the host shows
    }
    reboot(RebootCommand::PowerOff).context("cannot power off")?;
    Ok(ExitCode::FAILURE)
}

fn run_guest() -> Result<()> {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target)?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} on {target}"))?;
    }
    let host = Host::open()?;
    if let Err(error) = run_job(&host) {
        host.send(&Frame::Trouble(format!("{error:#}")));
    }
    host.send(&Frame::End);
    tcdrain(&*host.lock()).context("cannot write to the host")
}

fn run_job(host: &Host) -> Result<()> {
    let name = uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    host.send(&Frame::Kernel(text(name.release()), text(name.version())));
    let job: Job = serde_json::from_slice(&fs::read(JOB)?).context("cannot read the job")?;
    prepare_machine(&job.modules)?;
    host.send(&Frame::Features(ask_features(&job)?));
    for program in &job.programs {
        host.send(&Frame::Run(program.clone()));
        let run = |arguments: &[String]| run_tests(program, arguments, &job, host);
        host.send(&Frame::Results(results::run_with_retries(&job.arguments, run)?));
    }
    Ok(())
}

fn prepare_machine(modules: &[String]) -> Result<()> {
    sethostname(b"guest").context("cannot set the host's name")?;
    let files = Rlimit { current: Some(1024), maximum: Some(FILES) };
    setrlimit(Resource::Nofile, files).context("cannot raise the limit of open files")?;
    for name in modules {
        let flags = if Path::new(name).extension() == Some("ko".as_ref()) { 0 } else { COMPRESSED };
        let module = File::open(format!("{MODULES}/{name}"))?;
        finit_module(module, c"", flags).with_context(|| format!("cannot load {name}"))?;
    }
    let up = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
    ensure!(up.success(), "the loopback interface does not come up");
    Ok(())
}

/// The serial line to the host.
struct Host(Mutex<File>);

impl Host {
    fn open() -> Result<Self> {
        let line = File::options().read(true).write(true).open(RESULTS)?;
        let mut settings = tcgetattr(&line)?;
        settings.make_raw();
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        Ok(Self(Mutex::new(line)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame. The host fails a guest whose frames end early.
    fn send(&self, frame: &Frame) {
        let line = serde_json::to_string(frame).map_err(std::io::Error::from);
        if let Err(error) = line.and_then(|line| self.lock().write_all((line + "\n").as_bytes())) {
            eprintln!("guest: cannot write to the host: {error:#}");
        }
    }
}

/// Starts the tracer and returns which kernel features it uses here.
fn ask_features(job: &Job) -> Result<Features> {
    let mut tracer = job_command("/bin/tcptrace", job);
    tracer.args(["--transitions", "--duration", "1ms", "--json"]);
    if let Some(features) = job.environment.get(WITHOUT_VARIABLE).filter(|features| !features.is_empty()) {
        tracer.args(["--without", features]);
    }
    let output = tracer.output().context("cannot run tcptrace")?;
    let start = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let start = serde_json::from_slice::<Value>(start).unwrap_or_default();
    features::parse_sources(&start["sources"]).with_context(|| {
        format!("the tracer does not start: {}", String::from_utf8_lossy(&output.stderr).trim())
    })
}

/// A command in the job's environment.
fn job_command(program: &str, job: &Job) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/bin").env("HOME", "/").envs(&job.environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a test program until its end or time limit, and kills what it leaves behind.
fn run_tests(program: &str, arguments: &[String], job: &Job, host: &Host) -> Result<Results> {
    let mut command = job_command(&format!("{PROGRAMS}/{program}"), job);
    let mut child = command.args(arguments).spawn().with_context(|| format!("cannot run {program}"))?;
    let pid = Pid::from_child(&child);
    let has_timed_out = &AtomicBool::new(false);
    let (ended, end) = mpsc::channel::<()>();
    let (tally, status) = thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(PROGRAM_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                has_timed_out.store(true, Ordering::Relaxed);
                kill_all();
            }
        });
        let waiter = scope.spawn(move || {
            let status = wait_for(pid);
            drop(ended);
            // What it left behind may hold the pipes open, and would disturb the next program.
            kill_all();
            while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
            status
        });
        let tally = results::read_tests(&mut child, |line| host.send(&Frame::Line(line.to_owned())));
        (tally, waiter.join().ok().flatten())
    });
    let status = match status {
        _ if has_timed_out.load(Ordering::Relaxed) => {
            Some(format!("killed after {} s", PROGRAM_LIMIT.as_secs()))
        }
        Some(status) => (!status.success()).then(|| status.to_string()),
        None => Some("unknown status".to_owned()),
    };
    Ok(tally.finish(program, status.as_deref()))
}

/// Waits for a child, and reaps orphans meanwhile: tests check whether processes are gone.
fn wait_for(child: Pid) -> Option<ExitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Some(ExitStatus::from_raw(status.as_raw())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn kill_all() {
    // kill(-1): all processes but this one. There may be none.
    let _none_left = kill_process_group(Pid::INIT, Signal::KILL);
}
