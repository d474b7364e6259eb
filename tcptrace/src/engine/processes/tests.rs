//! Findings in, roll-ups out.

mod forecast;

use super::*;

const MINUTE: u64 = 60 * SECOND_NS;
const BEGAN: u64 = 1_000 * SECOND_NS;
const THRESHOLD: u64 = 30 * SECOND_NS;
const SERVER: ProcessId = ProcessId { pid: 4242, start_ticks: 7 };
const OTHER: ProcessId = ProcessId { pid: 4243, start_ticks: 9 };

/// A condition with so many descriptors open of so many.
const fn fds(open: u64, limit: u64) -> ProcessStats {
    ProcessStats {
        comm: *b"server\0\0\0\0\0\0\0\0\0\0",
        cpu_ns: 0,
        stopped: false,
        fds_open: Some(open),
        fds_limit: Some(limit),
    }
}

/// A stuck socket that these hold, and of which they are told.
fn hold(rollup: &mut Processes, cookie: u64, since: Since, seen_ns: u64, holders: &[ProcessId]) {
    rollup.add_stuck(cookie, since, seen_ns, holders);
    holders.iter().for_each(|id| rollup.mark_reported(*id));
}

/// Sockets leaked by the server, each at the time it entered its state.
struct Leaks {
    rollup: Processes,
    cookie: u64,
}

impl Leaks {
    fn new() -> Self {
        Self { rollup: Processes::new(BEGAN, THRESHOLD), cookie: 0 }
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
        self.rollup.roll_up(SERVER, Some(&fds(0, 0)), now_ns).expect("a known process").growth_per_min
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
            let growth = leaks.growth(begin + minute * MINUTE + SECOND_NS).expect("long enough");
            assert!((0.85..1.15).contains(&growth), "{growth} after {minute} minutes");
        }
    }
}

#[test]
fn fifty_at_once_each_minute_are_fifty_a_minute_from_the_second_time_on() {
    for old in [0, 1_000] {
        let mut leaks = Leaks::new();
        leaks.before_the_start(old);
        let begin = BEGAN + THRESHOLD + 20 * SECOND_NS;
        for minute in 0..15 {
            leaks.stuck_at(begin + minute * MINUTE, 50);
            if minute > 1 {
                let growth = leaks.growth(begin + minute * MINUTE + 30 * SECOND_NS).expect("long enough");
                assert!((38.0..=65.0).contains(&growth), "{growth} after {minute} minutes, {old} old ones");
            }
        }
        assert_about(leaks.growth(begin + 14 * MINUTE + 59 * SECOND_NS), 50.0);
    }
}

#[test]
fn one_burst_on_top_of_a_steady_leak_changes_nothing() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + THRESHOLD;
    for minute in 0..10 {
        leaks.stuck_at(begin + minute * MINUTE + SECOND_NS, 1);
        if minute == 4 {
            leaks.stuck_at(begin + minute * MINUTE + 2 * SECOND_NS, 500);
        }
    }
    assert_about(leaks.growth(begin + 10 * MINUTE), 1.0);
}

#[test]
fn a_leak_of_one_in_five_minutes_is_seen_from_the_third_time_on() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1);
    for time in 0..4 {
        leaks.stuck_at(BEGAN + THRESHOLD + (1 + 5 * time) * MINUTE, 1);
        let growth = leaks.growth(BEGAN + THRESHOLD + (5 + 5 * time) * MINUTE);
        assert_about(growth, if time >= 2 { 0.2 } else { 0.0 });
    }
}

#[test]
fn a_process_that_closes_more_than_it_leaks_shrinks() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(1_000);
    for second in 0..600 {
        leaks.rollup.clear_socket(second + 1, BEGAN + THRESHOLD + second * SECOND_NS);
    }
    assert_about(leaks.growth(BEGAN + THRESHOLD + 10 * MINUTE), -60.0);
    let rolled = leaks.rollup.roll_up(SERVER, Some(&fds(400, 1024)), BEGAN + THRESHOLD + 10 * MINUTE);
    let rolled = rolled.expect("a known process");
    assert_eq!((rolled.stuck, rolled.fds_full_in_s), (400, None));
}

