//! Where the records go: stdout, or a file that is appended to and can be opened again.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{io::Errno, process::getuid};

use crate::host::privilege::as_the_user;

/// Where the records go.
#[derive(Debug)]
pub struct Target {
    pub(crate) file: File,
    /// Of a file that was named: to open it again.
    pub(crate) path: Option<PathBuf>,
}

/// stdout, or what else is open already.
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
    /// Opens a file to append to, with the rights of the user who runs this: file capabilities add nothing to them.
    ///
    /// # Errors
    /// He may not, it is no file, or nobody reads it (a FIFO).
    pub fn open(path: PathBuf) -> io::Result<Self> {
        // Root's rights are root's own.
        let file = if getuid().is_root() { open(&path) } else { as_the_user(|| open(&path)) }?;
        Ok(Self { file, path: Some(path) })
    }

    /// Whether a file is this one, and what is written to it would be read from it again.
    ///
    /// # Errors
    /// It cannot be asked for.
    pub fn is_also(&self, read: &File) -> io::Result<bool> {
        let [written, read] = [self.file.metadata()?, read.metadata()?];
        Ok(written.is_file() && (written.dev(), written.ino()) == (read.dev(), read.ino()))
    }

    /// Opens the file again: what was open may have another name by now. Says whether there is one to open.
    ///
    /// # Errors
    /// As with [`Self::open`]; then the file that was open stays open.
    pub(crate) fn open_again(&mut self) -> io::Result<bool> {
        // The thread that comes here has given up what is not the user's.
        let Some(path) = &self.path else { return Ok(false) };
        self.file = open(path)?;
        Ok(true)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Not to wait for the reader of a FIFO.
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let mut file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(
            ErrorKind::NotConnected,
            "nobody reads it: it is a FIFO or a socket; start its reader first",
        ),
        _ => error,
    })?;
    rustix::io::ioctl_fionbio(&file, false)?;
    if file.metadata()?.is_file() && is_cut(&file) {
        // Else the first record would be a part of the line before it.
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Whether the file, as far as it can be read, ends within a line: a run before this one was killed, or its disk full.
fn is_cut(file: &File) -> bool {
    let read = || {
        let mut file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok::<_, io::Error>(last != *b"\n")
    };
    // One that is empty has no last byte.
    read().unwrap_or(false)
}
