//! Reads how often the kernel skipped a program (`recursion_misses`), and sums counters of all
//! CPUs.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
};

use aya::{
    maps::{MapData, MapError, PerCpuArray},
    programs::Program,
};

/// The count of one program.
#[derive(Debug)]
pub(crate) struct SkipCount {
    fdinfo: File,
}

impl SkipCount {
    /// Opens the count of a loaded program; `None` if the kernel shows nothing of it.
    pub(crate) fn open(program: &Program) -> Option<Self> {
        let number = program.fd().ok()?.as_fd().as_raw_fd();
        Some(Self { fdinfo: File::open(format!("/proc/self/fdinfo/{number}")).ok()? })
    }

    /// Reads the count; `None` if the kernel does not count.
    pub(crate) fn read(&self) -> Option<u64> {
        let mut text = [0; 1024];
        let length = self.fdinfo.read_at(&mut text, 0).ok()?;
        parse_misses(&text[..length])
    }
}

/// Whether the kernel counts what it skips of this program. Only then does it skip any (from Linux
/// 5.12 on).
pub(crate) fn is_counted(program: &Program) -> bool {
    SkipCount::open(program).is_some_and(|count| count.read().is_some())
}

/// Sums a counter over all CPUs.
///
/// # Errors
/// The map could not be read.
pub(crate) fn sum_cpus(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

/// Returns the number in the line `recursion_misses:`.
fn parse_misses(fdinfo: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let fdinfo = b"pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t17\nverified_insns:\t5\n";
        assert_eq!(parse_misses(fdinfo), Some(17));
        assert_eq!(parse_misses(b"pos:\t0\nprog_type:\t26\n"), None);
        assert_eq!(parse_misses(b"recursion_misses:\tmany\n"), None);
    }
}
