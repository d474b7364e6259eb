//! Writes cpio archives of the kind the kernel unpacks into its first file system ("newc": kernel documentation,
//! driver-api/early-userspace/buffer-format). Directories and files of root's; nothing else is needed.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

/// Type bits of a mode, as in stat(2).
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive in the making. Several, one after the other, are an archive too.
pub(crate) struct Archive<W> {
    to: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(crate) const fn new(to: W) -> Self {
        Self { to, inode: 0, directories: BTreeSet::new() }
    }

    /// Adds a directory, and those it is in; `path` begins without a slash.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let parent = &path[..at];
            if self.directories.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that may be run, and the directories it is in.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.directory(directory)?;
        }
        self.entry(path, FILE | 0o755, content)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other(format!("{path} is too large for a cpio archive"));
        let length = u32::try_from(content.len()).map_err(too_large)?;
        let name_length = u32::try_from(path.len() + 1).map_err(too_large)?;
        self.inode += 1;
        // inode, mode, uid, gid, links, mtime, size, device, device of a node, length of the name, check
        let fields = [self.inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.to.write_all(b"070701")?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(b"\0")?;
        self.pad(6 + 13 * 8 + path.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    /// Header with name, and content, each fill multiples of four bytes.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_padding_are_as_the_kernel_wants_them() -> io::Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", b"hello")?;
        let bytes = archive.finish()?;
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with(
            "07070100000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000\
             0000000200000000a\0"
        ));
        let file = &text[112..];
        assert!(file.starts_with("07070100000002000081ed"), "{file}");
        assert_eq!(&file[54..62], "00000005");
        assert_eq!(&file[110..124], "a/b\0\0\0hello\0\0\0");
        assert!(file[124..].contains("TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
        Ok(())
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() -> io::Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.file("usr/lib/x", b"")?;
        archive.directory("usr/lib")?;
        archive.file("usr/y", b"")?;
        let bytes = archive.finish()?;
        let names: Vec<_> =
            ["usr\0", "usr/lib\0", "usr/lib/x\0", "usr/y\0"].map(|name| find(&bytes, name)).into();
        assert!(names.iter().all(|found| found.len() == 1), "{names:?}");
        assert!(names.is_sorted());
        Ok(())
    }

    fn find(bytes: &[u8], name: &str) -> Vec<usize> {
        let at = |(at, window): (usize, &[u8])| (window == name.as_bytes()).then_some(at);
        bytes.windows(name.len()).enumerate().filter_map(at).collect()
    }
}
