//! Processes that do to sockets what a test tells them, and say what they did (`bin/puppet.rs`).

use std::{
    ffi::OsStr,
    fmt::Display,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::Value;

use crate::process::{Process, own_program, patience};

/// A socket as the process that opened it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sock {
    /// Who opened it.
    pub pid: u32,
    /// Its descriptor there.
    pub fd: u32,
    /// The namespace it was opened in.
    pub netns: u64,
    /// getsockname(2); an IPv4-mapped address as IPv4.
    pub local: SocketAddr,
    /// getpeername(2), likewise.
    pub remote: Option<SocketAddr>,
}

/// A puppet. Dropping it ends it.
#[derive(Debug)]
pub struct Puppet {
    process: Process,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Puppet {
    /// Starts one in the calling thread's network namespace.
    #[expect(clippy::new_without_default, reason = "it starts a process: nothing for a default")]
    pub fn new() -> Self {
        Self::start(Command::new(own_program("puppet")))
    }

    /// Starts one with this for its `argv[0]`.
    pub fn with_arg0(name: impl AsRef<OsStr>) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(own_program("puppet"));
        command.arg0(name);
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

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it, and waits for its end.
    pub fn kill(self) {
        drop(self);
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Panics
    /// It failed there, or took too long.
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

    /// Connects, from a socket of the address's own family, whether mapped or not.
    pub fn connect(&mut self, to: SocketAddr) -> Sock {
        socket(&self.tell(format_args!("connect {to}")))
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

    /// Ends its own side of a connection; the descriptor stays.
    pub fn shutdown(&mut self, which: &Sock) {
        self.tell(format_args!("shutdown {}", which.fd));
    }

    /// Writes so many bytes, or fewer where the kernel takes no more. Returns how many.
    pub fn write(&mut self, to: &Sock, bytes: usize) -> u64 {
        self.tell(format_args!("write {} {bytes}", to.fd))["bytes"].as_u64().expect("a count")
    }

    /// Reads so many bytes, waiting for them, or up to the end of the stream. Returns how many.
    pub fn read(&mut self, from: &Sock, bytes: usize) -> u64 {
        self.tell(format_args!("read {} {bytes}", from.fd))["bytes"].as_u64().expect("a count")
    }

    /// Waits for the end of the stream, and reads it.
    pub fn read_to_the_end(&mut self, from: &Sock) {
        let answer = self.tell(format_args!("read {} {}", from.fd, usize::MAX));
        assert_eq!(answer["end"], true, "{answer}");
    }

    /// Takes another name (`/proc/PID/comm`).
    pub fn rename(&mut self, name: &[u8]) {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        self.tell(format_args!("name {hex}"));
    }

    /// Goes to a network namespace that did not exist before; its open sockets stay in theirs.
    pub fn leave_namespace(&mut self) {
        self.tell("unshare");
    }

    /// Forks a child that holds the same descriptors and waits for its parent's end. Returns its pid.
    pub fn fork(&mut self) -> u32 {
        self.tell("fork")["child"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// Connects to its own listener and accepts that, `count` times. Returns (client, server) of each.
    pub fn pairs(&mut self, listener: &Sock, count: usize) -> Vec<(Sock, Sock)> {
        let answer = self.tell(format_args!("pairs {} {count}", listener.fd));
        let pairs = answer["pairs"].as_array().expect("a list");
        pairs.iter().map(|pair| (socket(&pair[0]), socket(&pair[1]))).collect()
    }

    /// Like [`Self::pairs`], one after the other, each closed by its client and then by its server before the
    /// next. What they were, for their ends: the descriptors are gone.
    pub fn churn(&mut self, listener: &Sock, count: usize) -> Vec<(Sock, Sock)> {
        let answer = self.tell(format_args!("churn {} {count}", listener.fd));
        let pairs = answer["pairs"].as_array().expect("a list");
        pairs.iter().map(|pair| (socket(&pair[0]), socket(&pair[1]))).collect()
    }
}

fn socket(answer: &Value) -> Sock {
    let number = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("no {name} in {answer}"));
    let small = |name: &str| u32::try_from(number(name)).expect("a small number");
    let end = |name: &str| {
        let address: SocketAddr = answer[name].as_str()?.parse().expect("an address and a port");
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    Sock {
        pid: small("pid"),
        fd: small("fd"),
        netns: number("netns"),
        local: end("local").unwrap_or_else(|| panic!("no local end in {answer}")),
        remote: end("remote"),
    }
}
