//! What xtask does as the first process of a guest: makes it a machine the tests can run on, runs them one program
//! after the other, tells the host over the second serial line, and turns the guest off.
//!
//! It decides nothing about the results: `report.rs` does, on the host. Tests that failed because the kernel had skipped
//! what they were to see are run again.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    mount::{MountFlags, mount},
    process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, kill_process_group, setrlimit, wait},
    system::{RebootCommand, finit_module, reboot, sethostname, uname},
    termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr},
};
use serde_json::Value;

use super::frames::Frame;
use crate::results::Tally;

/// The second serial line.
const RESULTS: &str = "/dev/ttyS1";
/// What is to be done: JSON, as `image.rs` writes it.
pub(super) const JOB: &str = "/job";
/// Where the modules are, with names that sort in the order of loading.
pub(super) const MODULES: &str = "/modules";
/// After that a test program is killed; the others still run. Three times what one test waits in vain (`image.rs`).
const PROGRAM_LIMIT: Duration = Duration::from_secs(500);
/// How often tests are run again that the kernel kept from what they were to see.
const AGAIN: u32 = 2;
/// How many files a process may be allowed to open; the kernel gives its first process few.
const FILES: u64 = 1 << 20;

/// (type, where)
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

/// Runs the guest; does not return but in the wrong place.
pub(crate) fn main() -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is what a guest runs as its first process: use `cargo xtask test --kernels`");
    }
    if let Err(error) = serve() {
        eprintln!("guest: {error:#}"); // to the console, which the host shows
    }
    reboot(RebootCommand::PowerOff).context("cannot power off")?;
    Ok(ExitCode::FAILURE)
}

fn serve() -> Result<()> {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} on {target}"))?;
    }
    let host = Host::open()?;
    let name = uname();
    host.tell(&Frame::Kernel(
        name.release().to_string_lossy().into_owned(),
        name.version().to_string_lossy().into_owned(),
    ))?;
    let outcome = prepare().and_then(|()| {
        let job: Value = serde_json::from_slice(&fs::read(JOB).context("there is nothing to do")?)
            .context("what to do is not said in JSON")?;
        host.tell(&Frame::Features(features(&job)?))?;
        let programs = strings(&job["programs"]);
        programs.iter().try_for_each(|program| run_all(program, &job, &host))
    });
    if let Err(error) = outcome {
        host.tell(&Frame::Trouble(format!("{error:#}")))?;
    }
    host.tell(&Frame::End)?;
    host.drain()
}

fn prepare() -> Result<()> {
    sethostname(b"guest").context("cannot set the host's name")?;
    let files = Rlimit { current: Some(1024), maximum: Some(FILES) };
    setrlimit(Resource::Nofile, files).context("cannot raise the limit of open files")?;
    let mut modules = fs::read_dir(MODULES)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("cannot list {MODULES}"))?;
    modules.sort();
    for module in modules {
        let file = File::open(&module).with_context(|| format!("cannot open {}", module.display()))?;
        finit_module(file, c"", 0).with_context(|| format!("cannot load {}", module.display()))?;
    }
    let up = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status();
    if !up.context("cannot run ip")?.success() {
        bail!("the loopback interface does not come up");
    }
    Ok(())
}

/// The serial line to the host.
struct Host(Mutex<File>);

impl Host {
    fn open() -> Result<Self> {
        let open = || {
            let line = File::options().read(true).write(true).open(RESULTS)?;
            let mut settings = tcgetattr(&line)?;
            settings.make_raw();
            tcsetattr(&line, OptionalActions::Now, &settings)?;
            Ok::<_, std::io::Error>(line)
        };
        Ok(Self(Mutex::new(open().with_context(|| format!("cannot open {RESULTS}"))?)))
    }

    fn tell(&self, frame: &Frame) -> Result<()> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.write_all(format!("{frame}\n").as_bytes()).context("cannot write to the host")
    }

    fn drain(&self) -> Result<()> {
        tcdrain(&*self.0.lock().unwrap_or_else(PoisonError::into_inner)).context("cannot write to the host")
    }
}

/// Has the tracer tell which kernel features it uses here.
fn features(job: &Value) -> Result<String> {
    let mut tracer = command("/bin/tcptrace", job);
    tracer.args(strings(&job["features"])).args(["--transitions", "--duration", "1ms", "--json"]);
    let output = tracer.output().context("cannot run tcptrace")?;
    let start = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice::<Value>(start) {
        Ok(start) if start["sources"].is_object() => Ok(start["sources"].to_string()),
        _ => bail!("the tracer does not start: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// A command in the environment that the job asks for, and no other.
fn command(program: &str, job: &Value) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/bin").env("HOME", "/");
    for (name, value) in job["environment"].as_object().into_iter().flatten() {
        command.env(name, value.as_str().unwrap_or_default());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a test program, and those of its tests again that the kernel has kept from what they were to see: without BTF, and
/// on Linux 7, it skips programs now and then, and the tracer can do no more than tell.
fn run_all(program: &str, job: &Value, host: &Host) -> Result<()> {
    host.tell(&Frame::Run(program.to_owned()))?;
    let mut failed = run(program, strings(&job["arguments"]), job, host)?;
    for _ in 0..AGAIN {
        if failed.is_empty() {
            break;
        }
        host.tell(&Frame::Again(program.to_owned()))?;
        let arguments = [vec!["--exact".to_owned()], failed].concat();
        failed = run(program, arguments, job, host)?;
    }
    Ok(())
}

/// Runs a test program, to its end or that of its time, and ends what it leaves behind. Returns the tests that failed after
/// a loss.
fn run(program: &str, arguments: Vec<String>, job: &Value, host: &Host) -> Result<Vec<String>> {
    let mut command = command(&format!("/programs/{program}"), job);
    let mut child = command.args(arguments).spawn().with_context(|| format!("cannot run {program}"))?;
    let tally = Mutex::new(Tally::default());
    let tally = &tally;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let timed_out = AtomicBool::new(false);
    let (ended, end) = mpsc::channel::<()>();
    let status = thread::scope(|scope| {
        let timed_out = &timed_out;
        scope.spawn(move || {
            if end.recv_timeout(PROGRAM_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                timed_out.store(true, Ordering::Relaxed);
                kill_all();
            }
        });
        scope.spawn(move || pass_on(stdout, host, tally, Frame::Out));
        scope.spawn(move || pass_on(stderr, host, tally, Frame::Err));
        let status = wait_for(pid);
        drop(ended);
        // What it left behind may hold the pipes open, and would disturb the next one.
        kill_all();
        while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
        status
    });
    let status = match status {
        _ if timed_out.into_inner() => format!("killed after {} s", PROGRAM_LIMIT.as_secs()),
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        },
        None => "an unknown end".to_owned(),
    };
    host.tell(&Frame::Exit(status))?;
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(tally.finish().failed_by_loss)
}

/// Waits for a child, and buries orphans meanwhile: tests look whether processes are gone.
fn wait_for(child: Option<Pid>) -> Option<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == child => return Some(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn kill_all() {
    // kill(-1): all processes but ourselves. That there are none is no matter.
    let _none_left = kill_process_group(Pid::INIT, Signal::KILL);
}

fn pass_on(from: Option<impl Read>, host: &Host, tally: &Mutex<Tally>, frame: impl Fn(String) -> Frame) {
    let Some(from) = from else { return };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        tally.lock().unwrap_or_else(PoisonError::into_inner).line(&line);
        if let Err(error) = host.tell(&frame(line)) {
            eprintln!("guest: {error:#}");
            return;
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
