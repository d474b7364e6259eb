//! Estimates how a level grows now, and when it reaches a limit, from how it moved in the last
//! twenty minutes.
//!
//! Growth is what goes on: it has to show in most parts of the time that is looked at, and it must
//! not have paused for longer than it did before. A single burst, or a server that warms up, is no
//! growth. Bursts that come back at regular intervals are, and count with their period.

/// A level over time: (seconds before now, so at most 0; level), in order, joined by straight
/// lines, up to now.
pub(crate) type Series = [(f64, f64)];

/// Nothing is said about a shorter time, seconds.
const SHORTEST: f64 = 30.0;

/// Lengths of the parts that the time is divided into, seconds. A slow leak shows in long ones
/// only.
const PARTS: [f64; 4] = [10.0, 20.0, 40.0, 100.0];

/// How many parts are looked at, the latest ones.
const COUNT: usize = 6;

/// A pause of this length never ends a growth, seconds: a few samples may be missing.
const PAUSE: f64 = 15.0;

/// How much longer than the longest one before a pause has to be to end a growth.
const LONGER: f64 = 1.5;

/// How much of the level's variance a growth has to explain. A single step explains at most 0.75.
const EXPLAINED: f64 = 0.8;

/// A rise counts if it is so many times as high as one by chance, of a level that rises as it
/// falls.
const SIGNIFICANT_RISE: f64 = 3.0;

/// A growth goes beyond the highest level of so many times its own time, itself included. What
/// went up and down before only goes up again.
const BEFORE: f64 = 3.0;

/// In how many steps the time is divided to see whether a growth gets faster.
const STEPS: usize = 12;

/// A change of the rate counts from this many standard errors on.
const SIGNIFICANT: f64 = 4.0;

/// Bursts closer than this are a steady growth, seconds.
const SHORTEST_PERIOD: f64 = 6.0;

/// Rises with a shorter time between them are one burst, seconds.
const WITHIN_BURST: f64 = 1.5;

/// Two bursts alone show a period only if it is no longer than this, seconds.
const LONGEST_OF_TWO: f64 = 120.0;

/// Two bursts alone show a period only if each is no smaller than this.
const LEAST_OF_TWO: f64 = 3.0;

/// How much of the differences between rises a change of the rate has to explain. A curve explains
/// at most 0.75 of a step.
const EXPLAINED_BY_CHANGE: f64 = 0.85;

/// A rate has stepped up or down if it has been the same for at least so many steps since.
const LEAST_AFTER_STEP: usize = 4;

/// The powers of the rate that can change steadily.
const POWERS: [f64; 5] = [1.0, 0.5, 0.0, -0.5, -1.0];

/// The variance that a rise has because levels are whole numbers.
const WHOLE_NUMBERS: f64 = 0.17;

/// How a level grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// Growth now, per second; below 0 if it shrinks.
    pub(crate) per_second: f64,
    course: GrowthCourse,
}

/// How a growth goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum GrowthCourse {
    /// Like this. Now and then the level is so much higher than it is now.
    Straight { above: f64 },
    /// Faster or slower all the time: the rate to this power ([`raise_rate`]) changes by so much
    /// each second. With 1 the rate changes as much each second, with 0 by the same factor, with -1
    /// the interval between two rises as much.
    Curved { power: f64, change: f64 },
    /// In bursts: the last one so many seconds ago.
    Bursts { since_last: f64, period: f64, size: f64 },
}

impl Trend {
    const FLAT: Self = Self { per_second: 0.0, course: GrowthCourse::Straight { above: 0.0 } };

    /// The trend of a level. `None` if it has been watched for too short a time.
    pub(crate) fn fit_series(series: &Series) -> Option<Self> {
        let watched = -series.first()?.0;
        if watched < SHORTEST {
            return None;
        }
        if let Some(growth) = find_growth(series, watched) {
            return Some(growth);
        }
        let mirrored: Vec<_> = series.iter().map(|(at, level)| (*at, -level)).collect();
        let shrinks = find_growth(&mirrored, watched);
        Some(shrinks.map_or(Self::FLAT, |growth| Self { per_second: -growth.per_second, ..Self::FLAT }))
    }

    /// The rate so many seconds from now.
    fn rate_in(&self, at: f64) -> f64 {
        match self.course {
            GrowthCourse::Curved { power, change } => {
                lower_rate(raise_rate(self.per_second, power) + change * at, power)
            }
            _ => self.per_second,
        }
    }

