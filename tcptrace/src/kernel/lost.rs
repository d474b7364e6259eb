//! Counts the transitions that no record tells of: the ring was full, or the kernel did not run our program.
//!
//! A program on a tracepoint is not run again on a CPU on which it is running already (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`). That happens where a packet interrupts it, or from Linux 7 on another task, and
//! changes a socket's state too. A second program takes over what the first is kept from, and a third what the second
//! is. Lost is what the first was kept from, less what was taken over: at most as much as the last one was kept from,
//! for that is the smaller number where most of what the first was kept from concerns nobody. Without BTF there is one
//! program only, and another that counts (`tally.rs`).

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

use super::{map, refusal::Refusal, tally::Tally};

/// How long the kernel gets from skipping the first program to running the next.
const TAKEOVER: Duration = Duration::from_millis(1);

/// The counters.
pub(super) struct Losses {
    lost: PerCpuArray<MapData, u64>,
    taken_over: PerCpuArray<MapData, u64>,
    /// Where the kernel tells what it kept each program from, in their order on the tracepoint.
    skips: Vec<File>,
    skipped: Skipped,
    /// What counts the skips where the kernel is not asked.
    tally: Option<Tally>,
    before: u64,
}

/// What the first program was kept from, less what was taken over, and what the last one was kept from.
type Kept = [u64; 2];

/// How much was skipped and not taken over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skipped {
    /// How much of it before the last program came.
    settled: u64,
    /// The counts at that time.
    then: Kept,
}

impl Skipped {
    fn total(&self, now: Kept) -> u64 {
        let [first, last] = [0, 1].map(|which| now[which].saturating_sub(self.then[which]));
        self.settled + first.min(last)
    }

    /// One more program is the last: the counts with the one before, and with it.
    fn settle(&mut self, before: Kept, after: Kept) {
        *self = Self { settled: self.total(before), then: after };
    }
}

impl Losses {
    /// Those of the programs of these names: what is on the tracepoint, in that order. `tally`: the name of the one behind
    /// them that counts what they are kept from, if one does.
    ///
    /// # Errors
    /// The BPF object has no such counters, or they could not be read.
    pub(super) fn of(ebpf: &mut Ebpf, programs: &[&str], tally: Option<&str>) -> Result<Self, Refusal> {
        Ok(Self {
            lost: map(ebpf, "LOST")?,
            taken_over: map(ebpf, "TAKEN_OVER")?,
            skips: programs.iter().filter_map(|program| fdinfo(ebpf.program(program)?)).collect(),
            skipped: Skipped::default(),
            tally: tally.map(|program| Tally::new(ebpf, program)).transpose()?,
            before: 0,
        })
    }

    /// One more program is on the tracepoint, of this name.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(super) fn guarded_by(&mut self, ebpf: &Ebpf, program: &str, told_twice: u64) -> Result<(), MapError> {
        let before = self.kept(told_twice)?;
        self.skips.extend(ebpf.program(program).and_then(fdinfo));
        self.skipped.settle(before, self.kept(told_twice)?);
        Ok(())
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
        let newly = total.saturating_sub(self.before);
        self.before = self.before.max(total);
        Ok(newly)
    }

    fn total(&self, told_twice: u64) -> Result<u64, MapError> {
        let full = sum(&self.lost, 0)? + sum(&self.lost, 1)? + sum(&self.lost, 2)?;
        let skipped = match &self.tally {
            Some(tally) => tally.skipped()?,
            None => self.skipped.total(self.kept(told_twice)?),
        };
        Ok(full + skipped)
    }

    fn kept(&self, told_twice: u64) -> Result<Kept, MapError> {
        let skips = |program: Option<&File>| program.and_then(recursion_misses).unwrap_or(0);
        let taken_over = (sum(&self.taken_over, 0)? + sum(&self.taken_over, 1)?).saturating_sub(told_twice);
        Ok([skips(self.skips.first()).saturating_sub(taken_over), skips(self.skips.last())])
    }

    /// Whether the last program on the tracepoint needs one more behind it: it stands in for others and was needed, or it
    /// stands alone and was kept from something.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(super) fn last_needs_a_guard(&self) -> Result<bool, MapError> {
        match self.skips.as_slice() {
            [only] => Ok(recursion_misses(only).unwrap_or(0) > 0),
            _ => Ok(sum(&self.taken_over, 0)? > 0),
        }
    }
}

pub(super) fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

/// Whether the kernel counts what it skips of this program: only then does it skip any (from Linux 5.12 on).
pub(super) fn is_skipped(program: &Program) -> bool {
    fdinfo(program).as_ref().and_then(recursion_misses).is_some()
}

pub(super) fn fdinfo(program: &Program) -> Option<File> {
    let number = |fd: &ProgramFd| fd.as_fd().as_raw_fd();
    File::open(format!("/proc/self/fdinfo/{}", program.fd().ok().map(number)?)).ok()
}

pub(super) fn recursion_misses(fdinfo: &File) -> Option<u64> {
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
    fn lost_is_no_more_than_the_last_program_was_kept_from() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.total([3, 3]), 3, "it stands alone");
        // What it was kept from since was seen by the second, if it concerned anybody.
        skipped.settle([3, 3], [3, 0]);
        assert_eq!(skipped.total([3, 0]), 3);
        assert_eq!(skipped.total([103, 0]), 3);
        assert_eq!(skipped.total([103, 2]), 5);
        assert_eq!(skipped.total([4, 2]), 4, "all but one of them were taken over");
        skipped.settle([4, 2], [4, 0]);
        assert_eq!(skipped.total([50, 1]), 5);
    }

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let fdinfo = b"pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t17\nverified_insns:\t5\n";
        assert_eq!(count(fdinfo), Some(17));
        assert_eq!(count(b"pos:\t0\nprog_type:\t26\n"), None);
        assert_eq!(count(b"recursion_misses:\tmany\n"), None);
    }
}
