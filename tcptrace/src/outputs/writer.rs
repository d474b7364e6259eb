//! Writes whole lines to stdout or a file, in a thread of its own: a reader that stops never stops
//! the tracing.
//!
//! The thread writes as many lines at a time as fit `PIPE_BUF`, which a pipe takes completely or
//! not at all. However the run ends, the reader of a pipe gets no partial line, unless that line
//! alone is longer.
//!
//! The queue is bounded. Once it is full, records that repeat are dropped and counted. Records
//! that say what is stuck are kept: they are bounded by the sockets there are.

pub mod target;

use std::{
    collections::VecDeque,
    fs::File,
    future::Future,
    io::{self, ErrorKind, Write as _},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::sync::Notify;

use crate::{
    diagnostics::{print_detail, print_problem},
    outputs::writer::target::Target,
};

/// The most bytes that a pipe takes in one piece (pipe(7)).
const PIPE_BUF: usize = 4096;

/// The most empty buffers that are kept to be filled again. A buffer that was just written is
/// still in the processor's cache, and needs no new memory from the system.
const MAX_SPARES: usize = 4;

/// The most bytes that such a buffer has.
const MAX_SPARE_BYTES: usize = 256 << 10;

/// How long a reader that takes nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to see that a wait is given up.
const GIVE_UP_WITHIN: Duration = Duration::from_millis(100);

/// How a writer works.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// How many bytes may wait before records are dropped.
    pub queue_bytes: usize,
    /// Drops the privileges of the writer's thread, which calls this first. The argument is
    /// whether the thread may have to reopen its file.
    pub drop_privileges: fn(bool) -> io::Result<()>,
}

/// Why writing ended early.
#[derive(Debug)]
pub enum EarlyEnd {
    /// The reader has gone.
    ReaderGone,
    /// Writing failed before its end.
    Failed {
        /// What the system said.
        error: io::Error,
        /// Whether only the beginning of the last line was written.
        is_cut: bool,
    },
}

/// How writing ended.
#[derive(Debug)]
pub struct WriteEnd {
    /// Where the records went: `stdout`, or the file's path.
    pub to: String,
    /// Why writing ended early; `None` if it did not.
    pub ended: Option<EarlyEnd>,
    /// How many bytes were not written.
    pub left: usize,
}

/// A queue of lines, and the thread that writes them.
pub struct LineWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Where the records go, in words.
    target_name: String,
    /// A duplicate of the target, to see whether its reader has gone; `None` for a regular file.
    reader: Option<OwnedFd>,
    /// How many bytes may wait before records are dropped.
    queue_bytes: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write or to do, or no more will come.
    work_added: Condvar,
    /// Something was written, or writing has ended.
    work_done: Condvar,
    ended_early: Notify,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact that the other thread waits for")]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Empty buffers, to be filled again.
    spares: Vec<Vec<u8>>,
    /// Whether the thread waits for work. A needless wake-up costs a system call.
    is_thread_idle: bool,
    /// Whether a caller waits for the thread.
    is_caller_waiting: bool,
    /// Bytes in `chunks` and in the chunk that is being written.
    bytes_queued: usize,
    /// Bytes written so far.
    bytes_written: u64,
    /// Bytes that were not written because writing ended early.
    bytes_unwritten: usize,
    /// The file has to be reopened.
    is_reopen_requested: bool,
    /// No more will come.
    is_finished: bool,
    ended: Option<EarlyEnd>,
}

impl Shared {
    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent at every unlock: a panic elsewhere does not corrupt it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it sleeps.
    fn wake_thread(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.is_thread_idle) {
            self.work_added.notify_one();
        }
    }

    /// Wakes the callers that wait for the thread.
    fn wake_callers(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.is_caller_waiting) {
            self.work_done.notify_all();
        }
    }
}