#[test]
fn ten_thousand_from_before_the_start_are_no_growth() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(10_000);
    assert_eq!(leaks.growth(BEGAN), None, "nothing is known yet");
    assert_eq!(leaks.growth(BEGAN + THRESHOLD + 30 * SECOND_NS), Some(0.0));
    assert_eq!(leaks.growth(BEGAN + THRESHOLD + 20 * MINUTE), Some(0.0));
}

#[test]
fn a_few_seconds_say_nothing_and_a_few_more_do() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + THRESHOLD + MINUTE;
    for second in 0..31 {
        leaks.stuck_at(begin + second * SECOND_NS, 2);
    }
    assert_eq!(leaks.growth(begin + 29 * SECOND_NS), None);
    assert_about(leaks.growth(begin + 31 * SECOND_NS), 120.0);
}

/// What is said of a server's growth at each second up to `seconds` after its first socket got
/// stuck.
fn growths(leaks: &mut Leaks, begin: u64, seconds: u64) -> Vec<(u64, f64)> {
    let said = (0..seconds).map(|second| (second, leaks.growth(begin + second * SECOND_NS).unwrap_or(0.0)));
    said.filter(|(_, growth)| *growth != 0.0).collect()
}

#[test]
fn one_burst_or_a_server_that_warms_up_is_no_growth() {
    let begin = BEGAN + THRESHOLD + MINUTE;
    // 40 within two seconds.
    let mut leaks = Leaks::new();
    (0..40).for_each(|one| leaks.stuck_at(begin + one * SECOND_NS / 20, 1));
    assert_eq!(growths(&mut leaks, begin, 900), []);
    // 100 within 20 seconds.
    let mut leaks = Leaks::new();
    (0..100).for_each(|one| leaks.stuck_at(begin + one * SECOND_NS / 5, 1));
    assert_eq!(growths(&mut leaks, begin, 900), []);
    // Ten more each second, and each is closed eight seconds after it got stuck.
    let mut leaks = Leaks::new();
    for second in 0..60 {
        leaks.stuck_at(begin + second * SECOND_NS, 10);
        let closed = leaks.cookie.saturating_sub(80);
        (closed.saturating_sub(9)..=closed)
            .for_each(|cookie| leaks.rollup.clear_socket(cookie, begin + second * SECOND_NS));
        assert_eq!(leaks.growth(begin + second * SECOND_NS).unwrap_or(0.0), 0.0, "after {second}");
    }
}

#[test]
fn a_leak_that_begins_after_days_of_quiet_is_seen_as_fast_as_it_is() {
    let mut leaks = Leaks::new();
    let begin = BEGAN + 3 * 24 * 60 * MINUTE;
    for second in 0..=60 {
        leaks.stuck_at(begin + second * SECOND_NS, 1);
    }
    assert_about(leaks.growth(begin + MINUTE), 60.0);
    // And one that has ended is no growth any more.
    assert_eq!(leaks.growth(begin + 2 * MINUTE), Some(0.0));
    assert_eq!(leaks.growth(begin + 30 * MINUTE), Some(0.0));
}

#[test]
fn when_descriptors_run_out_follows_from_all_that_are_open_and_not_from_the_stuck_ones() {
    let mut leaks = Leaks::new();
    leaks.before_the_start(600);
    // Each second two descriptors more, while its stuck sockets clear.
    for second in 0..600 {
        let now = BEGAN + THRESHOLD + second * SECOND_NS;
        leaks.rollup.apply_sample(SERVER, Some(&fds(24 + 2 * second, 2000)), now);
        if second > 0 {
            leaks.rollup.clear_socket(second, now);
        }
    }
    let now = BEGAN + THRESHOLD + 600 * SECOND_NS;
    let look = |condition: ProcessStats| {
        leaks.rollup.preview_roll_up(SERVER, &condition, now).expect("a known process")
    };
    let full_in = |condition: ProcessStats| look(condition).fds_full_in_s;
    let now_open = look(fds(1224, 2000));
    assert_about(now_open.growth_per_min, -60.0);
    assert_about(now_open.fds_growth_per_min, 120.0);
    assert_about(now_open.fds_full_in_s, 388.0);
    assert_eq!(full_in(fds(2000, 2000)), Some(0.0));
    assert_eq!(full_in(fds(3000, 2000)), Some(0.0), "a limit may be lowered below what is open");
    assert_eq!(full_in(ProcessStats { fds_limit: None, ..fds(424, 2000) }), None);
    let unknown = look(ProcessStats { fds_open: None, ..fds(424, 2000) });
    assert_eq!((unknown.fds_full_in_s, unknown.fds_growth_per_min), (None, None));
}

