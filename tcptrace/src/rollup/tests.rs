//! Findings in, roll-ups out.

use super::*;

const MINUTE: u64 = 60 * SECOND;
const BEGAN: u64 = 1_000 * SECOND;
const THRESHOLD: u64 = 30 * SECOND;
const SERVER: ProcessId = ProcessId { pid: 4242, start_ticks: 7 };
const OTHER: ProcessId = ProcessId { pid: 4243, start_ticks: 9 };

/// A condition with so many descriptors open of so many.
const fn fds(open: u64, limit: u64) -> Condition {
    Condition {
        comm: *b"server\0\0\0\0\0\0\0\0\0\0",
        cpu_ns: 0,
        stopped: false,
        fds_open: Some(open),
        fds_limit: Some(limit),
    }
}

/// A stuck socket that these hold, and of which they are told.
fn hold(rollup: &mut Rollup, cookie: u64, since: Since, seen_ns: u64, holders: &[ProcessId]) {
    rollup.stuck(cookie, since, seen_ns, holders, true);
    holders.iter().for_each(|id| rollup.show(*id));
}

/// Sockets leaked by the server, each at the time it entered its state.
struct Leaks {
    rollup: Rollup,
    cookie: u64,
}

impl Leaks {
    fn new() -> Self {
        Self { rollup: Rollup::new(BEGAN, THRESHOLD), cookie: 0 }
    }

    fn before_the_start(&mut self, count: u64) {
        for _ in 0..count {
            self.cookie += 1;
            let since = Since::between(None, BEGAN - MINUTE);
            hold(&mut self.rollup, self.cookie, since, BEGAN, &[SERVER]);
        }
    }

    /// `count` that become stuck at once.
    fn stuck_at(&mut self, at_ns: u64, count: u64) {
        for _ in 0..count {
            self.cookie += 1;
            hold(&mut self.rollup, self.cookie, Since::exact(at_ns - THRESHOLD), at_ns, &[SERVER]);
        }
    }

    fn growth(&mut self, now_ns: u64) -> Option<f64> {
        self.rollup.roll(SERVER, Some(&fds(0, 0)), now_ns).expect("a known process").growth_per_min
    }
}

fn assert_about(growth: Option<f64>, expected: f64) {
    let growth = growth.expect("it has been watched for long enough");
    assert!((growth - expected).abs() <= expected.abs() * 0.1 + 0.001, "{growth} is not about {expected}");
}

#[test]
fn a_steady_leak_of_one_a_minute() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + THRESHOLD;
    for minute in 0..20 {
        leaks.stuck_at(begin + minute * MINUTE, 1);
        if minute >= 2 {
            let growth = leaks.growth(begin + minute * MINUTE + SECOND).expect("long enough");
            assert!((0.85..1.15).contains(&growth), "{growth} after {minute} minutes");
        }
    }
}

#[test]
fn fifty_at_once_each_minute_are_fifty_a_minute_from_the_second_time_on() {
    for old in [0, 1_000] {
        let mut leaks = Leaks::new();
        leaks.before_the_start(old);
        let begin = BEGAN + THRESHOLD + 20 * SECOND;
        for minute in 0..15 {
            leaks.stuck_at(begin + minute * MINUTE, 50);
            if minute > 1 {
                let growth = leaks.growth(begin + minute * MINUTE + 30 * SECOND).expect("long enough");
                assert!((38.0..=65.0).contains(&growth), "{growth} after {minute} minutes, {old} old ones");
            }
        }
        assert_about(leaks.growth(begin + 14 * MINUTE + 59 * SECOND), 50.0);
    }
}

#[test]
fn one_burst_on_top_of_a_steady_leak_changes_nothing() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + THRESHOLD;
    for minute in 0..10 {
        leaks.stuck_at(begin + minute * MINUTE + SECOND, 1);
        if minute == 4 {
            leaks.stuck_at(begin + minute * MINUTE + 2 * SECOND, 500);
        }
    }
    assert_about(leaks.growth(begin + 10 * MINUTE), 1.0);
}

#[test]
fn a_leak_of_one_in_five_minutes_is_no_outlier() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1);
    leaks.stuck_at(BEGAN + THRESHOLD + 2 * MINUTE, 1);
    leaks.stuck_at(BEGAN + THRESHOLD + 7 * MINUTE, 1);
    assert_about(leaks.growth(BEGAN + THRESHOLD + 10 * MINUTE), 0.2);
}

