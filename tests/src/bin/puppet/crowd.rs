//! Forks many processes that leak sockets and end.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use rustix::{
    net,
    process::{Pid, WaitOptions, waitpid},
};
use serde_json::{Value, json};

use crate::{Outcome, describe, family::split, pair, socket, text};

/// Forks children, up to four at a time. Each opens connections to itself, closes the clients'
/// ends, and ends within `at_most_us` with the servers' ends open. Returns the sockets of each.
pub(crate) fn generations(children: usize, pairs: usize, at_most_us: u64) -> Outcome<Value> {
    const AT_A_TIME: usize = 4;
    let (here, there) = io::pipe().map_err(text)?;
    let mut lines = BufReader::new(here).lines();
    let mut leaks = Vec::new();
    for first in (0..children).step_by(AT_A_TIME) {
        let batch = first..children.min(first + AT_A_TIME);
        let mut pids = Vec::new();
        for nth in batch.clone() {
            let mut there = &there;
            pids.push(split(|| {
                let told = leak(pairs).and_then(|(leaks, held)| {
                    // One write of less than a page is whole (pipe(7)).
                    there.write_all(format!("{leaks}\n").as_bytes()).map_err(text)?;
                    Ok(held)
                });
                // Time itself has to pass.
                std::thread::sleep(Duration::from_micros(at_most_us * (nth as u64 % 8) / 8));
                std::process::exit(i32::from(told.is_err()))
            })?);
        }
        for _ in batch {
            let line = lines.next().ok_or("a child told nothing")?.map_err(text)?;
            leaks.push(serde_json::from_str::<Value>(&line).map_err(text)?);
        }
        for pid in pids {
            waitpid(Pid::from_raw(pid), WaitOptions::empty()).map_err(text)?;
        }
    }
    Ok(json!({"leaks": leaks}))
}

/// Opens connections to itself and closes the clients' ends. Returns the servers' ends.
pub(crate) fn leak(pairs: usize) -> Outcome<(Value, Vec<std::os::fd::OwnedFd>)> {
    let address = "127.0.0.1:0".parse().map_err(text)?;
    let listener = socket(&address)?;
    net::bind(&listener, &address).map_err(text)?;
    net::listen(&listener, 16).map_err(text)?;
    let mut held = Vec::new();
    for _ in 0..pairs {
        held.push(pair(listener.as_fd())?.1); // and the client's end is closed
    }
    let sockets: Outcome<Vec<Value>> = held.iter().map(|server| describe(server.as_fd())).collect();
    Ok((json!(sockets?), held))
}

/// Goes through new network namespaces, each with a connection that leaks for a while. Returns the
/// leaks.
pub(crate) fn namespaces(count: usize, us: u64) -> Outcome<Value> {
    let mut leaks = Vec::new();
    for _ in 0..count {
        tests::namespace::leave_for_a_new_one().map_err(text)?;
        tests::namespace::bring_loopback_up().map_err(text)?;
        let (mut leaked, held) = leak(1)?;
        leaks.push(leaked[0].take());
        // Time itself has to pass. With the next namespace this one is left, and with its last
        // socket it is gone.
        std::thread::sleep(Duration::from_micros(us));
        drop(held);
    }
    Ok(json!({"answers": leaks}))
}
