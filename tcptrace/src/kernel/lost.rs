//! Counts the transitions that no record tells of: the ring was full, or the kernel did not run our program.
//!
//! A program on a tracepoint is not run again on a CPU on which it is running already (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`). That happens where a packet interrupts it, or from Linux 7 on another task, and
//! changes a socket's state too. A second program takes over what the first is kept from, and a third what the second
//! is; the kernel's count of what the first was kept from, less what was taken over, is lost.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
    programs::{Program, ProgramFd},
};

use super::{map, refusal::Refusal};

/// How long the kernel gets from skipping the first program to running the next.
const TAKEOVER: Duration = Duration::from_millis(1);

/// The counters.
pub(super) struct Losses {
    lost: PerCpuArray<MapData, u64>,
    taken_over: PerCpuArray<MapData, u64>,
    fdinfo: Option<File>,
    before: u64,
}

impl Losses {
    /// Those of the program of that name.
    ///
    /// # Errors
    /// The BPF object has no such counters.
    pub(super) fn of(ebpf: &mut Ebpf, program: &str) -> Result<Self, Refusal> {
        Ok(Self {
            lost: map(ebpf, "LOST")?,
            taken_over: map(ebpf, "TAKEN_OVER")?,
            fdinfo: ebpf.program(program).and_then(fdinfo),
            before: 0,
        })
    }

    /// How many since the last call; `told_twice` of what was taken over had not been skipped.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(super) fn newly(&mut self, told_twice: u64) -> Result<u64, MapError> {
        let mut total = self.total(told_twice)?;
        if total > self.before {
            // One may have been skipped this moment, and be taken over in the next.
            std::thread::sleep(TAKEOVER);
            total = self.total(told_twice)?;
        }
        Ok(total.saturating_sub(std::mem::replace(&mut self.before, total)))
    }

    fn total(&self, told_twice: u64) -> Result<u64, MapError> {
        let skipped = self.fdinfo.as_ref().and_then(recursion_misses).unwrap_or(0);
        let lost = sum(&self.lost, 0)? + sum(&self.lost, 1)? + sum(&self.lost, 2)?;
        let taken_over = (sum(&self.taken_over, 0)? + sum(&self.taken_over, 1)?).saturating_sub(told_twice);
        Ok(lost + skipped.saturating_sub(taken_over))
    }

    /// Whether the second program has taken anything over.
    ///
    /// # Errors
    /// The counter could not be read.
    pub(super) fn second_was_needed(&self) -> Result<bool, MapError> {
        Ok(sum(&self.taken_over, 0)? > 0)
    }
}

fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

/// Whether the kernel counts what it skips of this program: only then does it skip any (from Linux 5.12 on).
pub(super) fn is_skipped(program: &Program) -> bool {
    fdinfo(program).as_ref().and_then(recursion_misses).is_some()
}

fn fdinfo(program: &Program) -> Option<File> {
    let number = |fd: &ProgramFd| fd.as_fd().as_raw_fd();
    File::open(format!("/proc/self/fdinfo/{}", program.fd().ok().map(number)?)).ok()
}

fn recursion_misses(fdinfo: &File) -> Option<u64> {
    let mut text = [0; 1024];
    let length = fdinfo.read_at(&mut text, 0).ok()?;
    count(&text[..length])
}

/// The number in the line `recursion_misses:`.
fn count(fdinfo: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let fdinfo = b"pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t17\nverified_insns:\t5\n";
        assert_eq!(count(fdinfo), Some(17));
        assert_eq!(count(b"pos:\t0\nprog_type:\t26\n"), None);
        assert_eq!(count(b"recursion_misses:\tmany\n"), None);
    }
}