    /// In how many seconds the level is higher by `free`. `None` if it never is.
    #[expect(clippy::float_cmp, reason = "a constant, not a result")]
    pub(crate) fn seconds_until(&self, free: f64) -> Option<f64> {
        let speed = self.per_second;
        if speed <= 0.0 {
            return None;
        }
        match self.course {
            GrowthCourse::Straight { above } => Some((free - above).max(0.0) / speed),
            GrowthCourse::Curved { power, change } => {
                // The integral of the rate is `free`. A growth that gets slower may never get
                // there.
                let now = raise_rate(speed, power);
                let then = if power == 0.0 {
                    (speed + change * free).ln()
                } else if power == -1.0 {
                    now * (change * free).exp()
                } else {
                    let more = change * free * (1.0 + power) / power;
                    (speed.powf(1.0 + power) + more).powf(power / (1.0 + power))
                };
                Some((then - now) / change).filter(|seconds| seconds.is_finite())
            }
            GrowthCourse::Bursts { since_last, period, size } => {
                let bursts = (free / size).ceil().max(1.0);
                Some((bursts * period - since_last).max(0.0))
            }
        }
    }
}

/// How the level grows; `None` if it does not.
fn find_growth(series: &Series, watched: f64) -> Option<Trend> {
    find_bursts(series)
        .or_else(|| PARTS.into_iter().find_map(|length| find_sustained(series, watched, length)))
}

/// A growth in bursts of about the same size at about the same intervals, if the next one is not
/// overdue.
#[expect(clippy::float_cmp, reason = "a count")]
fn find_bursts(series: &Series) -> Option<Trend> {
    struct Burst {
        from: f64,
        to: f64,
        size: f64,
    }
    let (mut found, mut fallen): (Vec<Burst>, f64) = (Vec::new(), 0.0);
    for step in series.windows(2) {
        let [(from, before), (to, after)] = *step else { continue };
        let rise = after - before;
        fallen -= rise.min(0.0);
        if rise <= 0.0 {
            continue;
        }
        match found.last_mut() {
            Some(burst) if from - burst.to < WITHIN_BURST => (burst.to, burst.size) = (to, burst.size + rise),
            _ => found.push(Burst { from, to, size: rise }),
        }
    }
    if fallen > found.iter().map(|burst| burst.size).sum::<f64>() / 10.0 {
        return None;
    }
    let last = found.last()?;
    // From the latest one back, for as long as they are alike.
    let (mut count, mut first, mut sizes) = (1.0, last, last.size);
    let (mut shortest, mut longest) = (f64::MAX, 0.0_f64);
    for burst in found.iter().rev().skip(1) {
        let interval = first.to - burst.to;
        let is_alike = burst.size <= 2.0 * last.size && last.size <= 2.0 * burst.size;
        let (shorter, longer) = (shortest.min(interval), longest.max(interval));
        if !is_alike || longer > 1.4 * shorter + 2.0 {
            break;
        }
        (count, first, sizes) = (count + 1.0, burst, sizes + burst.size);
        (shortest, longest) = (shorter, longer);
    }
    let (period, size) = ((last.to - first.to) / (count - 1.0), sizes / count);
    let are_two = count == 2.0;
    let differ = (last.size - first.size).abs() > size / 4.0;
    if count < 2.0
        || (are_two && (differ || size < LEAST_OF_TWO || period > LONGEST_OF_TWO))
        || period < SHORTEST_PERIOD
        || last.to - last.from > 0.4 * period
        || -last.to > LONGER * period
    {
        return None;
    }
    Some(Trend {
        per_second: size / period,
        course: GrowthCourse::Bursts { since_last: -last.to, period, size },
    })
}

/// A growth that shows in most of the latest parts of this length.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the minimum follows"
)]
fn find_sustained(series: &Series, watched: f64, length: f64) -> Option<Trend> {
    let count = COUNT.min((watched / length) as usize);
    let least = if length > PARTS[0] { 5 } else { 3 };
    let levels = levels_by_step(series, length, count);
    let rising = levels.windows(2).filter(|step| step[1] > step[0]).count();
    if count < least || rising < least.max((2 * count).div_ceil(3)) {
        return None;
    }
    let span = length * count as f64;
    let by_chance = SIGNIFICANT_RISE * noise_since(series, -span);
    if has_ended(series, -span)
        || levels[count] - levels[0] < by_chance
        || highest_level(series, -length, 0.0) <= highest_level(series, -BEFORE * span, -span)
    {
        return None;
    }
    let levels = levels_by_step(series, span / (4 * STEPS) as f64, 4 * STEPS);
    let line = FittedLine::fit_through(&levels);
    let step = span / (4 * STEPS) as f64;
    let changed = find_rate_change(series, watched);
    if line.explained_share(&levels) < EXPLAINED && changed.is_none() {
        return None;
    }
    let now = levels.len() as f64 - 1.0;
    let above = |(at, level): (usize, &f64)| level - line.value_at(at as f64);
    let most_above = levels.iter().enumerate().map(above).fold(f64::MIN, f64::max);
    let straight = Trend {
        per_second: line.slope / step,
        course: GrowthCourse::Straight {
            above: most_above - (levels[levels.len() - 1] - line.value_at(now)),
        },
    };
    Some(changed.unwrap_or(straight)).filter(|trend| trend.per_second > 0.0)
}

