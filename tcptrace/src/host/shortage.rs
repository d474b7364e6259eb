//! What a walk can run out of: descriptors, threads, memory. It passes, so the walk is made again.

use std::{error::Error, fmt, io};

use rustix::io::Errno;

/// What this process or the host has run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This process has as many descriptors as it may have.
    OwnDescriptors,
    /// The host has as many open files as it may have.
    HostFiles,
    /// No further thread may be made.
    Threads,
    /// There is no memory.
    Memory,
}

impl Shortage {
    /// What an error says has run out, if that is what it says.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if let Some(shortage) = errno.map(Errno::from_raw_os_error).and_then(Self::of_errno) {
                return Some(shortage);
            }
            next = error.source();
        }
        None
    }

    const fn of_errno(errno: Errno) -> Option<Self> {
        match errno {
            Errno::MFILE => Some(Self::OwnDescriptors),
            Errno::NFILE => Some(Self::HostFiles),
            Errno::AGAIN => Some(Self::Threads),
            Errno::NOMEM | Errno::NOBUFS => Some(Self::Memory),
            _ => None,
        }
    }

    /// The errno that says so, by name.
    const fn errno(self) -> &'static str {
        match self {
            Self::OwnDescriptors => "EMFILE",
            Self::HostFiles => "ENFILE",
            Self::Threads => "EAGAIN",
            Self::Memory => "ENOMEM",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::OwnDescriptors => "this process has reached its limit of open files",
            Self::HostFiles => "the host has reached its limit of open files",
            Self::Threads => "this process, its user or its cgroup has reached its limit of threads",
            Self::Memory => "the host or the cgroup of this process is out of memory",
        }
    }

    /// What to do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::OwnDescriptors => {
                "raise the limit (`ulimit -n 1024`, `LimitNOFILE=` in a unit, `prlimit --nofile` of a process that \
                 runs)"
            }
            Self::HostFiles => "raise the sysctl fs.file-max, or find what holds so many files open",
            Self::Threads => "raise the limit (`TasksMax=` in a unit, pids.max of the cgroup, `ulimit -u`)",
            Self::Memory => {
                "free memory, or raise the limit (`MemoryMax=` in a unit, memory.max of the cgroup)"
            }
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what(), self.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::walk::WalkError;

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn what_has_run_out_is_found_under_the_error_of_a_walk() {
        assert_eq!(Shortage::of(&WalkError::Read(error(Errno::MFILE))), Some(Shortage::OwnDescriptors));
        assert_eq!(Shortage::of(&error(Errno::AGAIN)), Some(Shortage::Threads));
        assert_eq!(Shortage::of(&error(Errno::NFILE)), Some(Shortage::HostFiles));
        assert_eq!(Shortage::of(&error(Errno::NOMEM)), Some(Shortage::Memory));
        for other in [Errno::PERM, Errno::NOENT, Errno::INVAL] {
            assert_eq!(Shortage::of(&error(other)), None);
        }
        assert_eq!(Shortage::of(&io::Error::from(io::ErrorKind::OutOfMemory)), None, "no errno says so");
    }

    #[test]
    fn a_shortage_names_its_errno_and_a_remedy() {
        for (shortage, errno, remedy) in [
            (Shortage::OwnDescriptors, "EMFILE", "ulimit -n"),
            (Shortage::HostFiles, "ENFILE", "fs.file-max"),
            (Shortage::Threads, "EAGAIN", "pids.max"),
            (Shortage::Memory, "ENOMEM", "memory.max"),
        ] {
            assert!(shortage.to_string().ends_with(&format!("({errno})")), "{shortage}");
            assert!(shortage.remedy().contains(remedy), "{}", shortage.remedy());
        }
    }
}
