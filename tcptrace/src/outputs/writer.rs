//! Whole lines to stdout or a file, by a thread of their own: a reader that stops never stops the tracing.
//!
//! They are written as many at a time as fit `PIPE_BUF`, which a pipe takes all or not at all: however it ends,
//! its reader gets no half line (but for a line that alone is longer).
//!
//! What waits to be written is bounded: what can come again and again is dropped, and counted, once so many bytes wait;
//! records that say what is stuck are kept, they are bounded by the sockets there are.

pub mod target;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::getuid,
    thread::CapabilitySet,
};
use tokio::sync::Notify;

use crate::{
    diagnostics::{detail, say},
    host::privilege::give_up_all_but,
};
pub use target::Target;

/// What a pipe takes in one piece, bytes (pipe(7)).
const PIPE_BUF: usize = 4096;

/// So many buffers are kept for what comes next, each of so many bytes at the most. One that has been written is still in
/// the processor's cache, and takes no memory from the system a second time.
const SPARES: (usize, usize) = (4, 256 << 10);

/// How long a reader that takes nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How writing ended before its time.
#[derive(Debug)]
pub enum Ended {
    /// The reader has gone.
    Closed,
    /// Writing failed.
    Failed {
        /// Why.
        error: io::Error,
        /// Whether only the beginning of the last line was written.
        is_cut: bool,
    },
}

/// Where the records go.
pub struct Output {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Where the records go, in words.
    name: String,
    /// The same file, to see whether anybody reads it. `None` where it is one that nobody has to read.
    read_by: Option<OwnedFd>,
    /// Bytes that may wait before records are dropped.
    limit: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or nothing will come any more.
    came: Condvar,
    /// Something was written, or writing has ended.
    went: Condvar,
    ended: Notify,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Empty ones, to be filled again.
    spares: Vec<Vec<u8>>,
    /// The writer waits for something to write. To wake somebody who does not sleep costs a system call too.
    is_idle: bool,
    /// Somebody waits for the writer.
    is_awaited: bool,
    /// Bytes in `chunks` and in the writer's hands.
    waiting: usize,
    /// Bytes written so far.
    written: u64,
    /// Bytes that were not, since writing has ended.
    unwritten: usize,
    /// The file is to be opened again.
    is_to_be_opened: bool,
    /// No more will come.
    finished: bool,
    ended: Option<Ended>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole at every unlock: a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer, if it sleeps.
    fn wake_writer(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.is_idle) {
            self.came.notify_one();
        }
    }

    /// Wakes who waits for the writer, if anybody does.
    fn wake_waiting(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.is_awaited) {
            self.went.notify_all();
        }
    }
}

