//! The two clocks: CLOCK_MONOTONIC, on which the kernel stamps its records and all ages are counted, and the
//! wall clock, on which people read them.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Now, nanoseconds on `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` gives.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic)).try_into().unwrap_or(0)
}

/// The CPU time that the calling thread has taken so far, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime)).try_into().unwrap_or(0)
}

/// How long the host has slept since it booted, nanoseconds: by so much the clock on which processes' starts are counted
/// (`CLOCK_BOOTTIME`) is ahead of `CLOCK_MONOTONIC`.
pub fn slept_ns() -> u64 {
    let ahead =
        nanoseconds(clock_gettime(ClockId::Boottime)) - nanoseconds(clock_gettime(ClockId::Monotonic));
    ahead.try_into().unwrap_or(0)
}

/// Length of a jiffy, nanoseconds. The kernel tells it as the resolution of its coarse clocks, which advance
/// once a tick (clock_getres(2); `KTIME_LOW_RES`, `kernel/time/hrtimer.c`).
pub fn jiffy_ns() -> u64 {
    nanoseconds(clock_getres(ClockId::MonotonicCoarse)).try_into().unwrap_or(0)
}

/// The wall clock at instants of the monotonic one. It is looked at anew for each batch of records, so that a step of the wall
/// clock changes what is printed and nothing else.
///
/// While the host sleeps (suspend) the monotonic clock stands still, and no process can do anything: no age counts that
/// time. So an instant before a sleep is further from the wall clock's time now than from the monotonic clock's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// What to add to an instant after the last sleep.
    offset_ns: i128,
    /// How long the host had slept since it booted when this was last looked at.
    slept_ns: i128,
    /// When it was last looked at, on the monotonic clock.
    looked_ns: u64,
    /// What to take off an instant up to each of these, the last look before a sleep: the oldest first.
    sleeps: Vec<(u64, i128)>,
}

/// All clocks at one moment, nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    monotonic: i128,
    boottime: i128,
    wall: i128,
}

/// Two clocks are read one after the other: a shorter sleep than this is none, nanoseconds.
const SHORTEST_SLEEP: i128 = 100_000_000;

/// So many sleeps are remembered.
const MOST_SLEEPS: usize = 1_000;

impl WallClock {
    /// Reads the clocks for the first time.
    pub fn now() -> Self {
        let mut clock = Self::default();
        clock.look();
        clock
    }

    /// A wall clock that is `offset_ns` ahead of the monotonic one.
    pub const fn with_offset_ns(offset_ns: i128) -> Self {
        Self { offset_ns, slept_ns: 0, looked_ns: 0, sleeps: Vec::new() }
    }

    /// Reads the clocks again.
    pub fn look(&mut self) {
        let read = |clock| nanoseconds(clock_gettime(clock));
        self.look_at(Clocks {
            monotonic: read(ClockId::Monotonic),
            boottime: read(ClockId::Boottime),
            wall: read(ClockId::Realtime),
        });
    }

    fn look_at(&mut self, now: Clocks) {
        let slept = now.boottime - now.monotonic;
        let sleep = slept - self.slept_ns;
        if sleep >= SHORTEST_SLEEP {
            self.sleeps.iter_mut().for_each(|(_, before)| *before += sleep);
            self.sleeps.push((self.looked_ns, sleep));
            let forgotten = self.sleeps.len().saturating_sub(MOST_SLEEPS);
            self.sleeps.drain(..forgotten);
            self.slept_ns = slept;
        }
        self.offset_ns = now.wall - now.monotonic;
        self.looked_ns = now.monotonic.try_into().unwrap_or(0);
    }

    /// Nanoseconds since 1970 at an instant of the monotonic clock.
    pub fn at(&self, monotonic_ns: u64) -> i128 {
        let slept_since = self.sleeps.iter().find(|(until_ns, _)| monotonic_ns <= *until_ns);
        i128::from(monotonic_ns) + self.offset_ns - slept_since.map_or(0, |(_, slept)| *slept)
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;
    const YEAR_2026: i128 = 1_795_000_000 * SECOND;

    /// So many seconds after boot, having slept for so many of them; `stepped`: by how many the wall clock was put on.
    fn clocks(since_boot: i128, slept: i128, stepped: i128) -> Clocks {
        Clocks {
            monotonic: (since_boot - slept) * SECOND,
            boottime: since_boot * SECOND,
            wall: YEAR_2026 + (since_boot + stepped) * SECOND,
        }
    }

    /// Seconds after boot as the wall clock has it.
    fn seconds(clock: &WallClock, monotonic: u64) -> i128 {
        (clock.at(monotonic * SECOND as u64) - YEAR_2026) / SECOND
    }

    #[test]
    fn an_instant_before_a_sleep_keeps_its_time() {
        let mut clock = WallClock::default();
        clock.look_at(clocks(100, 0, 0));
        clock.look_at(clocks(3_800, 3_600, 0)); // an hour, somewhere after 100
        assert_eq!([90, 100, 101, 200].map(|at| seconds(&clock, at)), [90, 100, 3_701, 3_800]);
        clock.look_at(clocks(4_000, 3_600, 0));
        clock.look_at(clocks(4_070, 3_660, 0)); // a minute more
        assert_eq!([100, 101, 400, 410].map(|at| seconds(&clock, at)), [100, 3_701, 4_000, 4_070]);
    }

    #[test]
    fn sleeps_before_the_first_look_are_in_the_offset() {
        let mut clock = WallClock::default();
        clock.look_at(clocks(10_000, 9_000, 0));
        assert_eq!([900, 1_000].map(|at| seconds(&clock, at)), [9_900, 10_000]);
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_every_instant_and_is_no_sleep() {
        let mut clock = WallClock::default();
        clock.look_at(clocks(100, 0, 0));
        clock.look_at(clocks(110, 0, -3_600));
        assert_eq!([100, 110].map(|at| seconds(&clock, at)), [-3_500, -3_490]);
        let jitter = Clocks { boottime: 120 * SECOND + SECOND / 20, ..clocks(120, 0, 0) };
        clock.look_at(jitter);
        assert_eq!(clock.sleeps, []);
    }

    #[test]
    fn it_remembers_no_more_than_so_many_sleeps() {
        let mut clock = WallClock::default();
        for nth in 1..5_000 {
            clock.look_at(clocks(100 * nth, 10 * nth, 0));
        }
        assert_eq!(clock.sleeps.len(), MOST_SLEEPS);
        assert_eq!(seconds(&clock, 90 * 4_998), 100 * 4_998);
    }

    #[test]
    fn it_is_the_system_s_clock() {
        let before = std::time::SystemTime::now();
        let clock = WallClock::now();
        let now_ns = clock.at(monotonic_ns());
        let after = std::time::SystemTime::now();
        let ns = |time: std::time::SystemTime| {
            time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as i128
        };
        // Read one after the other, by a process that others may keep waiting in between.
        assert!((ns(before) - SECOND..=ns(after) + SECOND).contains(&now_ns));
    }
}