impl LineWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be created, or no descriptor is left.
    pub fn start(target: impl Into<Target>, options: WriterOptions) -> io::Result<Self> {
        // A file that has reached its limit (`ulimit -f`) makes write(2) fail instead of killing
        // this process. SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let target = target.into();
        let target_name = target.name();
        let is_regular_file = target.file.metadata()?.is_file();
        let reader = if is_regular_file { None } else { Some(target.file.try_clone()?.into()) };
        let may_reopen = target.path.is_some();
        let shared = Arc::<Shared>::default();
        let thread = std::thread::Builder::new().name("tcptrace-out".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // The thread only writes to what is open. If a seccomp filter forbids this call,
                // the start has reported that.
                let _privileges_stay = (options.drop_privileges)(may_reopen);
                run_thread(&shared, target);
            }
        })?;
        let WriterOptions { queue_bytes, .. } = options;
        Ok(Self { shared, thread: Some(thread), target_name, reader, queue_bytes })
    }

    /// Returns the file that the records go to, if a reader has to take them from it.
    pub fn reader(&self) -> Option<&OwnedFd> {
        self.reader.as_ref()
    }

    /// Reopens the file, between two records. stdout stays as it is.
    pub fn reopen(&self) {
        let mut queue = self.shared.lock_queue();
        queue.is_reopen_requested = true;
        self.shared.wake_thread(&mut queue);
    }

    /// Whether the queue is full: records that may be dropped have to be.
    pub fn is_full(&self) -> bool {
        self.shared.lock_queue().bytes_queued >= self.queue_bytes
    }

    /// Whether writing has ended early.
    pub fn has_ended(&self) -> bool {
        self.shared.lock_queue().ended.is_some()
    }

    /// Waits until the queue has room, writing has ended early, or `is_given_up` is set.
    pub fn wait_for_room(&self, is_given_up: &AtomicBool) {
        let mut queue = self.shared.lock_queue();
        while queue.bytes_queued >= self.queue_bytes
            && queue.ended.is_none()
            && !is_given_up.load(Ordering::Relaxed)
        {
            queue.is_caller_waiting = true;
            // What sets the flag, a signal, cannot wake this thread.
            let waited = self.shared.work_done.wait_timeout(queue, GIVE_UP_WITHIN);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Queues whole lines, and leaves an empty buffer in their place.
    pub fn write(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut queue = self.shared.lock_queue();
        if queue.ended.is_some() {
            queue.bytes_unwritten += lines.len();
            lines.clear();
            return;
        }
        let empty = queue.spares.pop().unwrap_or_default();
        queue.bytes_queued += lines.len();
        queue.chunks.push_back(std::mem::replace(lines, empty));
        self.shared.wake_thread(&mut queue);
    }

    /// Waits until writing has ended early.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.ended_early.notified().await }
    }

    /// Writes what is queued, as long as the reader takes some of it, and returns how writing
    /// ended.
    pub fn finish(mut self) -> WriteEnd {
        let mut queue = self.shared.lock_queue();
        queue.is_finished = true;
        self.shared.wake_thread(&mut queue);
        let mut written = queue.bytes_written;
        while queue.bytes_queued > 0 && queue.ended.is_none() {
            queue.is_caller_waiting = true;
            let (guard, timeout) =
                self.shared.work_done.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            let written_before = std::mem::replace(&mut written, queue.bytes_written);
            if timeout.timed_out() && written_before == queue.bytes_written {
                break;
            }
        }
        let (ended, left) = (queue.ended.take(), queue.bytes_queued + queue.bytes_unwritten);
        drop(queue);
        if (left == 0 || ended.is_some())
            && let Some(thread) = self.thread.take()
        {
            let _it_never_panics = thread.join();
        }
        WriteEnd { to: std::mem::take(&mut self.target_name), ended, left }
    }
}

/// Writes chunks, each to its end, until no more come.
fn run_thread(shared: &Shared, mut target: Target) {
    let mut queue = shared.lock_queue();
    loop {
        while queue.chunks.is_empty() && !queue.is_finished && !queue.is_reopen_requested {
            queue.is_thread_idle = true;
            queue = shared.work_added.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::take(&mut queue.is_reopen_requested) {
            drop(queue);
            reopen_target(&mut target);
            queue = shared.lock_queue();
            continue;
        }
        let Some(mut chunk) = queue.chunks.pop_front() else { return };
        drop(queue);
        let result = write_chunk(shared, &mut target.file, &chunk);
        queue = shared.lock_queue();
        if let Err(ended) = result {
            queue.ended = Some(ended);
            queue.chunks.clear();
            queue.bytes_unwritten = std::mem::take(&mut queue.bytes_queued);
            shared.wake_callers(&mut queue);
            shared.ended_early.notify_one();
            return;
        }
        if queue.spares.len() < MAX_SPARES && chunk.capacity() <= MAX_SPARE_BYTES {
            chunk.clear();
            queue.spares.push(chunk);
        }
    }
}

fn reopen_target(target: &mut Target) {
    match target.reopen() {
        Ok(true) => print_detail("the output file was opened again"),
        Ok(false) => {}
        Err(error) => {
            let name = target.name();
            print_problem(format_args!(
                "cannot open {name} again: {error}; records go on into the file that was open before"
            ));
        }
    }
}

fn write_chunk(shared: &Shared, file: &mut File, mut chunk: &[u8]) -> Result<(), EarlyEnd> {
    while !chunk.is_empty() {
        let (lines, rest) = chunk.split_at(whole_lines(chunk));
        write_lines(file, lines)?;
        chunk = rest;
        let mut queue = shared.lock_queue();
        queue.bytes_queued -= lines.len();
        queue.bytes_written += lines.len() as u64;
        shared.wake_callers(&mut queue);
    }
    Ok(())
}

/// Returns how many bytes the whole lines have that fit a pipe: at least one line.
fn whole_lines(chunk: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let head = &chunk[..chunk.len().min(PIPE_BUF)];
    let end = head.iter().rposition(is_end).or_else(|| chunk.iter().position(is_end));
    end.map_or(chunk.len(), |end| end + 1)
}

fn write_lines(file: &mut File, lines: &[u8]) -> Result<(), EarlyEnd> {
    let mut left = lines;
    while !left.is_empty() {
        let error = match file.write(left) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                left = &left[written..];
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Another process has made this file non-blocking: wait for room.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(file, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => continue,
                    Err(errno) => errno.into(),
                }
            }
            Err(error) => error,
        };
        let written = &lines[..lines.len() - left.len()];
        return Err(match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => EarlyEnd::ReaderGone,
            _ if is_reader_gone(file) => EarlyEnd::ReaderGone,
            _ => EarlyEnd::Failed { error, is_cut: written.last().is_some_and(|last| *last != b'\n') },
        });
    }
    Ok(())
}

