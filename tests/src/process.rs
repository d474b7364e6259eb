//! Runs child processes that never outlive the test, and finds the programs that the tests run.

use std::{
    env,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    time::{ClockId, clock_gettime},
};

/// Returns how long a test waits for anything before it fails: long, because the machine may be
/// busy. `TCPTRACE_PATIENCE` gives another number of seconds.
///
/// # Panics
/// If the variable is not a number.
pub fn patience() -> Duration {
    let seconds =
        env::var("TCPTRACE_PATIENCE").map(|text| text.parse().expect("TCPTRACE_PATIENCE is in seconds"));
    Duration::from_secs(seconds.unwrap_or(60))
}

/// The pause between two polls.
pub const PAUSE: Duration = Duration::from_millis(5);

/// Returns the time of `CLOCK_MONOTONIC`, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("the clock began at 0")
}

/// Calls `look` until it returns an answer.
///
/// # Panics
/// After [`patience`]; the message names `what`.
pub fn poll_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Returns the path of the tracer under test: `TCPTRACE_BIN`, or the one built beside the tests.
///
/// # Panics
/// If there is none.
pub fn tracer_program() -> PathBuf {
    let path = env::var_os("TCPTRACE_BIN").map_or_else(|| beside_the_tests("tcptrace"), PathBuf::from);
    assert!(path.is_file(), "no tracer at {}: build it, or name it in TCPTRACE_BIN", path.display());
    path
}

/// Returns the path of a program of this crate: in `TCPTRACE_TEST_BINS`, or beside the tests.
///
/// # Panics
/// If it is not there.
pub fn own_program(name: &str) -> PathBuf {
    let path = env::var_os("TCPTRACE_TEST_BINS")
        .map_or_else(|| beside_the_tests(name), |folder| PathBuf::from(folder).join(name));
    assert!(path.is_file(), "no {name} at {}: name its folder in TCPTRACE_TEST_BINS", path.display());
    path
}

/// Returns the path of a program in `target/PROFILE`; tests are in `target/PROFILE/deps`.
pub(crate) fn beside_the_tests(name: &str) -> PathBuf {
    let mut path = env::current_exe().expect("/proc is mounted");
    path.pop();
    path.set_file_name(name);
    path
}

/// A child process. Dropping it kills it; it also dies with the thread that started it.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let name = command.get_program().display().to_string();
        let end = Instant::now() + patience();
        loop {
            match command.spawn() {
                // The program was just copied, and the child of another test still has it open.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                started => {
                    return Self(started.unwrap_or_else(|error| panic!("cannot start {name}: {error}")));
                }
            }
        }
    }

    /// Returns the child's pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Takes the pipes that the child was given.
    pub fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.0.stdin.take(), self.0.stdout.take(), self.0.stderr.take())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the child has been waited for already.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("a child may be signalled");
    }

    /// Returns the exit status if the child has ended.
    ///
    /// # Panics
    /// If the system refuses to say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of the child.
    ///
    /// # Panics
    /// After [`patience`].
    pub fn wait(&mut self) -> ExitStatus {
        poll_until("a process to end", || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // std does not signal a child that has been waited for.
        let _gone_already = self.0.kill();
        let _gone_already = self.0.wait();
    }
}
