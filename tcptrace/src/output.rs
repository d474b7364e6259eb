//! Whole lines to stdout, by a thread of their own: a reader that stops never stops the tracing.
//!
//! They are written as many at a time as fit `PIPE_BUF`, which a pipe takes all or not at all: however it ends,
//! its reader gets no half line (but for a line that alone is longer).
//!
//! What waits to be written is bounded: transitions are dropped, and counted, once so many bytes wait;
//! records that say what is stuck are kept, they are bounded by the sockets there are.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::Notify;

use crate::kernel::give_up_all;

/// What a pipe takes in one piece, bytes (pipe(7)).
const PIPE_BUF: usize = 4096;

/// How long a reader that takes nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How writing ended before its time.
#[derive(Debug)]
pub enum Ended {
    /// The reader has gone.
    Closed,
    /// Writing failed.
    Failed(io::Error),
}

/// Where the records go.
pub struct Output {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Bytes that may wait before records are dropped.
    limit: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    ended: Notify,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks` and in the writer's hands.
    waiting: usize,
    /// Bytes written so far.
    written: u64,
    /// No more will come.
    finished: bool,
    ended: Option<Ended>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole at every unlock: a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    /// Starts the writer; `limit` is how many bytes may wait before records are dropped.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(sink: impl Write + AsFd + Send + 'static, limit: usize) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = std::thread::Builder::new().name("tcptrace-out".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // It only writes to what is open. If a filter of system calls forbids this, it said so at the start.
                let _as_it_was = give_up_all();
                write_all(&shared, sink);
            }
        })?;
        Ok(Self { shared, writer: Some(writer), limit })
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
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands over whole lines.
    pub fn write(&self, lines: Bytes) {
        if lines.is_empty() {
            return;
        }
        let mut queue = self.shared.queue();
        if queue.ended.is_none() {
            queue.waiting += lines.len();
            queue.chunks.push_back(lines);
            self.shared.changed.notify_all();
        }
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
        self.shared.changed.notify_all();
        let mut written = queue.written;
        while queue.waiting > 0 && queue.ended.is_none() {
            let (guard, timeout) =
                self.shared.changed.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            if timeout.timed_out() && std::mem::replace(&mut written, queue.written) == queue.written {
                break;
            }
        }
        let (ended, left) = (queue.ended.take(), queue.waiting);
        drop(queue);
        if left == 0
            && let Some(writer) = self.writer.take()
        {
            let _it_never_panics = writer.join();
        }
        (ended, left)
    }
}

/// The writer: takes chunks and writes each to the end.
fn write_all(shared: &Shared, mut sink: impl Write + AsFd) {
    loop {
        let mut queue = shared.queue();
        while queue.chunks.is_empty() && !queue.finished {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(chunk) = queue.chunks.pop_front() else { return };
        drop(queue);
        let result = write_chunk(shared, &mut sink, &chunk);
        let mut queue = shared.queue();
        if let Err(error) = result {
            queue.ended = Some(match error.kind() {
                ErrorKind::BrokenPipe => Ended::Closed,
                _ => Ended::Failed(error),
            });
            queue.chunks.clear();
            queue.waiting = 0;
            shared.changed.notify_all();
            shared.ended.notify_one();
            return;
        }
        shared.changed.notify_all();
    }
}

fn write_chunk(shared: &Shared, sink: &mut (impl Write + AsFd), mut chunk: &[u8]) -> io::Result<()> {
    while !chunk.is_empty() {
        let (lines, rest) = chunk.split_at(whole_lines(chunk));
        write_lines(sink, lines)?;
        chunk = rest;
        let mut queue = shared.queue();
        // Who waits is told when the chunk is written: there are some hundred such writes to 64 of them.
        queue.waiting -= lines.len();
        queue.written += lines.len() as u64;
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

fn write_lines(sink: &mut (impl Write + AsFd), mut lines: &[u8]) -> io::Result<()> {
    while !lines.is_empty() {
        match sink.write(lines) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody has made this file non-blocking: wait for room.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(sink, PollFlags::OUT)], None)
                    .map(drop)
                    .or_else(|errno| if errno == rustix::io::Errno::INTR { Ok(()) } else { Err(errno) })?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::OwnedFd};

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
            output.write(Bytes::from_static(line.as_bytes()));
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
        output.write(Bytes::from_static(b"x\n"));
        assert!(matches!(output.finish(), (Some(Ended::Closed), 0)));

        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = Output::start(full, LIMIT).expect("a thread");
        output.write(Bytes::from_static(b"x\n"));
        assert!(matches!(output.finish(), (Some(Ended::Failed(_)), 0)));
    }

    #[test]
    fn a_reader_that_stops_fills_the_queue_and_one_that_goes_on_gets_everything() {
        let (mut read, write) = pipe();
        let output = Output::start(write, LIMIT).expect("a thread");
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let mut handed_over = 0;
        while !output.is_full() {
            output.write(chunk.clone());
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
        output.write(Bytes::from(bytes.clone()));
        let reader = std::thread::spawn(move || {
            let mut everything = Vec::new();
            read.read_to_end(&mut everything).map(|_| everything)
        });
        assert!(matches!(output.finish(), (None, 0)));
        assert_eq!(reader.join().expect("it does not panic").expect("it reads"), bytes);
    }
}
