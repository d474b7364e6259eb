//! Reads a process's arguments, and waits for them only so long.
//!
//! They are in the process's own memory: the kernel takes the process's memory lock to read them
//! (`get_mm_cmdline`, `fs/proc/base.c`), which a process that hangs may hold for as long as it
//! likes.

use std::{
    fs::File,
    io::Read as _,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread::Builder,
    time::Duration,
};

/// How long a process's arguments are waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many threads may wait for arguments at a time. Beyond that nobody's arguments are read.
const MAX_WAITING: usize = 4;

/// The most bytes that are read. The class path of a Java program can have tens of thousands.
const MAX_BYTES: u64 = 256 << 10;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Reads `/proc/PID/cmdline`. `None` if the process has ended, may not be seen or does not answer.
pub(crate) fn read_arguments(pid: u32) -> Option<Vec<u8>> {
    if WAITING.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let (sender, receiver) = sync_channel(1);
    let read = move || {
        let mut bytes = Vec::new();
        let file = File::open(format!("/proc/{pid}/cmdline"));
        let read = file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
        WAITING.fetch_sub(1, Ordering::Relaxed);
        let _nobody_waits_any_more = sender.send(read.is_ok().then_some(bytes));
    };
    if Builder::new().name("tcptrace-args".to_owned()).spawn(read).is_err() {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    receiver.recv_timeout(PATIENCE).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_arguments_are_those_that_we_were_given() {
        let read = read_arguments(std::process::id()).expect("we run");
        let given: Vec<u8> =
            std::env::args().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(read, given);
        assert_eq!(read_arguments(u32::MAX - 1000), None);
    }
}
