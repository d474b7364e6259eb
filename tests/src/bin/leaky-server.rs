//! Stuck sockets for `cargo xtask bench`: a server that holds as many in CLOSE_WAIT as it is told,
//! in a network namespace of its own.
//!
//! Usage: `leaky-server SOCKETS`. It prints `ready` once all are in CLOSE_WAIT and nothing of
//! their other ends is left, and ends when its stdin does. The clients are another process, itself
//! with `connect ADDRESS:PORT SOCKETS`.

#![expect(clippy::print_stdout, reason = "says that it is ready")]

use std::{
    env, fs,
    io::{self, Error},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, RawFd},
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::{Namespace, Process, process::poll_until};

/// The states of a socket in /proc/net/tcp (`include/net/tcp_states.h`).
const CLOSE_WAIT: &str = "08";
const FIN_WAIT2: &str = "05";
const LISTEN: &str = "0A";

/// Of Linux (`net.core.somaxconn`); the standard library asks for 128.
const BACKLOG: i32 = 4096;

fn main() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let count = |text: &String| text.parse::<usize>().map_err(Error::other);
    match arguments.as_slice() {
        [sockets] => serve(count(sockets)?),
        [connect, address, sockets] if connect == "connect" => {
            leave(address.parse().map_err(Error::other)?, count(sockets)?)
        }
        _ => Err(Error::other("usage: leaky-server SOCKETS")),
    }
}

/// Accepts so many connections and closes none.
fn serve(sockets: usize) -> io::Result<()> {
    let _namespace = Namespace::new();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Where the queue overflows, a client waits for a second before it tries again.
    rustix::net::listen(&listener, BACKLOG)?;
    let mut clients = Command::new(env::current_exe()?);
    clients.arg("connect").arg(listener.local_addr()?.to_string()).arg(sockets.to_string());
    let mut clients = Process::spawn(clients.stdin(Stdio::null()));
    let held: Vec<_> = listener.incoming().take(sockets).collect::<io::Result<_>>()?;
    if !clients.wait().success() {
        return Err(Error::other("the clients failed"));
    }
    poll_until("all to be in CLOSE_WAIT, and nothing else there", || {
        let states = states()?;
        let stuck = states.iter().filter(|state| *state == CLOSE_WAIT).count();
        (stuck == sockets && states.iter().all(|state| [CLOSE_WAIT, LISTEN].contains(&&**state)))
            .then_some(())
    });
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(held);
    Ok(())
}

/// Makes so many connections, and closes them all.
fn leave(to: SocketAddr, sockets: usize) -> io::Result<()> {
    let open: Vec<_> = (0..sockets).map(|_| TcpStream::connect(to)).collect::<io::Result<_>>()?;
    open.iter().try_for_each(|client| {
        forget_soon(client.as_raw_fd())?;
        client.shutdown(Shutdown::Write)
    })?;
    // One that is closed before its FIN has been acknowledged may be reset instead
    // (`tcp_keepalive_timer`, `net/ipv4/tcp_timer.c`), and with it the other end.
    poll_until("all to be in FIN_WAIT2", || {
        (states()?.iter().filter(|state| *state == FIN_WAIT2).count() == sockets).then_some(())
    });
    Ok(())
}

/// The state of each socket of this namespace.
fn states() -> Option<Vec<String>> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let states = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(3));
    Some(states.map(str::to_owned).collect())
}

/// Has the kernel's stand-in for a closed socket wait for the peer's FIN for a second, rather than
/// for a minute (tcp(7)).
fn forget_soon(socket: RawFd) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    const LENGTH: libc::socklen_t = 4; // of an `int`
    // SAFETY: setsockopt(2) reads the four bytes of an integer that outlives the call.
    let set = unsafe {
        libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, (&raw const seconds).cast(), LENGTH)
    };
    if set == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
