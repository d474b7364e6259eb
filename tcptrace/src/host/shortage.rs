//! Shortages: a walk can run out of descriptors, threads or memory. They pass, so it is retried.

use std::{error::Error, fmt, io};

use rustix::io::Errno;

/// A resource that this process or the host has run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This process has reached its limit of descriptors.
    OwnDescriptors,
    /// The host has reached its limit of open files.
    HostFiles,
    /// This process, its user or its cgroup has reached its limit of threads.
    Threads,
    /// The host or the cgroup has no memory left.
    Memory,
}

impl Shortage {
    /// Returns what has run out if an error, or one of its causes, says so.
    pub fn find_in(error: &(dyn Error + 'static)) -> Option<Self> {
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

    /// Returns the name of the errno.
    const fn errno_name(self) -> &'static str {
        match self {
            Self::OwnDescriptors => "EMFILE",
            Self::HostFiles => "ENFILE",
            Self::Threads => "EAGAIN",
            Self::Memory => "ENOMEM",
        }
    }

    /// Describes the limit that was reached.
    const fn description(self) -> &'static str {
        match self {
            Self::OwnDescriptors => "this process has reached its limit of open files",
            Self::HostFiles => "the host has reached its limit of open files",
            Self::Threads => "this process, its user or its cgroup has reached its limit of threads",
            Self::Memory => "the host or the cgroup of this process is out of memory",
        }
    }

    /// Says what to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::OwnDescriptors => {
                "raise the limit (`ulimit -n 1024`, `LimitNOFILE=` in a unit, `prlimit --nofile` for a running \
                 process)"
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
        write!(f, "{} ({})", self.description(), self.errno_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::walk::error::WalkError;

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn a_shortage_is_found_among_the_causes_of_an_error() {
        assert_eq!(Shortage::find_in(&WalkError::Read(error(Errno::MFILE))), Some(Shortage::OwnDescriptors));
        assert_eq!(Shortage::find_in(&error(Errno::AGAIN)), Some(Shortage::Threads));
        assert_eq!(Shortage::find_in(&error(Errno::NFILE)), Some(Shortage::HostFiles));
        assert_eq!(Shortage::find_in(&error(Errno::NOMEM)), Some(Shortage::Memory));
        for other in [Errno::PERM, Errno::NOENT, Errno::INVAL] {
            assert_eq!(Shortage::find_in(&error(other)), None);
        }
        assert_eq!(Shortage::find_in(&io::Error::from(io::ErrorKind::OutOfMemory)), None, "no errno says so");
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
