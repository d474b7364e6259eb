//! Processes that use sockets as a test tells them, and report what they did (`bin/puppet`).

use std::{
    ffi::OsStr,
    fmt::Display,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Process, own_program, patience, poll_until};

/// A socket as the process that opened it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sock {
    /// The pid of the process that opened it.
    pub pid: u32,
    /// Its descriptor in that process.
    pub fd: u32,
    /// The network namespace that it was opened in.
    pub netns: u64,
    /// Its own address (getsockname(2)); an IPv4-mapped address as IPv4.
    pub local: SocketAddr,
    /// Its peer's address (getpeername(2)); an IPv4-mapped address as IPv4.
    pub remote: Option<SocketAddr>,
}

/// A process that obeys the test. Dropping it ends it.
#[derive(Debug)]
pub struct Puppet {
    process: Process,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Puppet {
    /// Starts a puppet in the calling thread's network namespace.
    #[expect(clippy::new_without_default, reason = "it starts a process: nothing for a default")]
    pub fn new() -> Self {
        Self::start(Command::new(own_program("puppet")))
    }

    /// Starts a copy of the puppet's program at this path.
    pub fn at(path: &Path) -> Self {
        std::fs::copy(own_program("puppet"), path).expect("a program can be copied");
        Self::start(Command::new(path))
    }

    /// Starts a copy of the program at this path, with these arguments, which a puppet ignores.
    pub fn with_arguments(path: &Path, arguments: &[&str]) -> Self {
        std::fs::copy(own_program("puppet"), path).expect("a program can be copied");
        let mut command = Command::new(path);
        command.args(arguments);
        Self::start(command)
    }

    /// Starts a puppet with this `argv[0]`.
    pub fn with_arg0(name: impl AsRef<OsStr>) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(own_program("puppet"));
        command.arg0(name);
        Self::start(command)
    }

