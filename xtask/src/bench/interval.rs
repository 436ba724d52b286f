//! A confidence interval of a median that assumes nothing about the distribution.

/// The part of intervals that hold the true median.
const CONFIDENCE: f64 = 0.95;
/// Above so many values the binomial distribution is taken for a normal one.
const MANY: usize = 500;
/// The quantile of the normal distribution that belongs to [`CONFIDENCE`].
const NORMAL: f64 = 1.959_964;

/// A median and the interval that holds the true one with a confidence of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    /// Computes the interval that belongs to the sign test: the order statistics between which the true median lies
    /// unless nearly all values fell on one side of it by chance. Returns `None` for fewer than six values, which
    /// cannot give 95 %.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let outside = values_outside(count).checked_sub(1)?;
        let middle = |at: usize| sorted[at];
        let median = f64::midpoint(middle((count - 1) / 2), middle(count / 2));
        Some(Self {
            median,
            low: sorted[outside],
            high: sorted[count - 1 - outside],
        })
    }
}

/// Returns the place, counted from 1 at either end, of the order statistics that bound the interval; 0 if there are
/// too few values.
fn values_outside(count: usize) -> usize {
    let most = f64::midpoint(1.0, -CONFIDENCE);
    if count > MANY {
        let n = count as f64;
        return ((n - NORMAL * n.sqrt()) / 2.0) as usize;
    }
    // Probability that exactly `below` of `count` values lie below the true median, and the sum up to there.
    let mut exactly = 0.5_f64.powi(count as i32);
    let mut sum = 0.0;
    let mut below = 0;
    while below < count && sum + exactly <= most {
        sum += exactly;
        exactly *= (count - below) as f64 / (below + 1) as f64;
        below += 1;
    }
    below
}

#[cfg(test)]
mod tests {
    use super::{Interval, values_outside};

    /// From the tables of the sign test (two-sided, 5 %).
    #[test]
    fn the_bounds_are_those_of_the_sign_test() {
        for (count, place) in [
            (5, 0),
            (6, 1),
            (8, 1),
            (9, 2),
            (15, 4),
            (20, 6),
            (31, 10),
            (100, 40),
        ] {
            assert_eq!(values_outside(count), place, "{count} values");
        }
        // Where the normal distribution takes over there is no step.
        assert!(values_outside(501).abs_diff(values_outside(500)) <= 1);
    }

    #[test]
    fn an_interval_lies_around_its_median_and_does_not_heed_what_lies_outside() {
        let values = [1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 50.0, 1.0, 0.01];
        let interval = Interval::of(&values).unwrap();
        assert_eq!(
            interval,
            Interval {
                median: 1.0,
                low: 0.98,
                high: 1.02
            }
        );
        assert_eq!(Interval::of(&values[..5]), None);
        let even = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!((even.median, even.low, even.high), (3.5, 1.0, 6.0));
    }

    /// Of many intervals, about 95 in 100 hold the median that the values were drawn around.
    #[test]
    fn intervals_hold_the_true_median_as_often_as_they_say() {
        let mut state = 1_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31)
        };
        let held = (0..2_000)
            .filter(|_| {
                let values: Vec<f64> = (0..31).map(|_| uniform().powi(4)).collect();
                let interval = Interval::of(&values).unwrap();
                (interval.low..=interval.high).contains(&0.5_f64.powi(4))
            })
            .count();
        assert!((1_880..=1_960).contains(&held), "{held} of 2000");
    }
}
