//! The highest clean rate, on a machine that pauses now and then.

/// How much more is tried while all is clean.
const GROWTH: f64 = 1.25;
/// Steps between the last clean rate and the first that was not.
const HALVINGS: u32 = 4;
/// A rate is not clean if it was not in so many tries.
const TRIES: u32 = 3;
/// Where a search begins, of what another one found.
const AGAIN: f64 = 0.8;

/// Whether all calls of a run went well, at the rate that was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Clean,
    Unclean,
}

/// Where a search begins that comes after one that found `rate`.
pub(super) fn again(rate: u32) -> u32 {
    (f64::from(rate) * AGAIN) as u32
}

/// Raises the rate from `first` until it is not clean, then closes in. 0 if nothing was clean.
pub(super) fn highest(
    first: u32,
    mut run: impl FnMut(u32) -> anyhow::Result<Run>,
) -> anyhow::Result<u32> {
    let mut clean = 0;
    let mut unclean = loop {
        let next = if clean == 0 {
            first
        } else {
            (f64::from(clean) * GROWTH) as u32
        };
        if !is_clean(next, &mut run)? {
            break next;
        }
        clean = next;
    };
    for _ in 0..HALVINGS {
        let middle = u32::midpoint(clean, unclean);
        if is_clean(middle, &mut run)? {
            clean = middle;
        } else {
            unclean = middle;
        }
    }
    Ok(clean)
}

fn is_clean(rate: u32, run: &mut impl FnMut(u32) -> anyhow::Result<Run>) -> anyhow::Result<bool> {
    for _ in 0..TRIES {
        if run(rate)? == Run::Clean {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn below(limit: u32, rate: u32) -> Run {
        if rate <= limit {
            Run::Clean
        } else {
            Run::Unclean
        }
    }

    #[test]
    fn the_limit_is_closed_in_on() {
        for limit in [2_100, 9_000, 14_321] {
            let found = highest(4_000, |rate| Ok(below(limit, rate))).unwrap();
            let part = f64::from(found) / f64::from(limit);
            assert!((0.9..=1.0).contains(&part), "{found} of {limit}");
            let closer = highest(again(found), |rate| Ok(below(limit, rate))).unwrap();
            let part = f64::from(closer) / f64::from(limit);
            assert!((0.98..=1.0).contains(&part), "{closer} of {limit}");
        }
    }

    #[test]
    fn a_pause_of_the_machine_is_no_limit() {
        let mut runs = 0;
        let found = highest(4_000, |rate| {
            runs += 1;
            Ok(if runs % 2 == 1 {
                Run::Unclean
            } else {
                below(9_000, rate)
            })
        });
        assert!(found.unwrap() > 8_000);
    }
}
