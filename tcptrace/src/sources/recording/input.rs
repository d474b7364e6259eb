//! The file that a replay reads: as it was recorded, or compressed by gzip or zstd.
//!
//! Whatever the file holds, memory stays bounded: a decoder keeps a window of 128 MiB at the most,
//! and `recording.rs` bounds a line.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read},
    os::fd::OwnedFd,
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use crate::sources::interruption::Interruption;

/// Bytes that are read at a time.
const AT_ONCE: usize = 1 << 20;

/// As many bytes as the longest magic number here has.
const MAGIC: usize = 6;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// What a file is that cannot be read, and the command that makes a recording of it.
const OTHERS: [(&[u8], &str, &str); 6] = [
    (b"\xfd7zXZ\0", "xz data", "xz -dc"),
    (b"BZh", "bzip2 data", "bzip2 -dc"),
    (b"\x04\x22\x4d\x18", "lz4 data", "lz4 -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
    (b"\xff\xfe", "UTF-16 text", "iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16 text", "iconv -f utf-16 -t utf-8"),
];

/// Lines that come from somewhere.
pub trait Lines: BufRead {
    /// Whether the next line is not there yet, and may be long in coming.
    fn has_to_wait(&self) -> bool {
        false
    }

    /// Whether the end is none of the file's: nobody wants to have read the rest.
    fn is_abandoned(&self) -> bool {
        false
    }
}

impl Lines for &[u8] {}

/// A file, decompressed where that is needed.
pub struct RecordingFile {
    reader: Reader,
    is_abandoned: Rc<Cell<bool>>,
}

type Start<R> = Chain<Cursor<Vec<u8>>, R>;

enum Reader {
    Plain(BufReader<Start<Watched>>),
    Compressed(Box<dyn BufRead>),
}

impl RecordingFile {
    /// Reads `file` from its beginning. The input ends early once nobody reads `output` any more,
    /// if records go where somebody reads them, or once `interruption` asks for that.
    ///
    /// # Errors
    /// It cannot be read, or is in a form that is not understood here.
    pub fn new(file: File, output: Option<OwnedFd>, interruption: Interruption) -> io::Result<Self> {
        let is_abandoned = Rc::new(Cell::new(false));
        let shared = Rc::clone(&is_abandoned);
        let mut file = Watched { file, output, interruption, is_abandoned: shared, has_ended: false };
        let mut start = Vec::new();
        file.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
        if let Some((_, what, command)) = OTHERS.iter().find(|(magic, ..)| start.starts_with(magic)) {
            let why = format!("it is {what}; read it with `{command} FILE | tcptrace --replay -`");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        let (is_gzip, is_zstd) = (start.starts_with(GZIP), is_zstd(&start));
        let reader = BufReader::with_capacity(AT_ONCE, Cursor::new(start).chain(file));
        let reader = if is_gzip {
            let gzip =
                Compressed { reader: MultiGzDecoder::new(reader), name: "gzip", after_cut: AFTER_CUT_GZIP };
            Reader::Compressed(Box::new(BufReader::with_capacity(AT_ONCE, gzip)))
        } else if is_zstd {
            let zstd = Compressed { reader: Zstd::new(reader), name: "zstd", after_cut: AFTER_CUT_ZSTD };
            Reader::Compressed(Box::new(BufReader::with_capacity(AT_ONCE, zstd)))
        } else {
            Reader::Plain(reader)
        };
        Ok(Self { reader, is_abandoned })
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match &mut self.reader {
            Reader::Plain(reader) => reader,
            Reader::Compressed(reader) => reader,
        }
    }
}

/// A frame of zstd, or one to be skipped: pzstd begins with one.
fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(ZSTD) || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

impl Read for RecordingFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader().read(buffer)
    }
}

impl BufRead for RecordingFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader().fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.reader().consume(count);
    }
}

impl Lines for RecordingFile {
    fn has_to_wait(&self) -> bool {
        // What a decoder would wait for is not known.
        let Reader::Plain(reader) = &self.reader else { return false };
        !reader.buffer().contains(&b'\n') && !reader.get_ref().get_ref().1.has_come()
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }
}

/// A file that is read as long as somebody reads what is made of it, and nothing interrupts it.
struct Watched {
    file: File,
    output: Option<OwnedFd>,
    interruption: Interruption,
    is_abandoned: Rc<Cell<bool>>,
    /// Whether the end has been read: a terminal, asked again, would wait for more.
    has_ended: bool,
}

impl Watched {
    /// Whether reading would not wait.
    fn has_come(&self) -> bool {
        let now = Timespec::default();
        poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&now)) != Ok(0)
    }

    /// Waits for something to read. Says whether anybody wants it.
    fn is_wanted(&self) -> bool {
        while !self.interruption.is_end_requested() {
            let mut any = vec![
                PollFd::new(&self.file, PollFlags::IN),
                PollFd::from_borrowed_fd(self.interruption.wait_fd(), PollFlags::IN),
            ];
            any.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::empty())));
            match poll(&mut any, None) {
                Err(Errno::INTR) => continue,
                // Any other error shows in the read.
                Err(_) => return true,
                Ok(_) => {}
            }
            let is_ready = |at: usize| any.get(at).is_some_and(|one| !one.revents().is_empty());
            let (has_come, is_woken, is_gone) = (is_ready(0), is_ready(1), is_ready(2));
            if has_come || is_gone {
                return has_come;
            }
            if is_woken {
                let _it_tells_nothing = self.interruption.acknowledge();
            }
        }
        false
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended {
            return Ok(0);
        }
        if !self.is_wanted() {
            self.is_abandoned.set(true);
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        self.has_ended = count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

/// A decoder whose errors say what went wrong.
struct Compressed<R> {
    reader: R,
    name: &'static str,
    /// What to add where the data ends too early.
    after_cut: &'static str,
}

/// After a cut, gzip has given out all that came before it.
const AFTER_CUT_GZIP: &str = "; what came before was replayed";

/// The decoder gives out a frame's last window only at the frame's end.
const AFTER_CUT_ZSTD: &str = "; of what came before, the last part (a window, up to some MB) was not replayed: \
    `zstd -dc FILE | tcptrace --replay -` has it";

impl<R: Read> Read for Compressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { reader, name, .. } = self;
        reader.read(buffer).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            ErrorKind::UnexpectedEof => io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("the {name} data is cut off here{}", self.after_cut),
            ),
            kind => io::Error::new(kind, format!("the {name} data is damaged: {error}")),
        })
    }
}

/// The frames of a zstd file, one after the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), is_in_frame: false }
    }

    /// Begins the next frame. Says whether there is one.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.source.by_ref().take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < length.into() {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(self.explain_error(&error)),
            }
        }
        Ok(false)
    }

    /// The decoder's error: where its source has ended, that is what it stumbled over.
    fn explain_error(&mut self, error: &FrameDecoderError) -> io::Error {
        match self.source.fill_buf() {
            Ok([]) => ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::new(ErrorKind::InvalidData, error.to_string()),
            Err(error) => error,
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            self.is_in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                if let Err(error) = self.decoder.decode_blocks(&mut self.source, one) {
                    return Err(self.explain_error(&error));
                }
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.is_in_frame = false;
            let expected = self.decoder.get_checksum_from_data();
            if expected.is_some() && expected != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(ErrorKind::InvalidData, "its checksum is wrong"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
