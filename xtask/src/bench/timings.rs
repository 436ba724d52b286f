//! What one thing took in each round.

/// A figure of each round.
#[derive(Clone, Debug, Default)]
pub(super) struct Timings(Vec<f64>);

impl Timings {
    /// Adds a round.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All rounds, in the order in which they were added.
    pub(super) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The median; 0 without rounds.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half of the rounds lie within this.
    pub(super) fn spread(&self) -> f64 {
        self.quantile(0.75) - self.quantile(0.25)
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last as f64 * part).round() as usize)
            .copied()
            .unwrap_or(0.0)
    }
}

impl FromIterator<f64> for Timings {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Timings;

    #[test]
    fn median_and_spread_do_not_heed_what_lies_outside() {
        let timings: Timings = [900.0, 10.0, 12.0, 11.0, 0.0].into_iter().collect();
        assert_eq!((timings.median(), timings.spread()), (11.0, 2.0));
        assert!(Timings::default().median().abs() < f64::EPSILON);
    }
}
