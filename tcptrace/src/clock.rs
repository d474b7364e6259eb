//! The two clocks: CLOCK_MONOTONIC, on which the kernel stamps its records and all ages are counted, and the
//! wall clock, on which people read them.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Now, nanoseconds on `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` gives.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic)).try_into().unwrap_or(0)
}

/// An instant of `CLOCK_MONOTONIC` as nanoseconds since boot, on which processes' starts are counted: it goes on while the
/// host sleeps. One from before the last sleep is as much later as that was long.
pub fn since_boot_ns(monotonic_ns: u64) -> u64 {
    let ahead =
        nanoseconds(clock_gettime(ClockId::Boottime)) - nanoseconds(clock_gettime(ClockId::Monotonic));
    monotonic_ns.saturating_add(ahead.try_into().unwrap_or(0))
}

/// Length of a jiffy, nanoseconds. The kernel tells it as the resolution of its coarse clocks, which advance
/// once a tick (clock_getres(2); `KTIME_LOW_RES`, `kernel/time/hrtimer.c`).
pub fn jiffy_ns() -> u64 {
    nanoseconds(clock_getres(ClockId::MonotonicCoarse)).try_into().unwrap_or(0)
}

/// What to add to the monotonic clock to get the wall clock, at one moment: taken anew for each batch of
/// records, so that a step of the wall clock changes what is printed and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    offset_ns: i128,
}

impl WallClock {
    /// Reads both clocks.
    pub fn now() -> Self {
        let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
        let wall = nanoseconds(clock_gettime(ClockId::Realtime));
        Self { offset_ns: wall - monotonic }
    }

    /// A wall clock that is `offset_ns` ahead of the monotonic one.
    pub const fn with_offset_ns(offset_ns: i128) -> Self {
        Self { offset_ns }
    }

    /// Nanoseconds since 1970 at an instant of the monotonic clock.
    pub fn at(self, monotonic_ns: u64) -> i128 {
        i128::from(monotonic_ns) + self.offset_ns
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
