//! What tcptrace is held to, and whether this run has met it.

use super::table::table;

/// A goal, and what was measured.
#[derive(Debug)]
pub(crate) struct Goal {
    what: String,
    measured: f64,
    limit: f64,
    is_at_most: bool,
    unit: &'static str,
    /// How far apart measurements of the same thing lie.
    noise: f64,
}

impl Goal {
    /// The less, the better.
    pub(crate) fn at_most(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, limit, is_at_most: true, unit, noise: 0.0 }
    }

    /// The more, the better.
    pub(crate) fn at_least(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, limit, is_at_most: false, unit, noise: 0.0 }
    }

    /// Not decided where measurements of the same thing lie so far apart, in per cent, that they could miss it.
    pub(crate) fn unless_noise_is(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    fn verdict(&self) -> &'static str {
        match self.is_met() {
            _ if self.noise > 0.0 && self.noise > 100.0 - self.limit => "too noisy",
            true => "met",
            false => "missed",
        }
    }

    /// What was not measured is not met.
    fn is_met(&self) -> bool {
        if self.is_at_most { self.measured <= self.limit } else { self.measured >= self.limit }
    }

    fn row(&self) -> Vec<String> {
        let Self { what, measured, limit, is_at_most, unit, .. } = self;
        let number =
            |number: f64| if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") };
        let goal = format!("{} {limit}{unit}", if *is_at_most { "≤" } else { "≥" });
        let measured = if measured.is_nan() { "-".to_owned() } else { number(*measured) + unit };
        vec![what.clone(), goal, measured, self.verdict().to_owned()]
    }
}

/// All of them.
pub(crate) fn table_of(goals: &[Goal]) -> String {
    let rows: Vec<_> = goals.iter().map(Goal::row).collect();
    format!("Goals\n\n{}", table(&["goal", "limit", "measured", ""], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_the_right_side_of_its_limit() {
        assert!(Goal::at_most("", 3.5, 3.5, "").is_met());
        assert!(!Goal::at_most("", 3.6, 3.5, "").is_met());
        assert!(Goal::at_least("", 95.0, 95.0, "").is_met());
        assert!(!Goal::at_least("", 94.9, 95.0, "").is_met());
        let rate = |noise| Goal::at_least("", 96.0, 95.0, " %").unless_noise_is(noise).verdict();
        assert_eq!((rate(4.0), rate(6.0)), ("met", "too noisy"));
        assert!(!Goal::at_most("", f64::NAN, 1.0, "").is_met(), "nothing was measured");
    }
}
