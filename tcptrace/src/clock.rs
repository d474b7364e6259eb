//! The clocks: `CLOCK_MONOTONIC`, by which the kernel stamps its records and all ages are counted,
//! and the wall clock, which people read.

use std::sync::OnceLock;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// A second in nanoseconds.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Reads `CLOCK_MONOTONIC`, nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    timespec_ns(clock_gettime(ClockId::Monotonic)).try_into().unwrap_or(0)
}

/// Reads the CPU time that the calling thread has used so far, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    timespec_ns(clock_gettime(ClockId::ThreadCPUTime)).try_into().unwrap_or(0)
}

/// Returns how long the host has been suspended since it booted, nanoseconds.
///
/// `CLOCK_BOOTTIME`, which stamps the start of processes, is ahead of `CLOCK_MONOTONIC` by this.
pub fn suspended_ns() -> u64 {
    let boottime = timespec_ns(clock_gettime(ClockId::Boottime));
    (boottime - timespec_ns(clock_gettime(ClockId::Monotonic))).try_into().unwrap_or(0)
}

/// Returns the length of a jiffy, nanoseconds.
///
/// It is the resolution of the kernel's coarse clocks, which advance once a tick
/// (`clock_getres(2)`; `KTIME_LOW_RES`, `kernel/time/hrtimer.c`).
pub fn jiffy_ns() -> u64 {
    // Read once: sock_diag needs it for every socket, and it takes a system call.
    static JIFFY_NS: OnceLock<u64> = OnceLock::new();
    *JIFFY_NS.get_or_init(|| timespec_ns(clock_getres(ClockId::MonotonicCoarse)).try_into().unwrap_or(0))
}

/// Converts instants of `CLOCK_MONOTONIC` to wall-clock time.
///
/// It is refreshed for each batch of records, so that a step of the wall clock changes what is
/// printed and nothing else.
///
/// `CLOCK_MONOTONIC` stands still while the host is suspended: no process runs, and no age counts
/// that time. An instant before a suspension is therefore further in the past by the wall clock
/// than by `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// Wall-clock time less `CLOCK_MONOTONIC` for instants after the last suspension.
    offset_ns: i128,
    /// How long the host had been suspended at the last refresh.
    suspended_ns: i128,
    /// When this was last refreshed, `CLOCK_MONOTONIC`.
    refreshed_ns: u64,
    /// For each suspension, oldest first: the last refresh before it, and what to subtract for an
    /// instant up to that refresh.
    suspensions: Vec<(u64, i128)>,
}

/// A reading of all clocks, nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    monotonic: i128,
    boottime: i128,
    wall: i128,
}

/// The shortest suspension that counts, nanoseconds. The clocks are read one after the other, so a
/// shorter difference may be noise.
const MIN_SUSPENSION_NS: i128 = 100_000_000;

/// How many suspensions are remembered.
const MAX_SUSPENSIONS: usize = 1_000;

impl WallClock {
    /// Reads the clocks for the first time.
    pub fn now() -> Self {
        let mut clock = Self::default();
        clock.refresh();
        clock
    }

    /// Makes a wall clock that is `offset_ns` ahead of `CLOCK_MONOTONIC`.
    pub const fn with_offset_ns(offset_ns: i128) -> Self {
        Self { offset_ns, suspended_ns: 0, refreshed_ns: 0, suspensions: Vec::new() }
    }

    /// Reads the clocks again.
    pub fn refresh(&mut self) {
        let read = |clock| timespec_ns(clock_gettime(clock));
        self.refresh_from(Clocks {
            monotonic: read(ClockId::Monotonic),
            boottime: read(ClockId::Boottime),
            wall: read(ClockId::Realtime),
        });
    }

    fn refresh_from(&mut self, now: Clocks) {
        let suspended_ns = now.boottime - now.monotonic;
        let suspension_ns = suspended_ns - self.suspended_ns;
        if suspension_ns >= MIN_SUSPENSION_NS {
            for (_, before) in &mut self.suspensions {
                *before += suspension_ns;
            }
            self.suspensions.push((self.refreshed_ns, suspension_ns));
            let forgotten = self.suspensions.len().saturating_sub(MAX_SUSPENSIONS);
            self.suspensions.drain(..forgotten);
            self.suspended_ns = suspended_ns;
        }
        self.offset_ns = now.wall - now.monotonic;
        self.refreshed_ns = now.monotonic.try_into().unwrap_or(0);
    }