#[test]
fn a_process_that_closes_more_than_it_leaks_shrinks() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1_000);
    for second in 0..600 {
        leaks.rollup.cleared(second + 1, BEGAN + THRESHOLD + second * SECOND);
    }
    assert_about(leaks.growth(BEGAN + THRESHOLD + 10 * MINUTE), -60.0);
    let rolled = leaks.rollup.roll(SERVER, Some(&fds(400, 1024)), BEGAN + THRESHOLD + 10 * MINUTE);
    let rolled = rolled.expect("a known process");
    assert_eq!((rolled.stuck, rolled.fds_full_in_s), (400, None));
}

#[test]
fn ten_thousand_from_before_the_start_are_no_growth() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(10_000);
    assert_eq!(leaks.growth(BEGAN), None, "nothing is known yet");
    assert_eq!(leaks.growth(BEGAN + THRESHOLD + 10 * SECOND), Some(0.0));
    assert_eq!(leaks.growth(BEGAN + THRESHOLD + 20 * MINUTE), Some(0.0));
}

#[test]
fn a_few_seconds_say_nothing_and_a_few_more_do() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + THRESHOLD + MINUTE;
    for second in 0..11 {
        leaks.stuck_at(begin + second * SECOND, 2);
    }
    assert_eq!(leaks.growth(begin + 4 * SECOND), None);
    assert_about(leaks.growth(begin + 11 * SECOND), 120.0);
}

#[test]
fn a_leak_that_begins_after_days_of_quiet_is_seen_as_fast_as_it_is() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + 3 * 24 * 60 * MINUTE;
    for second in 0..=60 {
        leaks.stuck_at(begin + second * SECOND, 1);
    }
    assert_about(leaks.growth(begin + MINUTE), 60.0);
    // And one that has ended is no growth any more.
    assert_about(leaks.growth(begin + 30 * MINUTE), 0.0);
}

#[test]
fn when_descriptors_run_out_follows_from_growth_and_room() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1);
    for second in 0..600 {
        leaks.stuck_at(BEGAN + THRESHOLD + second * SECOND, 1);
    }
    let now = BEGAN + THRESHOLD + 10 * MINUTE;
    let mut full_in = |condition: Condition| {
        leaks.rollup.roll(SERVER, Some(&condition), now).expect("a known process").fds_full_in_s
    };
    assert_about(full_in(fds(424, 1024)), 600.0);
    assert_eq!(full_in(fds(1024, 1024)), Some(0.0));
    assert_eq!(full_in(fds(2000, 1024)), Some(0.0), "a limit may be lowered below what is open");
    assert_eq!(full_in(Condition { fds_limit: None, ..fds(424, 1024) }), None);
    assert_eq!(full_in(Condition { fds_open: None, ..fds(424, 1024) }), None);
}

#[test]
fn what_nobody_has_accepted_grows_and_takes_no_descriptors() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1);
    let begin = BEGAN + THRESHOLD;
    for second in 0..600 {
        let since = Since::exact(BEGAN + second * SECOND);
        leaks.rollup.stuck(10_000 + second, since, begin + second * SECOND, &[SERVER], false);
    }
    let now = begin + 10 * MINUTE;
    let rolled = leaks.rollup.roll(SERVER, Some(&fds(424, 1024)), now).expect("a known process");
    assert_eq!((rolled.stuck, rolled.fds_full_in_s), (601, None));
    assert_about(rolled.growth_per_min, 60.0);
    for second in 0..600 {
        leaks.rollup.cleared(10_000 + second, now + second * SECOND);
        leaks.stuck_at(now + second * SECOND, 1);
    }
    let rolled =
        leaks.rollup.roll(SERVER, Some(&fds(424, 1024)), now + 10 * MINUTE).expect("a known process");
    assert_about(rolled.growth_per_min, 0.0);
    assert_about(rolled.fds_full_in_s, 600.0);
}

#[test]
fn only_processes_that_are_wanted_are_told() {
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    rollup.stuck(1, Since::exact(BEGAN), seen, &[SERVER, OTHER], true);
    assert_eq!((rollup.next_due_ns(), rollup.all()), (None, vec![]));
    rollup.stuck(2, Since::exact(BEGAN), seen, &[OTHER], true);
    rollup.show(OTHER);
    assert_eq!((rollup.due(seen), rollup.all()), (vec![OTHER], vec![OTHER]));
    let rolled = rollup.roll(OTHER, Some(&fds(0, 0)), seen).expect("a known process");
    assert_eq!(rolled.stuck, 2, "also those that were not wanted");
}