#[test]
fn what_is_no_longer_so_is_told_without_another_socket() {
    let mut leaks = Leaks::new();
    let begin = (BEGAN + THRESHOLD + MINUTE).next_multiple_of(BETWEEN_NS);
    let mut told = Vec::new();
    // Two a second for two minutes, then none; and other descriptors up to the limit, and back.
    for second in 0..600 {
        let now = begin + second * SECOND_NS;
        if second < 120 {
            leaks.stuck_at(now, 2);
        }
        let open = match second {
            0..120 => 20 + 2 * second,
            120..300 => 260,
            300..400 => 260 + 10 * (second - 300),
            400..450 => 1260,
            _ => 260,
        };
        let condition = fds(open.min(1024), 1024);
        for id in leaks.rollup.due_samples(now) {
            leaks.rollup.apply_sample(id, Some(&condition), now);
        }
        for id in leaks.rollup.due_roll_ups(now) {
            let rolled = leaks.rollup.roll_up(id, Some(&condition), now).expect("a known process");
            told.push((second, rolled.growth_per_min.unwrap_or(0.0) > 0.0, rolled.fds_full_in_s));
        }
    }
    let between = |from: u64, to: u64| -> Vec<_> {
        told.iter().filter(|(second, ..)| (from..to).contains(second)).copied().collect()
    };
    assert!(between(60, 120).iter().all(|(_, grows, full_in)| *grows && full_in.is_some()), "{told:?}");
    // That it has ended: once the growth, once the forecast, or both at once.
    let ended = between(120, 300);
    assert!((1..=3).contains(&ended.len()) && ended[ended.len() - 1].0 <= 180, "{ended:?}");
    assert_eq!(ended.last().map(|(_, grows, full_in)| (*grows, *full_in)), Some((false, None)));
    // The other descriptors: that they will run out, that they have, and that this is over.
    assert!(between(300, 376).iter().any(|(_, _, full_in)| full_in.is_some_and(|seconds| seconds > 0.0)));
    let full = between(376, 390);
    assert_eq!(full.first().map(|(_, _, full_in)| *full_in), Some(Some(0.0)), "{told:?}");
    assert_eq!(between(390, 450), [], "nothing new");
    assert_eq!(between(450, 600).last().map(|(_, _, full_in)| *full_in), Some(None), "{told:?}");
}

#[test]
fn descriptors_are_counted_seldom_where_nothing_moves() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    assert_eq!(rollup.next_sample_ns(), None);
    rollup.add_stuck(1, Since::exact(BEGAN), BEGAN + THRESHOLD, &[SERVER]);
    assert_eq!(rollup.next_sample_ns(), None, "it is not wanted");
    rollup.mark_reported(SERVER);
    let count = |rollup: &mut Processes, from: u64, to: u64, open: &dyn Fn(u64) -> u64| {
        let mut count = 0;
        while let Some(now) = rollup.next_sample_ns().map(|due| due.max(from)).filter(|due| *due < to) {
            assert_eq!(rollup.due_samples(now), [SERVER]);
            rollup.apply_sample(SERVER, Some(&fds(open(now), 1024)), now);
            count += 1;
        }
        count
    };
    let begin = BEGAN + THRESHOLD;
    let busy = count(&mut rollup, begin, begin + MINUTE, &|now| now / SECOND_NS % 1000);
    let quiet = count(&mut rollup, begin, begin + 60 * MINUTE, &|_| 7);
    assert!((25..=31).contains(&busy) && (120..=240).contains(&quiet), "{busy}, {quiet}");
    // Another stuck socket, and it is looked at closely again.
    hold(&mut rollup, 2, Since::exact(BEGAN), begin + 60 * MINUTE, &[SERVER]);
    let again = count(&mut rollup, begin + 60 * MINUTE, begin + 61 * MINUTE, &|_| 7);
    assert!((25..=31).contains(&again), "{again}");
    rollup.rest_until(begin + 70 * MINUTE);
    assert_eq!(rollup.next_sample_ns(), Some(begin + 70 * MINUTE));
    assert_eq!(rollup.due_samples(begin + 69 * MINUTE), []);
    rollup.clear_socket(1, begin + 61 * MINUTE);
    rollup.clear_socket(2, begin + 61 * MINUTE);
    assert_eq!(rollup.next_sample_ns(), None, "it has none");
}