    /// Converts an instant of `CLOCK_MONOTONIC` to nanoseconds since 1970.
    pub fn wall_ns_at(&self, monotonic_ns: u64) -> i128 {
        let since = self.suspensions.iter().find(|(until_ns, _)| monotonic_ns <= *until_ns);
        i128::from(monotonic_ns) + self.offset_ns - since.map_or(0, |(_, suspended_ns)| *suspended_ns)
    }
}

fn timespec_ns(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;
    const YEAR_2026: i128 = 1_795_000_000 * SECOND;

    /// The clocks `since_boot` seconds after boot, `suspended` of which the host was suspended.
    /// The wall clock was stepped by `stepped` seconds.
    fn clocks(since_boot: i128, suspended: i128, stepped: i128) -> Clocks {
        Clocks {
            monotonic: (since_boot - suspended) * SECOND,
            boottime: since_boot * SECOND,
            wall: YEAR_2026 + (since_boot + stepped) * SECOND,
        }
    }

    /// Converts seconds of `CLOCK_MONOTONIC` to seconds after boot by the wall clock.
    fn seconds(clock: &WallClock, monotonic: u64) -> i128 {
        (clock.wall_ns_at(monotonic * 1_000_000_000) - YEAR_2026) / SECOND
    }

    #[test]
    fn an_instant_before_a_suspension_keeps_its_time() {
        let mut clock = WallClock::default();
        clock.refresh_from(clocks(100, 0, 0));
        clock.refresh_from(clocks(3_800, 3_600, 0)); // an hour, somewhere after 100
        assert_eq!([90, 100, 101, 200].map(|at| seconds(&clock, at)), [90, 100, 3_701, 3_800]);
        clock.refresh_from(clocks(4_000, 3_600, 0));
        clock.refresh_from(clocks(4_070, 3_660, 0)); // a minute more
        assert_eq!([100, 101, 400, 410].map(|at| seconds(&clock, at)), [100, 3_701, 4_000, 4_070]);
    }

    #[test]
    fn suspensions_before_the_first_reading_are_in_the_offset() {
        let mut clock = WallClock::default();
        clock.refresh_from(clocks(10_000, 9_000, 0));
        assert_eq!([900, 1_000].map(|at| seconds(&clock, at)), [9_900, 10_000]);
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_every_instant_and_is_no_suspension() {
        let mut clock = WallClock::default();
        clock.refresh_from(clocks(100, 0, 0));
        clock.refresh_from(clocks(110, 0, -3_600));
        assert_eq!([100, 110].map(|at| seconds(&clock, at)), [-3_500, -3_490]);
        let jitter = Clocks { boottime: 120 * SECOND + SECOND / 20, ..clocks(120, 0, 0) };
        clock.refresh_from(jitter);
        assert_eq!(clock.suspensions, []);
    }

    #[test]
    fn the_number_of_remembered_suspensions_is_bounded() {
        let mut clock = WallClock::default();
        for nth in 1..5_000 {
            clock.refresh_from(clocks(100 * nth, 10 * nth, 0));
        }
        assert_eq!(clock.suspensions.len(), MAX_SUSPENSIONS);
        assert_eq!(seconds(&clock, 90 * 4_998), 100 * 4_998);
    }

    #[test]
    fn it_agrees_with_the_system_clock() {
        let before = std::time::SystemTime::now();
        let clock = WallClock::now();
        let now_ns = clock.wall_ns_at(monotonic_ns());
        let after = std::time::SystemTime::now();
        let ns = |time: std::time::SystemTime| {
            let since_1970 = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            i128::try_from(since_1970.as_nanos()).expect("centuries fit")
        };
        // Each reading may have to wait for a CPU, hence a second of tolerance.
        assert!((ns(before) - SECOND..=ns(after) + SECOND).contains(&now_ns));
    }
}
