//! Does to sockets what it is told: a command a line on stdin, an answer a line on stdout, as
//! JSON.
//!
//! It knows nothing of the tracer. What it says about its sockets comes from getsockname(2) and
//! getpeername(2).

#![expect(clippy::print_stdout, reason = "its answers")]

mod crowd;
mod family;
mod passing;
mod thread;
mod uring;

use std::{
    collections::BTreeMap,
    env, io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, sockopt},
};
use serde_json::{Value, json};

type Outcome<T> = Result<T, String>;

fn main() {
    let mut puppet = Puppet::default();
    if env::var_os("LISTEN_FDS").is_some_and(|count| count == "1") {
        // As sd_listen_fds(3) has it.
        // SAFETY: who started us says that 3 is a socket of ours, and nothing has been opened yet.
        puppet.open.insert(3, unsafe { OwnedFd::from_raw_fd(3) });
    }
    serve(puppet);
}

/// Obeys each command, to the end of stdin.
fn serve(mut puppet: Puppet) {
    let next = || {
        // The lock of stdin is not held between two commands: another thread may go on with the
        // next.
        let mut command = String::new();
        let length = io::stdin().read_line(&mut command).ok()?;
        (length > 0).then(|| command.trim_end().to_owned())
    };
    while let Some(command) = next() {
        if command == "exit-first-thread" {
            thread::exit_and_let_another_serve(puppet);
        }
        match puppet.obey(&command) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{}", json!({"error": error})),
        }
    }
}

#[derive(Default)]
struct Puppet {
    open: BTreeMap<RawFd, OwnedFd>,
    /// Where descriptors come in from other processes.
    mailbox: Option<OwnedFd>,
}

impl Puppet {
    fn obey(&mut self, command: &str) -> Outcome<Value> {
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        match words[..] {
            ["listen", address] => self.listen(address, 128, &[]),
            ["listen", address, backlog, ref options @ ..] => self.listen(address, number(backlog)?, options),
            ["connect", address] => {
                let client = connect(address.parse().map_err(text)?, None)?;
                self.keep(client)
            }
            ["connect", address, "from", own] => {
                let own = own.parse().map_err(text)?;
                let client = connect(address.parse().map_err(text)?, Some(own))?;
                self.keep(client)
            }
            ["begin-to-connect", address] => {
                let address: SocketAddr = address.parse().map_err(text)?;
                let client = socket(&address)?;
                rustix::io::ioctl_fionbio(&client, true).map_err(text)?;
                match net::connect(&client, &address) {
                    Err(Errno::INPROGRESS) => self.keep(client),
                    other => Err(format!("not in progress but {other:?}")),
                }
            }
            ["accept", fd] => {
                let server = net::accept(self.socket(fd)?).map_err(text)?;
                self.keep(server)
            }
            ["uring-accept", fd] => {
                let server = uring::accept(self.socket(fd)?)?;
                self.keep(server)
            }
            ["repeat", count, ref command @ ..] => {
                let command = command.join(" ");
                let answers: Outcome<Vec<_>> = (0..number(count)?).map(|_| self.obey(&command)).collect();
                Ok(json!({"answers": answers?}))
            }
            ["describe", fd] => describe(self.socket(fd)?),
            ["dup", fd] => {
                let copy = rustix::io::dup(self.socket(fd)?).map_err(text)?;
                self.keep(copy)
            }
            ["close", ref fds @ ..] => {
                for fd in fds {
                    self.open.remove(&number(fd)?).map(drop).ok_or("not open").map_err(text)?;
                }
                Ok(json!({}))
            }
            ["reset", fd] => {
                let socket = self.open.remove(&number(fd)?).ok_or("not open").map_err(text)?;
                // socket(7): a close that throws away what is unsent, and resets the connection.
                sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).map_err(text)?;
                Ok(json!({}))
            }
            ["user-timeout", fd, ms] => {
                sockopt::set_tcp_user_timeout(self.socket(fd)?, number(ms)?).map_err(text)?;
                Ok(json!({}))
            }
            ["shutdown", fd] => {
                net::shutdown(self.socket(fd)?, net::Shutdown::Write).map_err(text)?;
                Ok(json!({}))
            }
            ["write", fd, bytes] => write(self.socket(fd)?, number(bytes)?),
            ["read", fd, bytes] => read(self.socket(fd)?, number(bytes)?),
            ["name", hex] => rename(hex),
            ["unshare"] => {
                tests::namespace::leave_for_a_new_one().map_err(text)?;
                Ok(json!({"netns": netns()?}))
            }
            ["fork"] => family::fork(),
            ["daemon"] => family::daemon(),
            ["real-user", uid] => family::become_real_user(number(uid)?),
            ["leak-as", pid] => family::leak_as(number(pid)?),
            ["spin"] => thread::spin(),
            ["unshare-pids"] => family::unshare_pids(),
            ["exec", keep, program] => family::exec(self.open.values(), keep == "keep", program),
            ["exit"] => std::process::exit(0),
            ["generations", children, pairs, at_most_us] => {
                crowd::generations(number(children)?, number(pairs)?, number(at_most_us)?)
            }
            ["namespaces", count, us] => crowd::namespaces(number(count)?, number(us)?),
            ["mailbox", name] => self.open_mailbox(name),
            ["send", fd, name] => passing::send(self.socket(fd)?, name),
            ["receive"] => self.receive(),
            ["in-thread", name, ref command @ ..] => self.in_thread(name, &command.join(" ")),
            ["accept-apart", fd] => self.accept_apart(fd),
            ["pairs", fd, count] => {
                let mut pairs = Vec::new();
                for _ in 0..number(count)? {
                    let (client, server) = pair(self.socket(fd)?)?;
                    pairs.push([self.keep(client)?, self.keep(server)?]);
                }
                Ok(json!({"pairs": pairs}))
            }
            ["churn", fd, count] => {
                let mut pairs = Vec::new();
                for _ in 0..number(count)? {
                    let (client, server) = pair(self.socket(fd)?)?;
                    pairs.push([describe(client.as_fd())?, describe(server.as_fd())?]);
                    drop(client);
                    read(server.as_fd(), 1)?;
                }
                Ok(json!({"pairs": pairs}))
            }
            _ => Err(format!("no such command: {command}")),
        }
    }

    fn listen(&mut self, address: &str, backlog: i32, options: &[&str]) -> Outcome<Value> {
        let address: SocketAddr = address.parse().map_err(text)?;
        let listener = socket(&address)?;
        sockopt::set_socket_reuseaddr(&listener, true).map_err(text)?;
        for option in options {
            match *option {
                "reuseport" => sockopt::set_socket_reuseport(&listener, true),
                "v6only" => sockopt::set_ipv6_v6only(&listener, true),
                _ => return Err(format!("no such option: {option}")),
            }
            .map_err(text)?;
        }
        net::bind(&listener, &address).map_err(text)?;
        net::listen(&listener, backlog).map_err(text)?;
        self.keep(listener)
    }

    fn keep(&mut self, socket: OwnedFd) -> Outcome<Value> {
        let answer = describe(socket.as_fd())?;
        self.open.insert(socket.as_raw_fd(), socket);
        Ok(answer)
    }

    fn socket(&self, fd: &str) -> Outcome<BorrowedFd<'_>> {
        Ok(self.open.get(&number(fd)?).ok_or("not open")?.as_fd())
    }
}

