//! Counts the transitions that the program at the event missed, on kernels without BTF.
//!
//! Kernels before Linux 6.7 do not count what they skip of that program. So a second program
//! counts the transitions that happen (`tcptrace-ebpf/src/no_btf.rs`).
//!
//! The two counters are read one after the other while they change. The BPF side counts a
//! transition as seen before it counts it as happened. We read first what has happened, so the
//! difference is never too large, and the largest one so far was surely missed. It is too small
//! only while transitions are under way; their records cause another reading.

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
};
use tcptrace_common::{
    event_count::{HAPPENED, SEEN},
    names::maps,
};

use crate::host::{
    attach_error::AttachError,
    bpf::{
        object::take_map,
        skip_count::{SkipCount, sum_cpus},
    },
};

/// The counters, and what they were at the beginning.
pub(crate) struct MissCount {
    counters: PerCpuArray<MapData, u64>,
    /// What the kernel skipped of the counting program, if it counts that: it happened too. From
    /// Linux 6.2 on, that program cannot interrupt itself. If not all states are watched the sum
    /// may be too large, by transitions that the program would not have counted.
    skips: Option<SkipCount>,
    /// By how much more had happened than was seen at the beginning. It is negative, because the
    /// counting program was attached last.
    base: i64,
}

impl MissCount {
    /// Starts to count. Both programs are attached; `program` is the name of the one that counts.
    ///
    /// # Errors
    /// The BPF object has no such counters, or they could not be read.
    pub(crate) fn new(ebpf: &mut Ebpf, program: &str) -> Result<Self, AttachError> {
        let skips = ebpf.program(program).and_then(SkipCount::open);
        let mut count = Self { counters: take_map(ebpf, maps::EVENT_COUNTS)?, skips, base: i64::MIN };
        // Read until the difference grows no more: a transition that is under way now would later
        // look as if it had been missed. The first walk sees what was missed by now.
        loop {
            let now = count.read_difference().map_err(|error| {
                AttachError::Setup(format!("cannot read the counters of missed transitions: {error}"))
            })?;
            if now <= count.base {
                return Ok(count);
            }
            count.base = now;
        }
    }

    /// Returns how many transitions were missed, or a few less. The largest result so far is
    /// right.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn read(&self) -> Result<u64, MapError> {
        Ok(u64::try_from(self.read_difference()? - self.base).unwrap_or(0))
    }

    /// Returns by how much more has happened than was seen.
    fn read_difference(&self) -> Result<i64, MapError> {
        let skipped = self.skips.as_ref().and_then(SkipCount::read).unwrap_or(0);
        let happened = skipped + sum_cpus(&self.counters, HAPPENED)?;
        let seen = sum_cpus(&self.counters, SEEN)?;
        Ok(happened.cast_signed() - seen.cast_signed())
    }
}
