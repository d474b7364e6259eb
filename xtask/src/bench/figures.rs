//! What several rounds come to: the median, and how far the rounds lie apart.

/// One figure, measured in each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(rounds: I) -> Self {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_unstable_by(f64::total_cmp);
        Self(rounds)
    }
}

impl Figures {
    /// The one in the middle; not a number where nothing was measured.
    pub(crate) fn median(&self) -> f64 {
        let Self(sorted) = self;
        match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    /// How far the rounds lie apart from `expected`: half of them are nearer.
    pub(crate) fn deviation(&self, expected: f64) -> f64 {
        self.0.iter().map(|round| (round - expected).abs()).collect::<Self>().median()
    }

    /// The sum of all rounds.
    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// `MEDIAN (LOWEST–HIGHEST)`, with so many decimals; nothing where nothing was measured.
    pub(crate) fn show(&self, decimals: usize) -> String {
        match self.0.as_slice() {
            [] => "-".to_owned(),
            [low, .., high] => {
                format!("{:.decimals$} ({low:.decimals$}–{high:.decimals$})", self.median())
            }
            [only] => format!("{only:.decimals$}"),
        }
    }

    /// The median alone.
    pub(crate) fn show_median(&self, decimals: usize) -> String {
        if self.0.is_empty() { "-".to_owned() } else { format!("{:.decimals$}", self.median()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let figures = |rounds: &[f64]| rounds.iter().copied().collect::<Figures>();
        assert_eq!(figures(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(figures(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(figures(&[90.0, 101.0, 130.0]).deviation(100.0), 10.0);
        assert!(figures(&[]).median().is_nan());
        assert_eq!(figures(&[3.0, 1.0, 2.25]).show(1), "2.2 (1.0–3.0)");
        assert_eq!(figures(&[7.0]).show(0), "7");
        assert_eq!(figures(&[]).show(0), "-");
    }
}
