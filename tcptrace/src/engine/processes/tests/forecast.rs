//! Descriptors counted now and then as a process opens and closes them, forecasts out.

use super::*;

/// How many descriptors a process has open after so many seconds.
type Level<'l> = &'l dyn Fn(f64) -> f64;

/// What was said after so many seconds.
#[derive(Clone, Copy, Debug)]
struct Said {
    after: f64,
    growth: f64,
    full_in: Option<f64>,
}

/// A server that is watched from the start on, for so many seconds, and all that is said of it
/// meanwhile.
fn watch(level: Level<'_>, limit: u64, seconds: u64) -> Vec<Said> {
    let mut rollup = Processes::new(BEGAN, THRESHOLD);
    hold(&mut rollup, 1, Since::between(None, BEGAN - MINUTE), BEGAN, &[SERVER]);
    let begin = BEGAN / SAMPLING_STEP_NS * SAMPLING_STEP_NS;
    let mut said = Vec::new();
    while let Some(at_ns) = rollup.next_sample_ns() {
        // It is never quite on time.
        let at_ns = at_ns.max(begin) + said.len() as u64 * 37 % 13 * 1_000_000;
        let after = (at_ns - begin) as f64 / 1e9;
        if after > seconds as f64 {
            break;
        }
        let condition = fds((level(after) as u64).min(limit), limit);
        assert_eq!(rollup.due_samples(at_ns), [SERVER]);
        rollup.apply_sample(SERVER, Some(&condition), at_ns);
        let rolled = rollup.preview_roll_up(SERVER, &condition, at_ns).expect("a known process");
        said.push(Said {
            after,
            growth: rolled.fds_growth_per_min.unwrap_or(0.0),
            full_in: rolled.fds_full_in_s,
        });
    }
    said
}

/// When a level reaches a limit, seconds.
fn full_at(level: Level<'_>, limit: u64) -> f64 {
    (0..10_000_000)
        .map(|step| f64::from(step) / 100.0)
        .find(|after| level(*after) >= limit as f64)
        .expect("it does")
}

/// Numbers in 0..1 that look random, always the same ones.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Descriptors that are opened at random times, so many a second, and closed after that long on
/// average.
fn churn(seed: u64, per_second: f64, hold: f64, seconds: f64) -> impl Fn(f64) -> f64 {
    let mut next = noise(seed);
    let mut opened = -10.0 * hold;
    let mut held = Vec::new();
    while opened < seconds {
        opened += -(1.0 - next()).ln() / per_second;
        held.push((opened, opened - hold * (1.0 - next()).ln()));
    }
    move |after| held.iter().filter(|(from, to)| *from <= after && after < *to).count() as f64
}

