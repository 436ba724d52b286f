//! The present program beside that of an older revision, timed in the same rounds.

use anyhow::Context as _;
use serde::Serialize;

use super::{super::interval::Interval, cases::Timed};

/// How many times as long as before a case may take.
const SLOWER: f64 = 1.05;

/// The comparison of all cases.
#[derive(Serialize)]
pub(super) struct Against {
    /// The commit id of the old program.
    revision: String,
    cases: Vec<Case>,
}

/// One case with both programs.
#[derive(Clone, Debug, Serialize)]
struct Case {
    name: String,
    old_ns: f64,
    new_ns: f64,
    /// The median of the rounds' ratios of new to old.
    ratio: f64,
    /// The interval that holds the true median with a confidence of 95 %.
    low: f64,
    high: f64,
}

/// What an interval says of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Not slower, or by less than is judged.
    Fine,
    /// Slower by the median, but it may be chance.
    Perhaps,
    /// Slower beyond doubt.
    Slower,
}

impl Against {
    /// Compares the first two programs that cases were timed with: the new and the old one.
    pub(super) fn new(revision: &str, timed: &[Timed]) -> anyhow::Result<Self> {
        let cases = timed
            .iter()
            .map(|timed| {
                let [new, old] = timed.timings.as_slice() else {
                    anyhow::bail!("{} was not timed with two programs", timed.name);
                };
                let ratios: Vec<f64> = new
                    .values()
                    .iter()
                    .zip(old.values())
                    .map(|(new, old)| new / old)
                    .collect();
                let interval = Interval::of(&ratios)
                    .with_context(|| format!("{} has too few rounds", timed.name))?;
                Ok(Case {
                    name: timed.name.clone(),
                    old_ns: old.median(),
                    new_ns: new.median(),
                    ratio: interval.median,
                    low: interval.low,
                    high: interval.high,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            revision: revision.to_owned(),
            cases,
        })
    }

    /// Returns the cases that are slower beyond doubt, in words.
    pub(super) fn missed(&self) -> impl Iterator<Item = String> {
        let slower = self
            .cases
            .iter()
            .filter(|case| case.finding() == Finding::Slower);
        slower.map(|case| {
            format!(
                "{} takes {:.3} times as long as with {} (at least {:.3}), more than {SLOWER}",
                case.name, case.ratio, self.revision, case.low
            )
        })
    }

    pub(super) fn show(&self) {
        eprintln!("against {}", self.revision);
        eprintln!(
            "{:<18} {:>8} {:>8} {:>8}   95 % of it",
            "packet", "old ns", "new ns", "new/old"
        );
        for case in &self.cases {
            let remark = match case.finding() {
                Finding::Fine => "",
                Finding::Perhaps => "  slower, perhaps by chance",
                Finding::Slower => "  SLOWER",
            };
            eprintln!(
                "{:<18} {:>8.0} {:>8.0} {:>8.3}   {:.3} to {:.3}{remark}",
                case.name, case.old_ns, case.new_ns, case.ratio, case.low, case.high
            );
        }
    }
}

impl Case {
    fn finding(&self) -> Finding {
        if self.low > SLOWER {
            Finding::Slower
        } else if self.ratio > SLOWER {
            Finding::Perhaps
        } else {
            Finding::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Against, Case, Finding};

    fn case(low: f64, ratio: f64, high: f64) -> Case {
        Case {
            name: "invite".to_owned(),
            old_ns: 250.0,
            new_ns: 250.0 * ratio,
            ratio,
            low,
            high,
        }
    }

    #[test]
    fn only_what_is_slower_beyond_doubt_is_missed() {
        let cases = [
            (case(0.90, 0.99, 1.20), Finding::Fine),
            (case(1.01, 1.05, 1.09), Finding::Fine),
            (case(1.04, 1.08, 1.12), Finding::Perhaps),
            (case(1.051, 1.06, 1.07), Finding::Slower),
        ];
        for (case, finding) in &cases {
            assert_eq!(case.finding(), *finding, "{case:?}");
        }
        let against = Against {
            revision: "e77b988".to_owned(),
            cases: cases.map(|(case, _)| case).to_vec(),
        };
        let missed: Vec<String> = against.missed().collect();
        assert_eq!(missed.len(), 1);
        assert!(missed[0].contains("1.060 times"), "{missed:?}");
    }
}