/// Whether the level has not been higher than ever since `from` for longer than it paused before.
fn has_ended(series: &Series, from: f64) -> bool {
    let (mut highest, mut at, mut longest) = (level_at(series, from), from, 0.0_f64);
    let begin = series.partition_point(|(at, _)| *at <= from).max(1);
    let mut is_first = true;
    for step in series[begin - 1..].windows(2) {
        let [(step_from, before), (step_to, after)] = *step else { continue };
        if after > highest {
            let part = if before >= highest { 0.0 } else { (highest - before) / (after - before) };
            let since = (step_from + part * (step_to - step_from)).max(from);
            if !is_first {
                longest = longest.max(since - at);
            }
            (highest, at, is_first) = (after, step_to, false);
        }
    }
    -at > PAUSE.max(LONGER * longest)
}

/// The highest level between two times; less than any if nothing is known of them.
fn highest_level(series: &Series, from: f64, to: f64) -> f64 {
    if series.first().is_none_or(|(first, _)| *first > to) {
        return f64::MIN;
    }
    let between = series.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, level)| *level);
    between.fold(level_at(series, from).max(level_at(series, to)), f64::max)
}

/// How far a level that goes up and down as this one goes down since `from` gets by chance
/// (standard deviation).
fn noise_since(series: &Series, from: f64) -> f64 {
    let begin = series.partition_point(|(at, _)| *at <= from).max(1);
    let falls = series[begin - 1..].windows(2).map(|step| (step[0].1 - step[1].1).max(0.0));
    (2.0 * falls.map(|fall| fall * fall).sum::<f64>()).sqrt()
}

/// A growth whose rate has changed beyond doubt: it stepped up or down, or gets faster or slower
/// all the time.
fn find_rate_change(series: &Series, watched: f64) -> Option<Trend> {
    let step = COUNT as f64 * PARTS[0] / STEPS as f64;
    let latest = rises_per_step(series, step);
    let missed = |trend: &Trend| -> f64 {
        let expected = |at: usize| step * trend.rate_in((at as f64 - STEPS as f64 + 0.5) * step);
        latest.iter().enumerate().map(|(at, rise)| (rise - expected(at)).powi(2)).sum()
    };
    let whole_numbers = WHOLE_NUMBERS * STEPS as f64;
    let straight = FittedLine::fit_through(&latest).squared_error(&latest) + whole_numbers;
    let spans = PARTS.iter().rev().map(|length| length * COUNT as f64).filter(|span| *span <= watched);
    // The longest time says most, if it ends like the last minute.
    let curve =
        spans.filter_map(|span| fit_curve(series, span)).find(|curve| missed(curve) <= 1.5 * straight);
    let stepped = find_rate_step(&latest, step);
    match (curve, stepped) {
        (Some(curve), Some((_, by_step)))
            if missed(&curve) + whole_numbers <= 2.0 * by_step + whole_numbers =>
        {
            Some(curve)
        }
        (_, Some((stepped, _))) => Some(stepped),
        (curve, None) => curve,
    }
}

/// A rate that is another one since some time: it explains nearly all of how these rises differ.
/// And what it misses.
fn find_rate_step(rises: &[f64], step: f64) -> Option<(Trend, f64)> {
    let splits = 2..=rises.len() - LEAST_AFTER_STEP;
    let (by_step, now) = splits
        .map(|at| {
            let (before, after) = rises.split_at(at);
            (sum_of_squares(before) + sum_of_squares(after), mean(after))
        })
        .min_by(|one, other| one.0.total_cmp(&other.0))?;
    let is_beyond_doubt = by_step <= (1.0 - EXPLAINED_BY_CHANGE) * sum_of_squares(rises)
        && (now - mean(rises)).abs() > 4.0 * WHOLE_NUMBERS;
    let trend = Trend { per_second: now / step, course: GrowthCourse::Straight { above: 0.0 } };
    is_beyond_doubt.then_some((trend, by_step))
}

