//! Sums up the rounds of a measurement, lays out tables, and holds figures to their goals.

/// One figure, measured in each round; sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(rounds: I) -> Self {
        let mut figures = Self::default();
        rounds.into_iter().for_each(|round| figures.add(round));
        figures
    }
}

impl Figures {
    pub(crate) fn add(&mut self, round: f64) {
        self.0.insert(self.0.partition_point(|other| *other <= round), round);
    }

    /// The median; not a number if nothing was measured.
    pub(crate) fn median(&self) -> f64 {
        let Self(sorted) = self;
        match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    /// The median distance of the rounds from `expected`.
    pub(crate) fn deviation(&self, expected: f64) -> f64 {
        self.0.iter().map(|round| (round - expected).abs()).collect::<Self>().median()
    }

    /// `MEDIAN (LOWEST–HIGHEST)` with so many decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        match self.0.as_slice() {
            [low, .., high] => {
                format!("{:.decimals$} ({low:.decimals$}–{high:.decimals$})", self.median())
            }
            _ => self.show_median(decimals),
        }
    }

    /// The median alone.
    pub(crate) fn show_median(&self, decimals: usize) -> String {
        show(self.median(), decimals)
    }
}

/// A figure with so many decimals; a dash if nothing was measured.
pub(crate) fn show(figure: f64, decimals: usize) -> String {
    if figure.is_finite() { format!("{figure:.decimals$}") } else { "-".to_owned() }
}

/// A count as a figure.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "no count here comes near 2^53, up to which this is exact"
)]
pub(crate) fn to_figure(count: u64) -> f64 {
    count as f64
}

/// Lays out rows under a heading: the first column to the left, numbers to the right.
///
/// It is Markdown, so that a table can go into a document as it is.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![heading.iter().map(|&text| text.to_owned()).collect(), Vec::new()];
    lines.extend_from_slice(rows);
    for column in 0..heading.len() {
        let width =
            lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max().unwrap_or(0);
        let (rule, pad): (_, fn(&str, usize) -> String) = match column {
            0 => ("-".repeat(width), |cell, width| format!("{cell:<width$}")),
            _ => {
                (format!("{}:", "-".repeat(width.saturating_sub(1))), |cell, width| format!("{cell:>width$}"))
            }
        };
        lines[1].push(rule);
        for cell in lines.iter_mut().filter_map(|line| line.get_mut(column)) {
            *cell = pad(cell, width);
        }
    }
    let lines: Vec<_> = lines.iter().map(|line| format!("| {} |\n", line.join(" | "))).collect();
    lines.concat()
}

/// A limit that tcptrace is held to, and what was measured.
#[derive(Debug)]
pub(crate) struct Goal {
    what: &'static str,
    measured: f64,
    limit: f64,
    is_at_most: bool,
    unit: &'static str,
    /// How far apart measurements of the same thing lie, in per cent.
    noise: f64,
}

impl Goal {
    /// The less, the better.
    pub(crate) fn at_most(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what, measured, limit, is_at_most: true, unit, noise: 0.0 }
    }

    /// The more, the better.
    pub(crate) fn at_least(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { is_at_most: false, ..Self::at_most(what, measured, limit, unit) }
    }

    /// Leaves a goal undecided that noise alone could miss.
    pub(crate) fn unless_noise_is(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    fn verdict(&self) -> &'static str {
        // What was not measured is not a number, and not met.
        let is_met = if self.is_at_most { self.measured <= self.limit } else { self.measured >= self.limit };
        match is_met {
            _ if self.noise > 0.0 && self.noise > 100.0 - self.limit => "too noisy",
            true => "met",
            false => "missed",
        }
    }

    /// The row of a table of goals.
    pub(crate) fn row(&self) -> Vec<String> {
        let Self { what, measured, limit, is_at_most, unit, .. } = self;
        let decimals = if *measured >= 100.0 { 0 } else { 2 };
        let limit = format!("{} {limit}{unit}", if *is_at_most { "≤" } else { "≥" });
        vec![(*what).to_owned(), limit, show(*measured, decimals) + unit, self.verdict().to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let figures = |rounds: &[f64]| rounds.iter().copied().collect::<Figures>();
        assert_eq!(figures(&[3.0, 1.0, 2.25]).show(1), "2.2 (1.0–3.0)");
        assert_eq!(figures(&[4.0, 1.0, 2.0, 3.0]).show_median(1), "2.5");
        assert_eq!(show(figures(&[90.0, 101.0, 130.0]).deviation(100.0), 0), "10");
        assert_eq!(figures(&[7.0]).show(0), "7");
        assert_eq!(figures(&[]).show(0), "-");
    }

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let rows = [vec!["untraced".to_owned(), "1".to_owned()], vec!["µ".to_owned(), "12–34".to_owned()]];
        let expected = "\
| what     | ns/op |
| -------- | ----: |
| untraced |     1 |
| µ        | 12–34 |
";
        assert_eq!(table(&["what", "ns/op"], &rows), expected);
    }

    #[test]
    fn a_goal_is_met_on_the_right_side_of_its_limit() {
        let at_most = |measured| Goal::at_most("", measured, 3.5, "").verdict();
        assert_eq!([at_most(3.5), at_most(3.6), at_most(f64::NAN)], ["met", "missed", "missed"]);
        let at_least = |measured| Goal::at_least("", measured, 95.0, "").verdict();
        assert_eq!([at_least(95.0), at_least(94.9)], ["met", "missed"]);
        let rate = |noise| Goal::at_least("", 96.0, 95.0, " %").unless_noise_is(noise).verdict();
        assert_eq!([rate(4.0), rate(6.0)], ["met", "too noisy"]);
    }
}