/// Whether nobody will ever read the file: the reader of a pipe or a socket, or the terminal, has
/// gone.
pub fn is_reader_gone(file: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(file, PollFlags::empty())];
    let is_known = poll(&mut polled, Some(&Timespec::default())).is_ok();
    is_known && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const OPTIONS: WriterOptions = WriterOptions { queue_bytes: 4 << 20, drop_privileges: |_| Ok(()) };

    fn pipe() -> (File, File) {
        let (read, write): (OwnedFd, OwnedFd) = {
            let (read, write) = io::pipe().expect("a pipe");
            (read.into(), write.into())
        };
        (read.into(), write.into())
    }

    #[test]
    fn lines_come_out_whole_in_order_and_at_once() {
        let (mut read, write) = pipe();
        let writer = LineWriter::start(write, OPTIONS).expect("a thread");
        for line in ["one\n", "two\n"] {
            writer.write(&mut line.as_bytes().to_vec());
            let mut buffer = [0; 4];
            read.read_exact(&mut buffer).expect("it comes before the next is written");
            assert_eq!(&buffer, line.as_bytes());
        }
        assert!(matches!(writer.finish(), WriteEnd { ended: None, left: 0, .. }));
    }

    #[test]
    fn a_reader_that_has_gone_is_told_apart_from_a_failure() {
        let (read, write) = pipe();
        drop(read);
        let writer = LineWriter::start(write, OPTIONS).expect("a thread");
        writer.write(&mut b"x\n".to_vec());
        assert!(matches!(writer.finish(), WriteEnd { ended: Some(EarlyEnd::ReaderGone), left: 2, .. }));

        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let writer = LineWriter::start(full, OPTIONS).expect("a thread");
        writer.write(&mut b"x\n".to_vec());
        assert!(matches!(
            writer.finish(),
            WriteEnd { ended: Some(EarlyEnd::Failed { is_cut: false, .. }), left: 2, .. }
        ));
    }

    #[test]
    fn a_reader_that_stops_fills_the_queue_and_one_that_goes_on_gets_everything() {
        let (mut read, write) = pipe();
        let writer = LineWriter::start(write, OPTIONS).expect("a thread");
        let chunk = vec![b'x'; 1 << 20];
        let mut handed_over = 0;
        while !writer.is_full() {
            writer.write(&mut chunk.clone());
            handed_over += chunk.len();
        }
        let reader = std::thread::spawn(move || {
            let mut everything = Vec::new();
            read.read_to_end(&mut everything).map(|_| everything.len())
        });
        assert!(matches!(writer.finish(), WriteEnd { ended: None, left: 0, .. }));
        assert_eq!(reader.join().expect("it does not panic").expect("it reads"), handed_over);
    }

    #[test]
    fn lines_are_written_whole_and_as_many_as_a_pipe_takes_at_once() {
        let line = [&[b'x'; 999][..], b"\n"].concat();
        assert_eq!(whole_lines(&line.repeat(10)), 4000);
        assert_eq!(whole_lines(&line.repeat(2)), 2000);
        let long = [&[b'y'; 9000][..], b"\n", &line].concat();
        assert_eq!(whole_lines(&long), 9001);
        assert_eq!(whole_lines(b"no end"), 6);
    }

    #[test]
    fn a_non_blocking_stdout_loses_nothing() {
        let (mut read, write) = pipe();
        rustix::io::ioctl_fionbio(&write, true).expect("a pipe can be non-blocking");
        let writer = LineWriter::start(write, OPTIONS).expect("a thread");
        let bytes = vec![b'y'; 1 << 20];
        writer.write(&mut bytes.clone());
        let reader = std::thread::spawn(move || {
            let mut everything = Vec::new();
            read.read_to_end(&mut everything).map(|_| everything)
        });
        assert!(matches!(writer.finish(), WriteEnd { ended: None, left: 0, .. }));
        assert_eq!(reader.join().expect("it does not panic").expect("it reads"), bytes);
    }
}
