//! Counts the transitions that no record shows: the ring was full, or the kernel skipped our program.
//!
//! The kernel does not run a program on a CPU on which that program is already running (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`). That happens where a packet, or from Linux 7 on another task, interrupts it and changes a
//! socket's state too. A second program takes over what the first one misses, and a third what the second one misses.
//!
//! The kernel counts what it skips of each program (`recursion_misses`), whatever the states were. What that proves
//! depends on what is watched:
//!
//! - Every state is watched: each miss of the first program is a transition of concern. It is either taken over, which
//!   the other programs count, or lost. The number of lost ones is exact.
//! - Only some are (`--stuck` alone): most misses of the first program concern nobody, and so do those of the last one,
//!   for another program has mostly seen what it missed. All that is known is a bound: a lost transition was missed
//!   by every program, so no more are lost than the last one missed. These are only *suspected*, and prove nothing by
//!   themselves: the session then compares all sockets with what it knows, and reports a loss if one of them differs. No
//!   loss goes unreported in this way. What such a run reports is which sockets are in a watched state, and which have
//!   left it. If a lost transition made a difference to that, the comparison finds it. If it finds none, the socket
//!   came into a watched state and left it again, both unseen, before it could have been reported.
//! - Without BTF there is one program only, and a second one that counts the watched transitions (`tally.rs`): exact.
//!
//! A program that is skipped wakes nobody. Where a loss can only be suspected, even the next record may be long in coming, so
//! the counters are read every few seconds as well.

use std::{
    fs::File,
    mem,
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
use tcptrace_common::names::maps;

use crate::host::{attach_error::AttachError, bpf::no_btf::miss_count::MissCount, map};

/// How long the kernel gets from skipping the first program to running the next one.
const TAKEOVER_NS: u64 = Duration::from_millis(1).as_nanos() as u64;

/// Suspected losses are looked into at most this often, for each takes a walk: a busy host that spreads its packets over
/// CPUs (RPS) skips a hundred programs a second, none of which matters.
const BETWEEN_LOOKS_NS: u64 = Duration::from_secs(1).as_nanos() as u64;

/// How often the counters are read where no record may follow a loss.
const POLL_NS: u64 = Duration::from_secs(5).as_nanos() as u64;

/// What was lost since the counters were last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewLosses {
    /// Transitions for which the ring had no room.
    pub ring_full: u64,
    /// Transitions that the kernel skipped every program for.
    pub skipped: u64,
    /// At most so many more were skipped. Whether one of them was of a watched state is not known.
    pub suspected: u64,
}

/// The counters.
pub(crate) struct LossCounter {
    lost: PerCpuArray<MapData, u64>,
    taken_over: PerCpuArray<MapData, u64>,
    /// Where the kernel shows what it skipped of each program, in their order on the tracepoint.
    skips: Vec<File>,
    skipped: Skipped,
    /// What counts the skips where the kernel does not.
    tally: Option<MissCount>,
    /// Of what the ring had no room for, how much has been returned.
    ring_full: u64,
    reader: Reader,
}

/// How many times the first program was skipped, less what was taken over, and how many times the last one was.
type Missed = [u64; 2];

/// How much was skipped and not taken over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skipped {
    /// How much of it before the last program came.
    settled: u64,
    /// The counts at that time.
    then: Missed,
}

impl Skipped {
    fn total(&self, now: Missed) -> u64 {
        let [first, last] = [0, 1].map(|which| now[which].saturating_sub(self.then[which]));
        self.settled + first.min(last)
    }

    /// One more program is the last: the counts with the one before, and with it.
    fn settle(&mut self, before: Missed, after: Missed) {
        *self = Self { settled: self.total(before), then: after };
    }
}

/// Decides when a growing count of skips is taken for lost, and when the counters are to be read next.
///
/// A skip may be taken over in the next moment, so a count stands only once it was read again later.
#[derive(Debug, Default)]
struct Reader {
    /// Whether skips are only suspected losses.
    suspects: bool,
    /// Nothing runs on the tracepoint any more: nothing can be taken over.
    is_closed: bool,
    /// How many have been returned.
    told: u64,
    /// A higher count, and when it was first read.
    pending: Option<(u64, u64)>,
    /// Suspected, and not returned yet.
    suspected: u64,
    /// No suspicion is returned before this.
    look_ns: u64,
    /// When the counters were last read.
    read_ns: u64,
}