impl Output {
    /// Starts the writer; `limit` is how many bytes may wait before records are dropped.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(target: impl Into<Target>, limit: usize) -> io::Result<Self> {
        // A file that has grown to its limit (`ulimit -f`): write(2) fails, and the end is not a sudden one.
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let target = target.into();
        let name =
            target.path.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string());
        let is_file = target.file.metadata()?.is_file();
        let read_by = if is_file { None } else { Some(target.file.try_clone()?.into()) };
        // To open the file again as root could at the start, also in somebody else's folder.
        let opens_again = target.path.is_some() && getuid().is_root();
        let kept = if opens_again { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
        let shared = Arc::<Shared>::default();
        let writer = std::thread::Builder::new().name("tcptrace-out".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // It only writes to what is open. If a filter of system calls forbids this, it said so at the start.
                let _as_it_was = give_up_all_but(kept);
                write_all(&shared, target);
            }
        })?;
        Ok(Self { shared, writer: Some(writer), name, read_by, limit })
    }

    /// Where the records go, in words: `stdout`, or the file's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that the records go to, where somebody has to read it.
    pub fn read_by(&self) -> Option<&OwnedFd> {
        self.read_by.as_ref()
    }

    /// Opens the file again, between two records. stdout stays as it is.
    pub fn open_again(&self) {
        let mut queue = self.shared.queue();
        queue.is_to_be_opened = true;
        self.shared.wake_writer(&mut queue);
    }

    /// Whether so much waits that what may be dropped has to be.
    pub fn is_full(&self) -> bool {
        self.shared.queue().waiting >= self.limit
    }

    /// Whether writing has ended before its time.
    pub fn has_ended(&self) -> bool {
        self.shared.queue().ended.is_some()
    }

    /// Waits until there is room for more, or writing has ended.
    pub fn wait_for_room(&self) {
        let mut queue = self.shared.queue();
        while queue.waiting >= self.limit && queue.ended.is_none() {
            queue.is_awaited = true;
            queue = self.shared.went.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands over whole lines, and leaves an empty buffer in their place.
    pub fn write(&self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut queue = self.shared.queue();
        if queue.ended.is_some() {
            queue.unwritten += lines.len();
            lines.clear();
            return;
        }
        let empty = queue.spares.pop().unwrap_or_default();
        queue.waiting += lines.len();
        queue.chunks.push_back(std::mem::replace(lines, empty));
        self.shared.wake_writer(&mut queue);
    }

    /// Waits until writing has ended before its time.
    pub async fn ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Writes what waits, as long as the reader takes some of it, and says how writing ended, and how many
    /// bytes were left.
    pub fn finish(mut self) -> (Option<Ended>, usize) {
        let mut queue = self.shared.queue();
        queue.finished = true;
        self.shared.wake_writer(&mut queue);
        let mut written = queue.written;
        while queue.waiting > 0 && queue.ended.is_none() {
            queue.is_awaited = true;
            let (guard, timeout) =
                self.shared.went.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            if timeout.timed_out() && std::mem::replace(&mut written, queue.written) == queue.written {
                break;
            }
        }
        let (ended, left) = (queue.ended.take(), queue.waiting + queue.unwritten);
        drop(queue);
        if (left == 0 || ended.is_some())
            && let Some(writer) = self.writer.take()
        {
            let _it_never_panics = writer.join();
        }
        (ended, left)
    }
}

/// The writer: takes chunks and writes each to the end.
fn write_all(shared: &Shared, mut target: Target) {
    let mut queue = shared.queue();
    loop {
        while queue.chunks.is_empty() && !queue.finished && !queue.is_to_be_opened {
            queue.is_idle = true;
            queue = shared.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::take(&mut queue.is_to_be_opened) {
            drop(queue);
            open_again(&mut target);
            queue = shared.queue();
            continue;
        }
        let Some(mut chunk) = queue.chunks.pop_front() else { return };
        drop(queue);
        let result = write_chunk(shared, &mut target.file, &chunk);
        queue = shared.queue();
        if let Err(ended) = result {
            queue.ended = Some(ended);
            queue.chunks.clear();
            queue.unwritten = std::mem::take(&mut queue.waiting);
            shared.wake_waiting(&mut queue);
            shared.ended.notify_one();
            return;
        }
        let (spares, bytes) = SPARES;
        if queue.spares.len() < spares && chunk.capacity() <= bytes {
            chunk.clear();
            queue.spares.push(chunk);
        }
    }
}

fn open_again(target: &mut Target) {
    match target.open_again() {
        Ok(true) => detail("the output file was opened again"),
        Ok(false) => {}
        Err(error) => {
            let path = target.path.as_deref().unwrap_or_else(|| "".as_ref()).display();
            say(format_args!(
                "cannot open {path} again: {error}; records go on into the file that was open before"
            ));
        }
    }
}

fn write_chunk(shared: &Shared, file: &mut File, mut chunk: &[u8]) -> Result<(), Ended> {
    while !chunk.is_empty() {
        let (lines, rest) = chunk.split_at(whole_lines(chunk));
        write_lines(file, lines)?;
        chunk = rest;
        let mut queue = shared.queue();
        queue.waiting -= lines.len();
        queue.written += lines.len() as u64;
        shared.wake_waiting(&mut queue);
    }
    Ok(())
}

/// How many bytes the whole lines at the beginning have that fit a pipe; at least one line.
fn whole_lines(chunk: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let head = &chunk[..chunk.len().min(PIPE_BUF)];
    let end = head.iter().rposition(is_end).or_else(|| chunk.iter().position(is_end));
    end.map_or(chunk.len(), |end| end + 1)
}

fn write_lines(file: &mut File, lines: &[u8]) -> Result<(), Ended> {
    let mut left = lines;
    while !left.is_empty() {
        let failed = match file.write(left) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                left = &left[written..];
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Somebody has made this file non-blocking: wait for room.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(file, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => continue,
                    Err(errno) => errno.into(),
                }
            }
            Err(error) => error,
        };
        let written = &lines[..lines.len() - left.len()];
        return Err(match failed.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ended::Closed,
            _ if has_gone(file) => Ended::Closed,
            _ => Ended::Failed { error: failed, is_cut: written.last().is_some_and(|last| *last != b'\n') },
        });
    }
    Ok(())
}

/// Whether nobody will ever read it: the reader of a pipe or a socket, or the terminal, has gone.
pub fn has_gone(file: &impl std::os::fd::AsFd) -> bool {
    let mut polled = [PollFd::new(file, PollFlags::empty())];
    let is_known = poll(&mut polled, Some(&Timespec::default())).is_ok();
    is_known && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const LIMIT: usize = 4 << 20;

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
        let output = Output::start(write, LIMIT).expect("a thread");
        for line in ["one\n", "two\n"] {
            output.write(&mut line.as_bytes().to_vec());
            let mut buffer = [0; 4];
            read.read_exact(&mut buffer).expect("it comes before the next is written");
            assert_eq!(&buffer, line.as_bytes());
        }
        assert!(matches!(output.finish(), (None, 0)));
    }

    #[test]
    fn a_reader_that_has_gone_is_told_apart_from_a_failure() {
        let (read, write) = pipe();
        drop(read);
        let output = Output::start(write, LIMIT).expect("a thread");
        output.write(&mut b"x\n".to_vec());
        assert!(matches!(output.finish(), (Some(Ended::Closed), 2)));

        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = Output::start(full, LIMIT).expect("a thread");
        output.write(&mut b"x\n".to_vec());
        assert!(matches!(output.finish(), (Some(Ended::Failed { is_cut: false, .. }), 2)));
    }

    #[test]
    fn a_reader_that_stops_fills_the_queue_and_one_that_goes_on_gets_everything() {
        let (mut read, write) = pipe();
        let output = Output::start(write, LIMIT).expect("a thread");
        let chunk = vec![b'x'; 1 << 20];
        let mut handed_over = 0;
        while !output.is_full() {
            output.write(&mut chunk.clone());
            handed_over += chunk.len();
        }
        let reader = std::thread::spawn(move || {
            let mut everything = Vec::new();
            read.read_to_end(&mut everything).map(|_| everything.len())
        });
        assert!(matches!(output.finish(), (None, 0)));
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
        let output = Output::start(write, LIMIT).expect("a thread");
        let bytes = vec![b'y'; 1 << 20];
        output.write(&mut bytes.clone());
        let reader = std::thread::spawn(move || {
            let mut everything = Vec::new();
            read.read_to_end(&mut everything).map(|_| everything)
        });
        assert!(matches!(output.finish(), (None, 0)));
        assert_eq!(reader.join().expect("it does not panic").expect("it reads"), bytes);
    }
}