#[test]
fn a_socket_counts_once_in_each_process_that_holds_it() {
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    let since = Since::exact(BEGAN);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, since, seen, &[SERVER, OTHER, SERVER]);
    hold(&mut rollup, 2, Since::exact(BEGAN + SECOND), seen + SECOND, &[SERVER]);
    let now = seen + MINUTE;
    let mut rolled = |id| {
        let rolled = rollup.roll(id, Some(&fds(0, 0)), now).expect("a known process");
        (rolled.stuck, rolled.oldest_ns)
    };
    assert_eq!(rolled(SERVER), (2, Some(THRESHOLD + MINUTE)));
    assert_eq!(rolled(OTHER), (1, Some(THRESHOLD + MINUTE)));
    // Found stuck again, the other process having closed it meanwhile.
    hold(&mut rollup, 1, since, now, &[SERVER]);
    rollup.cleared(2, now);
    rollup.cleared(3, now);
    let mut stuck = |id| rollup.roll(id, Some(&fds(0, 0)), now).expect("a known process").stuck;
    assert_eq!((stuck(SERVER), stuck(OTHER)), (1, 0));
}

#[test]
fn a_pid_used_again_starts_anew() {
    let again = ProcessId { start_ticks: 8, ..SERVER };
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER]);
    rollup.cleared(1, seen + SECOND);
    hold(&mut rollup, 2, Since::exact(BEGAN), seen + SECOND, &[again]);
    assert_eq!(rollup.all(), [SERVER, again]);
    let last = rollup.roll(SERVER, None, seen + SECOND).expect("a known process");
    assert_eq!((last.ended, last.stuck, last.oldest_ns), (true, 0, None));
    assert_eq!(rollup.all(), [again], "one that has ended is forgotten");
    assert_eq!(rollup.roll(SERVER, None, seen + SECOND), None);
    assert_eq!(rollup.roll(again, Some(&fds(0, 0)), seen + SECOND).map(|rolled| rolled.stuck), Some(1));
}

#[test]
fn a_process_is_due_at_once_and_then_at_most_once_in_ten_seconds() {
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    assert_eq!(rollup.next_due_ns(), None);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER]);
    assert_eq!(rollup.due(seen), [SERVER]);
    rollup.roll(SERVER, Some(&fds(0, 0)), seen);
    assert_eq!((rollup.next_due_ns(), rollup.due(u64::MAX)), (None, vec![]), "nothing new");

    hold(&mut rollup, 2, Since::exact(BEGAN), seen + SECOND, &[SERVER]);
    assert_eq!(rollup.next_due_ns(), Some(seen + BETWEEN_NS));
    assert_eq!(rollup.due(seen + BETWEEN_NS - 1), []);
    assert_eq!(rollup.due(seen + BETWEEN_NS), [SERVER]);
    rollup.roll(SERVER, Some(&fds(0, 0)), seen + BETWEEN_NS);
    // That there are fewer is told too.
    rollup.cleared(1, seen + 2 * BETWEEN_NS);
    assert_eq!(rollup.due(seen + 2 * BETWEEN_NS), [SERVER]);
}

#[test]
fn cpu_time_is_a_share_of_the_time_between_two_roll_ups() {
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    hold(&mut rollup, 1, Since::exact(BEGAN), BEGAN + THRESHOLD, &[SERVER]);
    let mut busy = |cpu_ns, at_ns| {
        let condition = Condition { cpu_ns, ..fds(0, 0) };
        rollup.roll(SERVER, Some(&condition), BEGAN + at_ns).expect("a known process").busy
    };
    assert_eq!(busy(5 * SECOND, 0), None);
    assert_eq!(busy(5 * SECOND + SECOND / 4, SECOND / 2), None, "too short a time");
    assert_eq!(busy(15 * SECOND, 10 * SECOND), Some(1.0));
    assert_eq!(busy(15 * SECOND, 20 * SECOND), Some(0.0));
}

#[test]
fn processes_that_have_ended_do_not_pile_up() {
    let mut rollup = Rollup::new(BEGAN, THRESHOLD);
    for pid in 1..10_000 {
        let id = ProcessId { pid, start_ticks: 1 };
        hold(&mut rollup, 1, Since::exact(BEGAN), BEGAN + THRESHOLD, &[id]);
        rollup.roll(id, Some(&fds(0, 0)), BEGAN + THRESHOLD);
        rollup.cleared(1, BEGAN + THRESHOLD);
        rollup.roll(id, Some(&fds(0, 0)), BEGAN + THRESHOLD);
        rollup.forget_ended(|id| id.pid > pid);
    }
    assert!(rollup.all().len() <= 64, "{}", rollup.all().len());
}
