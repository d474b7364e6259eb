//! Counts the transitions that no record shows: the ring was full, or the kernel skipped our
//! program.
//!
//! The kernel does not run a program on a CPU on which that program is already running
//! (`__bpf_trace_run`, `kernel/trace/bpf_trace.c`). This happens when a packet, or from Linux 7 on
//! another task, interrupts the program and changes the state of a socket too. A fallback program
//! records what the first one misses, and a second fallback what that one misses.
//!
//! The kernel counts how often it skips each program (`recursion_misses`), whatever the states
//! were. What that proves depends on what is watched:
//!
//! - All states: each miss of the first program is a transition that should have been recorded. It
//!   is either recorded by a fallback, which counts it, or lost. The number of lost ones is exact.
//! - Some states (`--stuck` alone): most misses of the first program are of other states. So are
//!   those of the last one, because another program has mostly seen what it missed. All that is
//!   known is a bound: a lost transition was missed by every program, so no more are lost than the
//!   last one missed. These are only *suspected* and prove nothing by themselves. The run then
//!   compares all sockets with what it knows, and reports a loss if one of them differs. So no
//!   loss goes unreported: such a run reports which sockets are in a watched state and which have
//!   left it, and if a lost transition made a difference to that, the comparison finds it. If not,
//!   the socket entered a watched state and left it again, both unseen, before it could have been
//!   reported.
//! - Without BTF there is one program, and a second one that counts the watched transitions
//!   (`miss_count.rs`): the number is exact.
//!
//! A skipped program wakes nobody. If a loss can only be suspected, the next record may be long in
//! coming, so the counters are read every few seconds as well.

use std::mem;

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
};
use tcptrace_common::names::maps;

use crate::host::{
    attach_error::AttachError,
    bpf::{
        loss_reader::{LossReader, Missed, Skipped},
        no_btf::miss_count::MissCount,
        object::take_map,
        skip_count::{SkipCount, sum_cpus},
    },
};

/// The losses since the counters were last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewLosses {
    /// Transitions for which the ring had no room.
    pub ring_full: u64,
    /// Transitions for which the kernel skipped every program.
    pub skipped: u64,
    /// The number of further skips at most. Whether one of them was of a watched state is not
    /// known.
    pub suspected: u64,
}

/// The counters of lost transitions.
pub(crate) struct LossCounter {
    full: PerCpuArray<MapData, u64>,
    by_fallbacks: PerCpuArray<MapData, u64>,
    /// How often the kernel skipped each program, in their order on the tracepoint.
    skips: Vec<SkipCount>,
    skipped: Skipped,
    /// The count of a program of our own, on kernels that do not count.
    miss_count: Option<MissCount>,
    /// How much of `full` has been reported.
    ring_full: u64,
    reader: LossReader,
}

impl LossCounter {
    /// Starts to count. The programs `tracing` are on the tracepoint in that order. `counter` is
    /// the name of the program behind them that counts what they miss, if there is one.
    /// `watches_all`: whether every state is watched.
    ///
    /// # Errors
    /// The BPF object has no such counters, or they could not be read.
    pub(crate) fn new(
        ebpf: &mut Ebpf,
        tracing: &[&str],
        counter: Option<&str>,
        watches_all: bool,
    ) -> Result<Self, AttachError> {
        let only_suspects = counter.is_none() && !watches_all;
        Ok(Self {
            full: take_map(ebpf, maps::RING_FULL)?,
            by_fallbacks: take_map(ebpf, maps::FALLBACK_COUNTS)?,
            skips: tracing.iter().filter_map(|name| SkipCount::open(ebpf.program(name)?)).collect(),
            skipped: Skipped::default(),
            reader: LossReader::new(only_suspects),
            miss_count: counter.map(|program| MissCount::new(ebpf, program)).transpose()?,
            ring_full: 0,
        })
    }

    /// Adds a fallback program, which has just been attached.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn add_fallback(
        &mut self,
        ebpf: &Ebpf,
        program: &str,
        duplicates: u64,
    ) -> Result<(), MapError> {
        let before = self.read_missed(duplicates)?;
        self.skips.extend(ebpf.program(program).and_then(SkipCount::open));
        self.skipped.settle_attachment(before, self.read_missed(duplicates)?);
        Ok(())
    }

    /// Notes that all programs are detached.
    pub(crate) const fn close(&mut self) {
        self.reader.close();
    }

    /// Returns the losses since the last call. `duplicates`: how many transitions a fallback
    /// recorded although they were not skipped.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn take_new(&mut self, duplicates: u64, now_ns: u64) -> Result<NewLosses, MapError> {
        let ring_full = sum_cpus(&self.full, 0)? + sum_cpus(&self.full, 1)? + sum_cpus(&self.full, 2)?;
        let total = match &self.miss_count {
            Some(count) => count.read()?,
            None => self.skipped.total_lost(self.read_missed(duplicates)?),
        };
        let (skipped, suspected) = self.reader.count_new(total, now_ns);
        let new_full = ring_full.saturating_sub(mem::replace(&mut self.ring_full, ring_full));
        Ok(NewLosses { ring_full: new_full, skipped, suspected })
    }

    /// Returns when to call [`Self::take_new`] if no record comes before, `CLOCK_MONOTONIC`
    /// nanoseconds.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.reader.due_ns(!self.skips.is_empty())
    }

    /// Whether the last program on the tracepoint needs a fallback: it is a fallback that was
    /// needed, or the only program and was skipped.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn needs_fallback(&self) -> Result<bool, MapError> {
        match self.skips.as_slice() {
            [only] => Ok(only.read().unwrap_or(0) > 0),
            _ => Ok(sum_cpus(&self.by_fallbacks, 0)? > 0),
        }
    }

    fn read_missed(&self, duplicates: u64) -> Result<Missed, MapError> {
        let skips = |program: Option<&SkipCount>| program.and_then(SkipCount::read).unwrap_or(0);
        let by_fallbacks = sum_cpus(&self.by_fallbacks, 0)? + sum_cpus(&self.by_fallbacks, 1)?;
        let by_fallbacks = by_fallbacks.saturating_sub(duplicates);
        Ok([skips(self.skips.first()).saturating_sub(by_fallbacks), skips(self.skips.last())])
    }
}