impl Reader {
    /// Takes in how many skips are not taken over. Returns the losses, and the suspected ones.
    fn read(&mut self, total: u64, now_ns: u64) -> (u64, u64) {
        self.read_ns = now_ns;
        let newly = match self.pending {
            _ if self.is_closed => total,
            // Of what has come since then some may yet be taken over.
            Some((count, since_ns)) if now_ns >= since_ns + TAKEOVER_NS => {
                self.pending = None;
                total.min(count)
            }
            _ => self.told,
        };
        let newly = newly.saturating_sub(self.told);
        self.told += newly;
        if total <= self.told {
            self.pending = None;
        } else if self.pending.is_none() && !self.is_closed {
            self.pending = Some((total, now_ns));
        }
        if !self.suspects {
            return (newly, 0);
        }
        self.suspected += newly;
        if self.suspected == 0 || (now_ns < self.look_ns && !self.is_closed) {
            return (0, 0);
        }
        self.look_ns = now_ns + BETWEEN_LOOKS_NS;
        (0, mem::take(&mut self.suspected))
    }

    /// When to read next, if no record comes before.
    fn due_ns(&self, is_skipped: bool) -> Option<u64> {
        let settles = self.pending.map(|(_, since_ns)| since_ns + TAKEOVER_NS);
        let looks = (self.suspected > 0).then_some(self.look_ns);
        let polls = (self.suspects && is_skipped).then(|| self.read_ns + POLL_NS);
        if self.is_closed { None } else { [settles, looks, polls].into_iter().flatten().min() }
    }
}

impl LossCounter {
    /// The counters of the programs of these names, which are on the tracepoint in that order. `tally` is the name of the
    /// one behind them that counts what they miss, if one does; `watches_all` whether every state is watched.
    ///
    /// # Errors
    /// The BPF object has no such counters, or they could not be read.
    pub(crate) fn of(
        ebpf: &mut Ebpf,
        programs: &[&str],
        tally: Option<&str>,
        watches_all: bool,
    ) -> Result<Self, AttachError> {
        Ok(Self {
            lost: map(ebpf, maps::RING_FULL)?,
            taken_over: map(ebpf, maps::FALLBACK_COUNTS)?,
            skips: programs.iter().filter_map(|program| fdinfo(ebpf.program(program)?)).collect(),
            skipped: Skipped::default(),
            reader: Reader { suspects: tally.is_none() && !watches_all, ..Reader::default() },
            tally: tally.map(|program| MissCount::new(ebpf, program)).transpose()?,
            ring_full: 0,
        })
    }

    /// One more program is on the tracepoint, of this name.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn guarded_by(&mut self, ebpf: &Ebpf, program: &str, told_twice: u64) -> Result<(), MapError> {
        let before = self.missed(told_twice)?;
        self.skips.extend(ebpf.program(program).and_then(fdinfo));
        self.skipped.settle(before, self.missed(told_twice)?);
        Ok(())
    }

    /// Nothing runs on the tracepoint any more.
    pub(crate) const fn close(&mut self) {
        self.reader.is_closed = true;
    }

    /// How many since the last call; `told_twice` of what was taken over had not been skipped.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn take_new(&mut self, told_twice: u64, now_ns: u64) -> Result<NewLosses, MapError> {
        let ring_full = sum(&self.lost, 0)? + sum(&self.lost, 1)? + sum(&self.lost, 2)?;
        let total = match &self.tally {
            Some(tally) => tally.skipped()?,
            None => self.skipped.total(self.missed(told_twice)?),
        };
        let (skipped, suspected) = self.reader.read(total, now_ns);
        let newly_full = ring_full.saturating_sub(mem::replace(&mut self.ring_full, ring_full));
        Ok(NewLosses { ring_full: newly_full, skipped, suspected })
    }

    /// When to ask again, `CLOCK_MONOTONIC` nanoseconds, if nothing comes before.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.reader.due_ns(!self.skips.is_empty())
    }

    fn missed(&self, told_twice: u64) -> Result<Missed, MapError> {
        let skips = |program: Option<&File>| program.and_then(recursion_misses).unwrap_or(0);
        let taken_over = (sum(&self.taken_over, 0)? + sum(&self.taken_over, 1)?).saturating_sub(told_twice);
        Ok([skips(self.skips.first()).saturating_sub(taken_over), skips(self.skips.last())])
    }

    /// Whether the last program on the tracepoint needs one more behind it: it stands in for others and was needed, or it
    /// stands alone and was skipped.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn last_needs_a_guard(&self) -> Result<bool, MapError> {
        match self.skips.as_slice() {
            [only] => Ok(recursion_misses(only).unwrap_or(0) > 0),
            _ => Ok(sum(&self.taken_over, 0)? > 0),
        }
    }
}