#[test]
fn a_process_that_ends_with_its_sockets_held_by_others_is_told() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER, OTHER]);
    for id in [SERVER, OTHER] {
        rollup.roll_up(id, Some(&fds(5, 10)), seen);
    }
    rollup.apply_sample(SERVER, None, seen + MINUTE);
    assert_eq!(rollup.due_roll_ups(seen + 2 * MINUTE), [SERVER]);
    assert!(rollup.roll_up(SERVER, None, seen + 2 * MINUTE).is_some_and(|rolled| rolled.ended));
    let other = rollup.roll_up(OTHER, Some(&fds(5, 10)), seen + 2 * MINUTE).expect("it lives");
    assert_eq!((other.stuck, other.shared), (1, 0), "nobody else holds it any more");
}

#[test]
fn a_socket_that_others_hold_as_well_is_shared() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER, OTHER]);
    hold(&mut rollup, 2, Since::exact(BEGAN), seen, &[SERVER, SERVER]);
    let shared = |rollup: &Processes, id| {
        let rolled = rollup.preview_roll_up(id, &fds(0, 0), seen).expect("a known process");
        (rolled.stuck, rolled.shared)
    };
    assert_eq!((shared(&rollup, SERVER), shared(&rollup, OTHER)), ((2, 1), (1, 1)));
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER]);
    assert_eq!((shared(&rollup, SERVER), shared(&rollup, OTHER)), ((2, 0), (0, 0)));
}

#[test]
fn only_processes_that_are_wanted_are_told() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    rollup.add_stuck(1, Since::exact(BEGAN), seen, &[SERVER, OTHER]);
    assert_eq!((rollup.next_due_ns(), rollup.all_reported()), (None, vec![]));
    rollup.add_stuck(2, Since::exact(BEGAN), seen, &[OTHER]);
    rollup.mark_reported(OTHER);
    assert_eq!((rollup.due_roll_ups(seen + SECOND_NS), rollup.all_reported()), (vec![OTHER], vec![OTHER]));
    let rolled = rollup.roll_up(OTHER, Some(&fds(0, 0)), seen).expect("a known process");
    assert_eq!(rolled.stuck, 2, "also those that were not wanted");
}

#[test]
fn a_socket_counts_once_in_each_process_that_holds_it() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    let since = Since::exact(BEGAN);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, since, seen, &[SERVER, OTHER, SERVER]);
    hold(&mut rollup, 2, Since::exact(BEGAN + SECOND_NS), seen + SECOND_NS, &[SERVER]);
    let now = seen + MINUTE;
    let mut rolled = |id| {
        let rolled = rollup.roll_up(id, Some(&fds(0, 0)), now).expect("a known process");
        (rolled.stuck, rolled.oldest_ns)
    };
    assert_eq!(rolled(SERVER), (2, Some(THRESHOLD + MINUTE)));
    assert_eq!(rolled(OTHER), (1, Some(THRESHOLD + MINUTE)));
    // Found stuck again, the other process having closed it meanwhile.
    hold(&mut rollup, 1, since, now, &[SERVER]);
    rollup.clear_socket(2, now);
    rollup.clear_socket(3, now);
    let mut stuck = |id| rollup.roll_up(id, Some(&fds(0, 0)), now).expect("a known process").stuck;
    assert_eq!((stuck(SERVER), stuck(OTHER)), (1, 0));
}

