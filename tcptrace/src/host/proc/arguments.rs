//! Reads a process's arguments, and waits for them only so long.
//!
//! They are in the process's own memory: the kernel takes the process's memory lock to read them
//! (`get_mm_cmdline`, `fs/proc/base.c`), which a process that hangs, or that wants to be a nuisance,
//! holds for as long as it likes. Whoever waits here does not drain the ring meanwhile.

use std::{
    fs::File,
    io::Read as _,
    sync::{Mutex, PoisonError, mpsc::sync_channel},
    thread::Builder,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

/// How many threads may wait for arguments at a time. Beyond that nobody's arguments are read.
const MAX_WAITING: usize = 4;

/// The most bytes that are read. The class path of a Java program can have tens of thousands.
const MAX_BYTES: usize = 256 << 10;

/// After a process has not answered, how long nobody is asked: waiting takes one part in fifty of the
/// time at most.
const REST: Duration = Duration::from_secs(1);

/// After a process has not answered, how long it is not asked again.
const REST_OF_PROCESS: Duration = Duration::from_mins(1);

/// The most processes that are remembered for not having answered.
const MAX_RESTING: usize = 1024;

/// How long a process's arguments are waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// While tracing: hardly at all.
    #[default]
    Short,
    /// Where nothing has to be kept up with.
    Long,
}

impl Patience {
    const fn longest_wait(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(20),
            Self::Long => Duration::from_secs(2),
        }
    }
}

/// A process's arguments, as `/proc/PID/cmdline` has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Each ends with a NUL.
    pub(crate) bytes: Vec<u8>,
    /// Whether there are more of them.
    pub(crate) is_cut: bool,
}

/// Who is not asked, and how many threads wait.
struct Readers {
    waiting: usize,
    rests_until: Option<Instant>,
    resting: FxHashMap<u32, Instant>,
}

static READERS: Mutex<Option<Readers>> = Mutex::new(None);

fn with_readers<T>(act: impl FnOnce(&mut Readers) -> T) -> T {
    // Consistent at every unlock: a panic elsewhere does not corrupt it.
    let mut readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
    act(readers.get_or_insert_with(|| Readers {
        waiting: 0,
        rests_until: None,
        resting: FxHashMap::default(),
    }))
}

/// Reads the arguments of a process. `None` if it has ended, may not be seen or does not answer.
pub(crate) fn read_arguments(pid: u32, patience: Patience) -> Option<Arguments> {
    let now = Instant::now();
    let may_wait = with_readers(|readers| {
        let rests = |until: &Instant| *until > now;
        let is_resting = patience == Patience::Short
            && (readers.rests_until.as_ref().is_some_and(rests)
                || readers.resting.get(&pid).is_some_and(rests));
        let may_wait = readers.waiting < MAX_WAITING && !is_resting;
        readers.waiting += usize::from(may_wait);
        may_wait
    });
    if !may_wait {
        return None;
    }
    let (sender, receiver) = sync_channel(1);
    let read = move || {
        let mut bytes = Vec::new();
        let file = File::open(format!("/proc/{pid}/cmdline"));
        let read = file.and_then(|file| file.take(MAX_BYTES as u64).read_to_end(&mut bytes));
        with_readers(|readers| readers.waiting -= 1);
        let is_cut = bytes.len() == MAX_BYTES;
        let _nobody_waits_any_more = sender.send(read.is_ok().then_some(Arguments { bytes, is_cut }));
    };
    if Builder::new().name("tcptrace-args".to_owned()).spawn(read).is_err() {
        with_readers(|readers| readers.waiting -= 1);
        return None;
    }
    receiver.recv_timeout(patience.longest_wait()).unwrap_or_else(|_| {
        with_readers(|readers| {
            let now = Instant::now();
            readers.rests_until = Some(now + REST);
            if readers.resting.len() >= MAX_RESTING {
                readers.resting.retain(|_, until| *until > now);
            }
            if readers.resting.len() < MAX_RESTING {
                readers.resting.insert(pid, now + REST_OF_PROCESS);
            }
        });
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_arguments_are_those_that_we_were_given() {
        let read = read_arguments(std::process::id(), Patience::Long).expect("we run");
        let given: Vec<u8> =
            std::env::args().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(read, Arguments { bytes: given, is_cut: false });
        assert_eq!(read_arguments(u32::MAX - 1000, Patience::Long), None);
    }
}