#[test]
fn when_descriptors_run_out_is_right_to_ten_percent_or_five_seconds() {
    // How many are open after so many seconds, of how many, and from when on the forecast has to
    // be right.
    let patterns: [(&str, u64, f64, Level<'_>); 19] = [
        ("10 a second", 1024, 60.0, &|t| 8.0 + 10.0 * t),
        ("3 a second", 1024, 60.0, &|t| 8.0 + 3.0 * t),
        ("1 in two seconds", 256, 60.0, &|t| 8.0 + 0.5 * t),
        ("1 in ten seconds", 64, 60.0, &|t| 8.0 + 0.1 * t),
        ("5 once a minute", 64, 90.0, &|t| 8.0 + 5.0 * ((t + 33.0) / 60.0).floor()),
        ("50 each 30 seconds", 1024, 60.0, &|t| 8.0 + 50.0 * ((t + 3.0) / 30.0).floor()),
        ("20 each 20 seconds", 300, 60.0, &|t| 8.0 + 20.0 * ((t + 3.0) / 20.0).floor()),
        ("8 each 15 seconds", 256, 60.0, &|t| 8.0 + 8.0 * ((t + 3.0) / 15.0).floor()),
        ("100 each 12 seconds", 1024, 60.0, &|t| 8.0 + 100.0 * ((t + 3.0) / 12.0).floor()),
        ("7 each 7.3 seconds", 256, 60.0, &|t| 8.0 + 7.0 * ((t + 3.0) / 7.3).floor()),
        ("5 each 5 seconds", 256, 60.0, &|t| 8.0 + 5.0 * ((t + 3.0) / 5.0).floor()),
        ("a twentieth more each second", 1024, 60.0, &|t| 8.0 + t + t * t / 40.0),
        ("a tenth more each 10 seconds", 1024, 60.0, &|t| {
            let whole = (t / 10.0).floor();
            8.0 + 5.0 * whole * (whole + 1.0) + (whole + 1.0) * (t - 10.0 * whole)
        }),
        ("faster with the root of the time", 1024, 60.0, &|t| 8.0 + t.powf(1.5)),
        ("twice as fast each 20 seconds", 1024, 66.0, &|t| 8.0 + 5.0 * 2_f64.powf(t / 20.0)),
        // Too few in the first minute to see what they will be.
        ("twice as fast each 30 seconds", 1024, 120.0, &|t| 8.0 + 5.0 * 2_f64.powf(t / 30.0)),
        ("each 0.2 % sooner than the one before", 1000, 76.0, &|t| {
            8.0 + (1.0 - t * 0.002 / 0.3).max(1e-9).ln() / 0.998_f64.ln()
        }),
        ("from 40 seconds on", 1024, 82.0, &|t| 8.0 + 5.0 * (t - 40.0).max(0.0)),
        ("faster from 60 seconds on", 1024, 80.0, &|t| 8.0 + 2.0 * t + 4.0 * (t - 60.0).max(0.0)),
    ];
    for (pattern, limit, from, level) in patterns {
        let level = |after: f64| level(after).floor();
        let full = full_at(&level, limit);
        let said = watch(&level, limit, full as u64 + 5);
        for Said { after, full_in, .. } in said.iter().filter(|said| said.after >= from) {
            let left = (full - after).max(0.0);
            let right = |full_in: f64| (full_in - left).abs() <= (left * 0.1).max(5.0);
            assert!(full_in.is_some_and(right), "{pattern}, after {after}: {full_in:?} for {left}");
        }
        assert_eq!(said.last().and_then(|said| said.full_in), Some(0.0), "{pattern}: full");
    }
}

#[test]
fn what_ends_by_itself_does_not_run_full() {
    let churns = [churn(1, 10.0, 8.0, 900.0), churn(2, 1.0, 30.0, 900.0), churn(3, 50.0, 1.0, 900.0)];
    let mut random = noise(4);
    let jumps: Vec<f64> = (0..1000).map(|_| (random() * 60.0).floor()).collect();
    let patterns: [(&str, Level<'_>); 9] = [
        ("each is closed after 8 seconds", &|t| 8.0 + 10.0 * t.min(8.0)),
        ("each is closed after 20 seconds", &|t| 8.0 + 10.0 * t.min(20.0)),
        ("40 at once", &|t| if t < 20.0 { 8.0 } else { 48.0 }),
        ("100 in 20 seconds", &|t| 8.0 + 5.0 * (t - 5.0).clamp(0.0, 20.0)),
        ("each is closed some time", &churns[0]),
        ("each is closed after a longer time", &churns[1]),
        ("very many, shortly", &churns[2]),
        ("now so many, now so many", &|t| 8.0 + jumps[t as usize]),
        ("up and down", &|t| 100.0 + 50.0 * (t / 7.0).sin()),
    ];
    for (pattern, level) in patterns {
        for said in watch(level, 1024, 700) {
            assert_eq!(said.full_in, None, "{pattern}, {said:?}");
        }
    }
}

#[test]
fn a_leak_beside_other_descriptors_that_come_and_go_is_seen() {
    for seed in 1..=5 {
        let churn = churn(seed, 2.0, 10.0, 600.0);
        let level = |t: f64| 8.0 + churn(t) + (2.0 * t).floor();
        let full = full_at(&level, 1024);
        let said = watch(&level, 1024, full as u64);
        let late: Vec<_> = said.iter().filter(|said| said.after >= 90.0 && said.after < full - 5.0).collect();
        let right = |said: &&&Said| {
            let left = full - said.after;
            said.full_in.is_some_and(|full_in| (full_in - left).abs() < (left * 0.25).max(10.0))
        };
        let right = late.iter().filter(right).count();
        assert!(right * 20 >= late.len() * 19, "{right} of {} with seed {seed}", late.len());
    }
}

#[test]
fn growth_ends_within_a_minute_after_it_ended_and_does_not_come_back() {
    let patterns: [(&str, f64, Level<'_>); 4] = [
        ("10 a second", 90.0, &|t| 8.0 + (10.0 * t.min(90.0)).floor()),
        ("1 in ten seconds", 300.0, &|t| 8.0 + (0.1 * t.min(300.0)).floor()),
        ("faster and faster", 120.0, &|t| 8.0 + (t.min(120.0).powi(2) / 40.0).floor()),
        // A minute after the next one was due.
        ("5 once a minute", 300.0 + 60.0, &|t| 8.0 + 5.0 * (t.min(300.0) / 60.0).floor()),
    ];
    for (pattern, end, level) in patterns {
        let said = watch(level, 4096, 1500);
        let grows = |said: &Said| said.growth != 0.0 || said.full_in.is_some();
        assert!(said.iter().any(|said| said.after < end && grows(said)), "{pattern} is seen");
        let wrong: Vec<_> = said.iter().filter(|said| said.after > end + 60.0 && grows(said)).collect();
        assert!(wrong.is_empty(), "{pattern}: {wrong:?}");
    }
}

#[test]
fn one_that_opens_and_closes_at_its_limit_stays_full() {
    let (mut random, limit) = (noise(5), 1024);
    let freed: Vec<f64> = (0..1000).map(|_| (random() * 3.0).floor()).collect();
    let level = |t: f64| if t < 100.0 { 24.0 + 10.0 * t } else { 1024.0 - freed[t as usize] };
    let said = watch(&level, limit, 900);
    let full_since = said.iter().position(|said| said.full_in == Some(0.0)).expect("it is full");
    assert!(said[full_since..].iter().all(|said| said.full_in == Some(0.0)), "it stays full");
    // Room for some more is none of its.
    let freed = |t: f64| if t < 200.0 { level(t) } else { 900.0 };
    assert_eq!(watch(&freed, limit, 300).last().and_then(|said| said.full_in), None);
}