pub(crate) fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

/// Whether the kernel counts what it skips of this program: only then does it skip any (from Linux 5.12 on).
pub(crate) fn is_skipped(program: &Program) -> bool {
    fdinfo(program).as_ref().and_then(recursion_misses).is_some()
}

pub(crate) fn fdinfo(program: &Program) -> Option<File> {
    let number = |fd: &ProgramFd| fd.as_fd().as_raw_fd();
    File::open(format!("/proc/self/fdinfo/{}", program.fd().ok().map(number)?)).ok()
}

pub(crate) fn recursion_misses(fdinfo: &File) -> Option<u64> {
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
    fn lost_is_no_more_than_the_last_program_missed() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.total([3, 3]), 3, "it stands alone");
        // What it has missed since then the second one saw, if it concerned anybody.
        skipped.settle([3, 3], [3, 0]);
        assert_eq!(skipped.total([3, 0]), 3);
        assert_eq!(skipped.total([103, 0]), 3);
        assert_eq!(skipped.total([103, 2]), 5);
        assert_eq!(skipped.total([4, 2]), 4, "all but one of them were taken over");
        skipped.settle([4, 2], [4, 0]);
        assert_eq!(skipped.total([50, 1]), 5);
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_skip_counts_as_lost_if_nothing_has_taken_it_over_a_millisecond_later() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(0, 0), (0, 0));
        assert_eq!(reader.due_ns(true), None);
        assert_eq!(reader.read(3, 10 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), Some(11 * MS));
        assert_eq!(reader.read(3, 11 * MS - 1), (0, 0), "too early");
        assert_eq!(reader.due_ns(true), Some(11 * MS), "another look before does not put it off");
        assert_eq!(reader.read(2, 11 * MS), (2, 0), "one was taken over");
        assert_eq!(reader.read(2, 20 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), None);
        // All are taken over.
        assert_eq!(reader.read(5, 30 * MS), (0, 0));
        assert_eq!(reader.read(2, 31 * MS), (0, 0));
        assert_eq!(reader.due_ns(true), None);
    }

    #[test]
    fn of_skips_that_go_on_only_those_count_that_have_had_their_time() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(3, 0), (0, 0));
        assert_eq!(reader.read(5, MS), (3, 0));
        assert_eq!(reader.due_ns(true), Some(2 * MS));
        assert_eq!(reader.read(9, 2 * MS), (2, 0));
        reader.is_closed = true;
        assert_eq!(reader.due_ns(true), None);
        assert_eq!(reader.read(9, 2 * MS), (4, 0), "nothing takes over any more");
        assert_eq!(reader.read(9, 3 * MS), (0, 0));
    }

    #[test]
    fn suspicions_are_gathered_and_looked_into_once_a_second_and_at_the_end() {
        let mut reader = Reader { suspects: true, ..Reader::default() };
        assert_eq!(reader.due_ns(true), Some(POLL_NS), "no record may come");
        assert_eq!(reader.due_ns(false), None, "this kernel skips nothing");
        reader.read(2, 100 * MS);
        assert_eq!(reader.read(2, 101 * MS), (0, 2), "the first at once");
        reader.read(4, 200 * MS);
        assert_eq!(reader.read(5, 201 * MS), (0, 0));
        reader.read(5, 300 * MS);
        assert_eq!(reader.due_ns(true), Some(1_101 * MS));
        assert_eq!(reader.read(5, 1_101 * MS), (0, 3));
        assert_eq!(reader.due_ns(true), Some(1_101 * MS + POLL_NS));
        reader.read(6, 1_200 * MS);
        reader.is_closed = true;
        assert_eq!(reader.read(6, 1_200 * MS), (0, 1));
    }

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let fdinfo = b"pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t17\nverified_insns:\t5\n";
        assert_eq!(count(fdinfo), Some(17));
        assert_eq!(count(b"pos:\t0\nprog_type:\t26\n"), None);
        assert_eq!(count(b"recursion_misses:\tmany\n"), None);
    }
}
