//! Where records go: stdout, or a file that records are appended to and that can be reopened.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::io::Errno;

/// An open file that records go to.
#[derive(Debug)]
pub struct Target {
    pub(crate) file: File,
    /// The path of a file that was named, to reopen it.
    pub(crate) path: Option<PathBuf>,
}

/// stdout, or whatever else is open already.
impl From<File> for Target {
    fn from(file: File) -> Self {
        Self { file, path: None }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Target {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// The user may not open it, it is not a file, or it is a FIFO that nobody reads.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: open_to_append(&path)?, path: Some(path) })
    }

    /// Names the target for a message: `stdout`, or the file's path.
    pub(crate) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    }

    /// Whether a file that is read is this one, so that what is written would be read again.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    pub fn is_same_file(&self, read: &File) -> io::Result<bool> {
        let [written, read] = [self.file.metadata()?, read.metadata()?];
        Ok(written.is_file() && (written.dev(), written.ino()) == (read.dev(), read.ino()))
    }

    /// Reopens the file at its path: the one that is open may have been renamed. Returns whether
    /// there is a path.
    ///
    /// # Errors
    /// As for [`Self::open`]. The file that was open stays open then.
    pub(crate) fn reopen(&mut self) -> io::Result<bool> {
        let Some(path) = &self.path else { return Ok(false) };
        self.file = open_to_append(path)?;
        Ok(true)
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Non-blocking, so that the open does not wait for the reader of a FIFO.
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(
            ErrorKind::NotConnected,
            "nobody reads it: it is a FIFO or a socket; start its reader first",
        ),
        _ => error,
    })?;
    rustix::io::ioctl_fionbio(&file, false)?;
    if file.metadata()?.is_file() && ends_within_line(&file) {
        // Otherwise the first record would continue the line before it.
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Whether a file ends within a line: an earlier run was killed, or its disk was full. False if
/// the file cannot be read.
fn ends_within_line(file: &File) -> bool {
    let read = || {
        let mut file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok::<_, io::Error>(last != *b"\n")
    };
    // An empty file has no last byte.
    read().unwrap_or(false)
}