    /// Starts a puppet that inherits this socket as descriptor 3, as a socket-activated service
    /// does (`sd_listen_fds(3)`).
    pub fn with_inherited(socket: &OwnedFd) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(own_program("puppet"));
        let fd = socket.as_raw_fd();
        // SAFETY: dup2(2) and fcntl(2) are async-signal-safe. If it is 3 already it only has to
        // stay open.
        let inherit = move || match unsafe {
            if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) }
        } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        };
        // SAFETY: as said, and it captures a number.
        unsafe { command.pre_exec(inherit) };
        command.env("LISTEN_FDS", "1");
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let (commands, answers, _) = process.pipes();
        let (commands, answers) = (commands.expect("piped"), answers.expect("piped"));
        let (sender, receiver) = channel();
        thread::spawn(move || {
            BufReader::new(answers).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process, commands, answers: receiver }
    }

    /// Returns the puppet's pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills the puppet and waits for its end.
    pub fn kill(self) {
        drop(self);
    }

    /// Kills the puppet and waits for its end. Its children live until the result is dropped.
    #[must_use]
    pub fn kill_alone(self) -> Children {
        Children(self.commands)
    }

    /// Has the puppet exit with everything open, and waits for its end.
    pub fn exit(mut self) {
        writeln!(self.commands, "exit").expect("the puppet listens");
        self.process.wait();
    }

    /// Has the puppet execute another program, which keeps its sockets or, as usual, closes them.
    /// Returns once it runs.
    pub fn exec(&mut self, keeps: bool, program: &str) {
        let keep = if keeps { "keep" } else { "close" };
        writeln!(self.commands, "exec {keep} {program}").expect("the puppet listens");
        let comm = format!("/proc/{}/comm", self.pid());
        poll_until("another program", || {
            std::fs::read_to_string(&comm).is_ok_and(|comm| comm.trim_end() == program).then_some(())
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Panics
    /// If the command failed, or took too long.
    pub fn tell(&mut self, command: impl Display) -> Value {
        writeln!(self.commands, "{command}").expect("the puppet listens");
        let answer = self
            .answers
            .recv_timeout(patience())
            .unwrap_or_else(|error| panic!("no answer from the puppet to `{command}`: {error}"));
        let answer: Value = serde_json::from_str(&answer).expect("the puppet speaks JSON");
        assert!(answer.get("error").is_none(), "the puppet could not `{command}`: {answer}");
        answer
    }

    /// Listens at an address such as `127.0.0.1:0`.
    pub fn listen(&mut self, address: &str) -> Sock {
        socket(&self.tell(format_args!("listen {address}")))
    }

    /// Listens with another backlog, or with the options `reuseport` or `v6only`.
    pub fn listen_with(&mut self, address: &str, backlog: u32, options: &str) -> Sock {
        socket(&self.tell(format_args!("listen {address} {backlog} {options}")))
    }

    /// Connects from this address and port.
    pub fn connect_from(&mut self, from: SocketAddr, to: SocketAddr) -> Sock {
        socket(&self.tell(format_args!("connect {to} from {from}")))
    }

    /// Connects `count` times.
    pub fn connect_many(&mut self, to: SocketAddr, count: usize) -> Vec<Sock> {
        sockets(&self.tell(format_args!("repeat {count} connect {to}")))
    }

    /// Accepts `count` connections.
    pub fn accept_many(&mut self, listener: &Sock, count: usize) -> Vec<Sock> {
        sockets(&self.tell(format_args!("repeat {count} accept {}", listener.fd)))
    }

    /// Closes all these descriptors.
    pub fn close_all(&mut self, which: &[Sock]) {
        let fds: Vec<String> = which.iter().map(|socket| socket.fd.to_string()).collect();
        self.tell(format_args!("close {}", fds.join(" ")));
    }

    /// Runs a command that opens a socket in a new thread of this name. Returns the socket and the
    /// thread's id.
    pub fn in_thread(&mut self, name: &str, command: impl Display) -> (Sock, u32) {
        let answer = self.tell(format_args!("in-thread {name} {command}"));
        (socket(&answer), small(&answer, "tid"))
    }

    /// Accepts by io_uring.
    pub fn accept_by_uring(&mut self, listener: &Sock) -> Sock {
        socket(&self.tell(format_args!("uring-accept {}", listener.fd)))
    }

    /// Accepts in a thread that shares its descriptors with no other.
    pub fn accept_apart(&mut self, listener: &Sock) -> Sock {
        socket(&self.tell(format_args!("accept-apart {}", listener.fd)))
    }

    /// Returns the socket that the puppet inherited.
    pub fn inherited(&mut self) -> Sock {
        socket(&self.tell("describe 3"))
    }

    /// Opens a mailbox (an abstract Unix socket) for [`Self::send`].
    pub fn open_mailbox(&mut self, name: &str) {
        self.tell(format_args!("mailbox {name}"));
    }

    /// Sends a copy of a descriptor to a mailbox.
    pub fn send(&mut self, what: &Sock, mailbox: &str) {
        self.tell(format_args!("send {} {mailbox}", what.fd));
    }

    /// Receives a descriptor from the puppet's mailbox.
    pub fn receive(&mut self) -> Sock {
        socket(&self.tell("receive"))
    }

    /// Closes a descriptor so that the connection is reset.
    pub fn reset(&mut self, which: &Sock) {
        self.tell(format_args!("reset {}", which.fd));
    }

    /// Sets how long sent data may stay unacknowledged (tcp(7), TCP_USER_TIMEOUT).
    pub fn set_user_timeout(&mut self, of: &Sock, ms: u32) {
        self.tell(format_args!("user-timeout {} {ms}", of.fd));
    }

    /// Connects with a socket of the address's own family, IPv4-mapped or not.
    pub fn connect(&mut self, to: SocketAddr) -> Sock {
        socket(&self.tell(format_args!("connect {to}")))
    }

    /// Begins to connect, and does not wait for the answer.
    pub fn connect_in_the_background(&mut self, to: SocketAddr) -> Sock {
        Sock { remote: Some(to), ..socket(&self.tell(format_args!("begin-to-connect {to}"))) }
    }

    /// Accepts a connection.
    pub fn accept(&mut self, listener: &Sock) -> Sock {
        socket(&self.tell(format_args!("accept {}", listener.fd)))
    }

    /// Makes a second descriptor of the same socket.
    pub fn dup(&mut self, of: &Sock) -> Sock {
        socket(&self.tell(format_args!("dup {}", of.fd)))
    }

    /// Closes a descriptor.
    pub fn close(&mut self, which: &Sock) {
        self.tell(format_args!("close {}", which.fd));
    }

    /// Shuts down the puppet's side of a connection; the descriptor stays open.
    pub fn shutdown(&mut self, which: &Sock) {
        self.tell(format_args!("shutdown {}", which.fd));
    }

    /// Writes `bytes` bytes, or fewer if the kernel takes no more. Returns how many.
    pub fn write(&mut self, to: &Sock, bytes: usize) -> u64 {
        self.tell(format_args!("write {} {bytes}", to.fd))["bytes"].as_u64().expect("a count")
    }

    /// Waits for `bytes` bytes or the end of the stream, and reads them. Returns how many.
    pub fn read(&mut self, from: &Sock, bytes: usize) -> u64 {
        self.tell(format_args!("read {} {bytes}", from.fd))["bytes"].as_u64().expect("a count")
    }

    /// Reads to the end of the stream, and waits for it.
    pub fn read_to_the_end(&mut self, from: &Sock) {
        let answer = self.tell(format_args!("read {} {}", from.fd, usize::MAX));
        assert_eq!(answer["end"], true, "{answer}");
    }

    /// Changes the puppet's name (`/proc/PID/comm`).
    pub fn rename(&mut self, name: &[u8]) {
        let hex = name.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        self.tell(format_args!("name {hex}"));
    }

    /// Moves to a new network namespace; open sockets stay in theirs.
    pub fn leave_namespace(&mut self) {
        self.tell("unshare");
    }

    /// Goes through `count` new network namespaces, and leaks a connection in each for `us`
    /// microseconds. Returns the leaks.
    pub fn pass_through_namespaces(&mut self, count: usize, us: u64) -> Vec<Sock> {
        sockets(&self.tell(format_args!("namespaces {count} {us}")))
    }

    /// Forks a child that holds the same descriptors until this puppet is dropped. Returns its
    /// pid.
    pub fn fork(&mut self) -> u32 {
        small(&self.tell("fork"), "child")
    }

    /// Forks a daemon that holds the same descriptors: a grandchild in a session of its own, whose
    /// parent has ended. Returns its pid.
    pub fn fork_daemon(&mut self) -> u32 {
        small(&self.tell("daemon"), "child")
    }

    /// Forks a child that holds the same descriptors as the first process of a pid namespace.
    /// Returns its pid.
    pub fn fork_into_pid_namespace(&mut self) -> u32 {
        self.tell("unshare-pids");
        self.fork()
    }

    /// Forks a child with this pid that leaks a connection to itself until this puppet is dropped.
    /// Returns the leak.
    pub fn leak_as(&mut self, pid: u32) -> Sock {
        socket(&self.tell(format_args!("leak-as {pid}"))["leak"])
    }

    /// Ends the puppet's first thread; another one goes on.
    pub fn exit_first_thread(&mut self) {
        self.tell("exit-first-thread");
    }

    /// Has the puppet use all the CPU time that it can get from now on.
    pub fn spin(&mut self) {
        self.tell("spin");
    }

    /// Forks `children` children that leak `pairs` connections each and end within `at_most_us`
    /// microseconds. Returns the leaks.
    pub fn generations(&mut self, children: usize, pairs: usize, at_most_us: u64) -> Vec<Sock> {
        let answer = self.tell(format_args!("generations {children} {pairs} {at_most_us}"));
        let leaks = answer["leaks"].as_array().expect("a list");
        leaks.iter().flat_map(|leaks| leaks.as_array().expect("a list")).map(socket).collect()
    }

    /// Connects to the puppet's own listener and accepts, `count` times. Returns the client's and
    /// the server's socket of each connection.
    pub fn pairs(&mut self, listener: &Sock, count: usize) -> Vec<(Sock, Sock)> {
        let answer = self.tell(format_args!("pairs {} {count}", listener.fd));
        let pairs = answer["pairs"].as_array().expect("a list");
        pairs.iter().map(|pair| (socket(&pair[0]), socket(&pair[1]))).collect()
    }

    /// Makes connections like [`Self::pairs`], and closes each by its client and then by its
    /// server before the next. The descriptors of what it returns are closed.
    pub fn churn(&mut self, listener: &Sock, count: usize) -> Vec<(Sock, Sock)> {
        let answer = self.tell(format_args!("churn {} {count}", listener.fd));
        let pairs = answer["pairs"].as_array().expect("a list");
        pairs.iter().map(|pair| (socket(&pair[0]), socket(&pair[1]))).collect()
    }
}

/// Children of a process that was killed. They live as long as their stdin is open.
#[derive(Debug)]
pub struct Children(#[expect(dead_code, reason = "what counts is that it is open")] ChildStdin);

fn small(answer: &Value, name: &str) -> u32 {
    let number = answer[name].as_u64().unwrap_or_else(|| panic!("no {name} in {answer}"));
    u32::try_from(number).expect("a small number")
}

fn sockets(answer: &Value) -> Vec<Sock> {
    answer["answers"].as_array().expect("a list").iter().map(socket).collect()
}

fn socket(answer: &Value) -> Sock {
    let end = |name: &str| {
        let address: SocketAddr = answer[name].as_str()?.parse().expect("an address and a port");
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    Sock {
        pid: small(answer, "pid"),
        fd: small(answer, "fd"),
        netns: answer["netns"].as_u64().unwrap_or_else(|| panic!("no netns in {answer}")),
        local: end("local").unwrap_or_else(|| panic!("no local end in {answer}")),
        remote: end("remote"),
    }
}
