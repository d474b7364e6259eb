//! How many transitions the plain event's program was kept from, by counting those that happen: the way without BTF, since
//! kernels before Linux 6.7 do not tell. The other end is `tcptrace-ebpf/src/tally.rs`.
//!
//! The two counters are read one after the other while they change. A transition is counted as seen before it is counted
//! as having happened, so what has happened is read first: then the difference is never too large, and the largest one so
//! far has been skipped for sure. It is too small only while transitions are under way; their records have it read again.

use std::fs::File;

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
    bpf::loss::{fdinfo, recursion_misses, sum},
    map,
};

/// The counters, and what they were at the beginning.
pub(crate) struct MissCount {
    counters: PerCpuArray<MapData, u64>,
    /// Where the kernel tells what it kept the counting program from, which from Linux 6.2 on cannot interrupt itself: that
    /// happened too. Where not all states are watched it may be too much, by what the program would not have counted.
    uncounted: Option<File>,
    /// By how much more had happened than was seen: less than nothing, since the counting program came last.
    base: i64,
}

impl MissCount {
    /// From now on; both programs are on the tracepoint. `program` is the name of the one that counts.
    ///
    /// # Errors
    /// The BPF object has no such counters, or they could not be read.
    pub(crate) fn new(ebpf: &mut Ebpf, program: &str) -> Result<Self, AttachError> {
        let uncounted = ebpf.program(program).and_then(fdinfo);
        let mut tally = Self { counters: map(ebpf, maps::EVENT_COUNTS)?, uncounted, base: i64::MIN };
        // Until it grows no more: what is under way would look as if it had been skipped later. What has been skipped
        // by now is seen by the first walk.
        loop {
            let now = tally
                .ahead()
                .map_err(|error| AttachError::Setup(format!("cannot read how much was skipped: {error}")))?;
            if now <= tally.base {
                return Ok(tally);
            }
            tally.base = now;
        }
    }

    /// How many have been skipped, or a few less: the most that this has ever returned is right.
    ///
    /// # Errors
    /// The counters could not be read.
    pub(crate) fn skipped(&self) -> Result<u64, MapError> {
        Ok(u64::try_from(self.ahead()? - self.base).unwrap_or(0))
    }

    /// By how much more has happened than was seen.
    fn ahead(&self) -> Result<i64, MapError> {
        let uncounted = self.uncounted.as_ref().and_then(recursion_misses).unwrap_or(0);
        let happened = uncounted + sum(&self.counters, HAPPENED)?;
        let seen = sum(&self.counters, SEEN)?;
        Ok(happened.cast_signed() - seen.cast_signed())
    }
}