#[test]
fn a_pid_used_again_starts_anew() {
    let again = ProcessId { start_ticks: 8, ..SERVER };
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER]);
    rollup.clear_socket(1, seen + SECOND_NS);
    hold(&mut rollup, 2, Since::exact(BEGAN), seen + SECOND_NS, &[again]);
    assert_eq!(rollup.all_reported(), [SERVER, again]);
    let last = rollup.roll_up(SERVER, None, seen + SECOND_NS).expect("a known process");
    assert_eq!((last.ended, last.stuck, last.oldest_ns), (true, 0, None));
    assert_eq!(rollup.all_reported(), [again], "one that has ended is forgotten");
    assert_eq!(rollup.roll_up(SERVER, None, seen + SECOND_NS), None);
    assert_eq!(rollup.roll_up(again, Some(&fds(0, 0)), seen + SECOND_NS).map(|rolled| rolled.stuck), Some(1));
}

#[test]
fn a_process_is_due_when_a_batch_is_whole_and_then_at_most_once_in_ten_seconds() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    assert_eq!(rollup.next_due_ns(), None);
    let seen = BEGAN + THRESHOLD;
    hold(&mut rollup, 1, Since::exact(BEGAN), seen, &[SERVER]);
    assert_eq!((rollup.next_due_ns(), rollup.due_roll_ups(seen)), (Some(seen + SETTLED_NS), vec![]));
    // More come, and it waits, up to a second.
    for tenth in 1..=9 {
        hold(&mut rollup, 1 + tenth, Since::exact(BEGAN), seen + tenth * SECOND_NS / 10, &[SERVER]);
    }
    assert_eq!(rollup.next_due_ns(), Some(seen + SECOND_NS));
    let told = seen + SECOND_NS;
    assert_eq!(rollup.due_roll_ups(told), [SERVER]);
    assert_eq!(rollup.roll_up(SERVER, Some(&fds(0, 0)), told).map(|rolled| rolled.stuck), Some(10));
    assert_eq!((rollup.next_due_ns(), rollup.due_roll_ups(u64::MAX)), (None, vec![]), "nothing new");

    hold(&mut rollup, 11, Since::exact(BEGAN), told + SECOND_NS, &[SERVER]);
    assert_eq!(rollup.next_due_ns(), Some(told + BETWEEN_NS));
    assert_eq!(rollup.due_roll_ups(told + BETWEEN_NS - 1), []);
    assert_eq!(rollup.due_roll_ups(told + BETWEEN_NS), [SERVER]);
    rollup.roll_up(SERVER, Some(&fds(0, 0)), told + BETWEEN_NS);
    // That there are fewer is told too.
    rollup.clear_socket(1, told + 2 * BETWEEN_NS);
    assert_eq!(rollup.due_roll_ups(told + 2 * BETWEEN_NS + SECOND_NS), [SERVER]);
}

#[test]
fn cpu_time_is_a_share_of_the_time_between_two_roll_ups() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    hold(&mut rollup, 1, Since::exact(BEGAN), BEGAN + THRESHOLD, &[SERVER]);
    let mut busy = |cpu_ns, at_ns| {
        let condition = ProcessStats { cpu_ns, ..fds(0, 0) };
        rollup.roll_up(SERVER, Some(&condition), BEGAN + at_ns).expect("a known process").busy
    };
    assert_eq!(busy(5 * SECOND_NS, 0), None);
    assert_eq!(busy(5 * SECOND_NS + SECOND_NS / 4, SECOND_NS / 2), None, "too short a time");
    assert_eq!(busy(15 * SECOND_NS, 10 * SECOND_NS), Some(1.0));
    assert_eq!(busy(15 * SECOND_NS, 20 * SECOND_NS), Some(0.0));
}

#[test]
fn processes_that_have_ended_do_not_pile_up() {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    for pid in 1..10_000 {
        let id = ProcessId { pid, start_ticks: 1 };
        hold(&mut rollup, 1, Since::exact(BEGAN), BEGAN + THRESHOLD, &[id]);
        rollup.roll_up(id, Some(&fds(0, 0)), BEGAN + THRESHOLD);
        rollup.clear_socket(1, BEGAN + THRESHOLD);
        rollup.roll_up(id, Some(&fds(0, 0)), BEGAN + THRESHOLD);
        rollup.forget_ended(|id| id.pid > pid);
    }
    assert!(rollup.all_reported().len() <= 64, "{}", rollup.all_reported().len());
}