/// A socket of the address's own family: an IPv4-mapped one takes an AF_INET6 socket.
fn socket(address: &SocketAddr) -> Outcome<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket(family, SocketType::STREAM, None).map_err(text)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false).map_err(text)?;
    }
    Ok(socket)
}

fn connect(to: SocketAddr, from: Option<SocketAddr>) -> Outcome<OwnedFd> {
    let client = socket(&to)?;
    if let Some(from) = from {
        sockopt::set_socket_reuseaddr(&client, true).map_err(text)?;
        net::bind(&client, &from).map_err(text)?;
    }
    net::connect(&client, &to).map_err(text)?;
    Ok(client)
}

/// A connection to our own listener: (client, server).
fn pair(listener: BorrowedFd<'_>) -> Outcome<(OwnedFd, OwnedFd)> {
    let to = net::getsockname(listener).map_err(text)?.try_into().map_err(text)?;
    let client = connect(to, None)?;
    Ok((client, net::accept(listener).map_err(text)?))
}

fn describe(socket: BorrowedFd<'_>) -> Outcome<Value> {
    let local = SocketAddr::try_from(net::getsockname(socket).map_err(text)?).map_err(text)?;
    let remote = match net::getpeername(socket) {
        Ok(Some(remote)) => Some(SocketAddr::try_from(remote).map_err(text)?.to_string()),
        Ok(None) | Err(Errno::NOTCONN) => None,
        Err(error) => return Err(text(error)),
    };
    Ok(json!({
        "pid": std::process::id(),
        "fd": socket.as_raw_fd(),
        "netns": netns()?,
        "local": local.to_string(),
        "remote": remote,
    }))
}

fn netns() -> Outcome<u64> {
    Ok(std::fs::metadata("/proc/self/ns/net").map_err(text)?.ino())
}

/// Writes without waiting for room.
fn write(to: BorrowedFd<'_>, bytes: usize) -> Outcome<Value> {
    let chunk = vec![b'x'; bytes.min(64 << 10)];
    let mut written = 0;
    while written < bytes {
        match net::send(
            to,
            &chunk[..chunk.len().min(bytes - written)],
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(count) => written += count,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(text(error)),
        }
    }
    Ok(json!({"bytes": written}))
}

/// Reads so many bytes, or up to the end.
fn read(from: BorrowedFd<'_>, bytes: usize) -> Outcome<Value> {
    let mut chunk = vec![0; bytes.min(64 << 10)];
    let (mut read, mut end) = (0, false);
    while read < bytes && !end {
        let room = chunk.len().min(bytes - read);
        let (count, _) = net::recv(from, &mut chunk[..room], RecvFlags::empty()).map_err(text)?;
        read += count;
        end = count == 0;
    }
    Ok(json!({"bytes": read, "end": end}))
}

fn rename(hex: &str) -> Outcome<Value> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2).unwrap_or(""), 16).map_err(text);
    let name: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
    let name = std::ffi::CString::new(name).map_err(text)?;
    rustix::thread::set_name(&name).map_err(text)?;
    Ok(json!({}))
}

fn number<T: std::str::FromStr>(word: &str) -> Outcome<T> {
    word.parse().map_err(|_| format!("no number: {word}"))
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands over the error")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
