//! Asks witnesses that are independent of the tracer: `ss` and `/proc/PID/fd`.

use std::{fs, net::SocketAddr, process::Command};

use crate::{feature, process::poll_until, puppet::Sock, record::Record};

/// The names of the states in `ss`.
const STATES: [&str; 12] = [
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "NEW-SYN-RECV",
];

/// A socket as `ss` shows it, in the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The state, such as `CLOSE-WAIT`.
    pub state: String,
    /// The socket's own end; an IPv4-mapped address as IPv4.
    pub local: SocketAddr,
    /// The other end; `None` for a listener.
    pub remote: Option<SocketAddr>,
    /// Bytes that were not read. The kernel counts a FIN as one.
    pub recv_queue: u64,
    /// Bytes that were not acknowledged.
    pub send_queue: u64,
    /// The socket's cookie, `sk:`.
    pub cookie: u64,
    /// The pid and descriptor of each holder.
    pub holders: Vec<(u32, u32)>,
}

/// Returns all TCP sockets of this namespace.
///
/// # Panics
/// If there is no `ss`, or its output is not understood.
pub fn all() -> Vec<Seen> {
    let output =
        Command::new("ss").args(["-tanpeOH"]).output().expect("ss (iproute2) is needed by these tests");
    assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // ss prints the names of processes as they are: one with a newline in it breaks its line.
        match lines.last_mut() {
            Some(broken) if !STATES.iter().any(|state| line.starts_with(state)) => broken.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    // A socket that is being closed is shown without its port. It counts as gone.
    lines.iter().filter(|line| !line.starts_with("UNCONN")).map(|line| parse(line)).collect()
}

/// Returns the socket with these ends, if it is there.
pub fn find(socket: &Sock) -> Option<Seen> {
    all().into_iter().find(|seen| seen.local == socket.local && seen.remote == socket.remote)
}

/// The kernel's counters of a connection, as `ss -i` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The smoothed round-trip time, µs; 0 if there is no sample.
    pub rtt_us: u64,
    /// The number of retransmitted segments.
    pub retransmits: u64,
}

/// Returns the kernel's counters of the socket with these ends.
///
/// # Panics
/// If `ss` does not show it, or its output is not understood.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a round trip takes less than centuries"
)]
pub fn counters(socket: &Sock) -> Measured {
    let port = |end: SocketAddr| format!("= :{}", end.port());
    let remote = socket.remote.expect("a connection");
    let mut ss = Command::new("ss");
    ss.args(["-tinaOH", "sport", &port(socket.local), "dport", &port(remote)]);
    let output = ss.output().expect("ss (iproute2) is needed by these tests");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_its = |line: &&str| line.contains(&socket.local.to_string()) && line.contains(&remote.to_string());
    let line = text.lines().find(is_its).unwrap_or_else(|| panic!("ss does not show {socket:?}: {text}"));
    // rtt:0.038/0.019 in milliseconds; retrans:0/2, unacknowledged and in all, left out where it
    // is 0/0.
    let word = |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
    let rtt_ms = word("rtt:").and_then(|rtt| rtt.split_once('/')?.0.parse::<f64>().ok());
    let retransmits = word("retrans:").and_then(|retrans| retrans.split_once('/')?.1.parse().ok());
    Measured {
        rtt_us: rtt_ms.map_or(0, |ms| (ms * 1e3).round() as u64),
        retransmits: retransmits.unwrap_or(0),
    }
}

/// Waits until the socket with these ends is in `state` (`CLOSE-WAIT`).
pub fn await_state(socket: &Sock, state: &str) -> Seen {
    poll_until(&format!("{socket:?} in {state}"), || find(socket).filter(|seen| seen.state == state))
}

/// Returns the descriptors of a process that are sockets, from `/proc/PID/fd`.
///
/// # Panics
/// If there is no such process.
pub fn socket_fds(pid: u32) -> Vec<u32> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let mut fds: Vec<u32> = folder
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    fds
}

/// Counts the open descriptors of a process, from `/proc/PID/fd`.
///
/// # Panics
/// If there is no such process.
pub fn open_fds(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count() as u64
}

/// Asserts that the record of a stuck socket, `ss` and `/proc` name the same holders.
///
/// # Panics
/// If they are not exactly these pids and descriptors, in this order.
pub fn assert_held(stuck: &Record, socket: &Sock, by: &[(u32, u32)]) {
    assert_eq!((stuck.text("owner_how"), stuck.holders().as_slice()), ("fd", by), "{stuck:?}");
    let seen = find(socket).expect("it is still there");
    assert_eq!(seen.state, "CLOSE-WAIT");
    assert_eq!(seen.holders, by);
    if feature::why_not(feature::COOKIE).is_none() {
        assert_eq!(seen.cookie, stuck.cookie());
    }
    for (pid, fd) in by {
        assert!(socket_fds(*pid).contains(fd), "{pid} has no socket {fd}");
    }
}

fn parse(line: &str) -> Seen {
    let mut columns = line.split_ascii_whitespace();
    let mut column = || columns.next().unwrap_or_else(|| panic!("ss printed {line:?}"));
    let (state, recv_queue, send_queue, local, remote) = (column(), column(), column(), column(), column());
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("ss printed {line:?}"));
    let cookie = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("sk:"));
    Seen {
        state: state.to_owned(),
        local: parse_end(local).unwrap_or_else(|| panic!("ss printed {line:?}")),
        remote: parse_end(remote),
        recv_queue: number(recv_queue),
        send_queue: number(send_queue),
        cookie: cookie.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0),
        holders: parse_holders(line),
    }
}

/// Parses `127.0.0.1:80`, `[::1]:80` or `*:80` (a dual-stack listener); `None` if there is no
/// port.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.split('%').next()?;
    let address = if address == "*" { "::" } else { address };
    Some(SocketAddr::new(address.parse::<std::net::IpAddr>().ok()?.to_canonical(), port.parse().ok()?))
}

/// Parses `users:(("java",pid=4242,fd=57),("java",pid=4243,fd=57))`.
fn parse_holders(line: &str) -> Vec<(u32, u32)> {
    let mut holders: Vec<_> = line
        .split(",pid=")
        .skip(1)
        .filter_map(|holder| {
            let (pid, rest) = holder.split_once(",fd=")?;
            Some((pid.parse().ok()?, rest.split(')').next()?.parse().ok()?))
        })
        .collect();
    holders.sort_unstable();
    holders
}