/// A growth that has got faster or slower all the time.
fn fit_curve(series: &Series, span: f64) -> Option<Trend> {
    let step = span / STEPS as f64;
    let rises = rises_per_step(series, step);
    let line = FittedLine::fit_through(&rises);
    let count = STEPS as f64;
    let variance = (line.squared_error(&rises) / (count - 2.0)).max(WHOLE_NUMBERS);
    let error = (12.0 * variance / (count * (count * count - 1.0))).sqrt();
    if line.slope.abs() < SIGNIFICANT * error || line.slope.abs() * count < 0.3 * mean(&rises).abs() {
        return None;
    }
    let fit = |power: f64| {
        // Only the simplest one goes through zero.
        if power < 1.0 && rises.iter().any(|rise| *rise <= 0.0) {
            return None;
        }
        let line = FittedLine::fit_through(
            &rises.iter().map(|rise| raise_rate(rise / step, power)).collect::<Vec<_>>(),
        );
        let rise = |at: f64| step * lower_rate(line.value_at(at), power);
        let missed: f64 = rises.iter().enumerate().map(|(at, is)| (is - rise(at as f64)).powi(2)).sum();
        let per_second = lower_rate(line.value_at(count - 0.5), power);
        Some((
            missed,
            Trend { per_second, course: GrowthCourse::Curved { power, change: line.slope / step } },
        ))
    };
    let fits = POWERS.into_iter().filter_map(fit).filter(|(_, trend)| trend.per_second.is_finite());
    let (missed, best) = fits.min_by(|one, other| one.0.total_cmp(&other.0))?;
    (missed <= (1.0 - EXPLAINED_BY_CHANGE) * sum_of_squares(&rises)).then_some(best)
}

/// A rate to a power; to the power 0, its logarithm.
fn raise_rate(rate: f64, power: f64) -> f64 {
    if power == 0.0 { rate.ln() } else { rate.powf(power) }
}

/// The rate of which this is [`raise_rate`].
fn lower_rate(raised: f64, power: f64) -> f64 {
    if power == 0.0 {
        raised.exp()
    } else if raised > 0.0 {
        raised.powf(1.0 / power)
    } else if power > 0.0 {
        0.0
    } else {
        f64::INFINITY
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sum of the squares of what values differ from their mean by.
fn sum_of_squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// How much higher the level got in each of the latest [`STEPS`] steps of this length.
fn rises_per_step(series: &Series, step: f64) -> Vec<f64> {
    levels_by_step(series, step, STEPS).windows(2).map(|step| step[1] - step[0]).collect()
}

/// The levels at the ends of the latest `count` parts of this length, and at the beginning of the
/// first.
fn levels_by_step(series: &Series, length: f64, count: usize) -> Vec<f64> {
    (0..=count).rev().map(|before| level_at(series, -(before as f64) * length)).collect()
}

/// The level at a time; that of the first or last point beyond them.
fn level_at(series: &Series, at: f64) -> f64 {
    let after = series.partition_point(|(point, _)| *point <= at);
    match (after.checked_sub(1).map(|before| series[before]), series.get(after)) {
        (Some((from, before)), Some((to, next))) => before + (next - before) * (at - from) / (to - from),
        (Some((_, level)), None) | (None, Some(&(_, level))) => level,
        (None, None) => 0.0,
    }
}

/// The straight line that fits best through values at 0, 1, 2, …
struct FittedLine {
    slope: f64,
    first: f64,
}

impl FittedLine {
    fn fit_through(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
        let products = values.iter().enumerate().map(|(at, value)| (at as f64 - middle) * (value - mean));
        let slope = products.sum::<f64>() * 12.0 / (count * (count * count - 1.0));
        Self { slope, first: mean - slope * middle }
    }

    const fn value_at(&self, at: f64) -> f64 {
        self.first + self.slope * at
    }

    /// The sum of the squares of what the values differ by.
    fn squared_error(&self, values: &[f64]) -> f64 {
        values.iter().enumerate().map(|(at, value)| (value - self.value_at(at as f64)).powi(2)).sum()
    }

    /// The part of the values' variance that the line explains.
    fn explained_share(&self, values: &[f64]) -> f64 {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        if variance == 0.0 { 0.0 } else { 1.0 - self.squared_error(values) / variance }
    }
}
