//! The rate of a round, from many looks at what has arrived.

use std::time::Instant;

use anyhow::ensure;

use super::super::timings::Timings;

/// Windows that a rate must be of.
const LEAST: usize = 20;

/// What has arrived at one moment, by the core that sent it.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) counts: Vec<u64>,
}

/// Returns the median rate, in frames a second, of all windows between two looks in which frames of every core arrived
/// and none had sent all of its `frames` yet.
///
/// The median does not heed a window in which something else had a core. Fails if there are too few windows.
pub(super) fn rate(samples: &[Sample], frames: u64) -> anyhow::Result<f64> {
    let rates: Timings = samples
        .windows(2)
        .filter_map(|pair| {
            let [before, after] = pair else { return None };
            let mut came = 0;
            for (before, after) in before.counts.iter().zip(&after.counts) {
                if before == after || *after >= frames {
                    return None;
                }
                came += after - before;
            }
            let time = after.at.duration_since(before.at).as_secs_f64();
            (time > 0.0).then_some(came as f64 / time)
        })
        .collect();
    let windows = rates.values().len();
    ensure!(
        windows >= LEAST,
        "frames of all cores arrived in only {windows} of {} looks, {LEAST} are needed; is another load on this \
         machine? More --frames take longer",
        samples.len()
    );
    Ok(rates.median())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Sample, rate};

    /// Looks each millisecond at cores that send 2,000 frames in it, each for a time of its own.
    fn samples(from_to: &[(u64, u64)]) -> Vec<Sample> {
        let start = Instant::now();
        let look = |ms: u64| Sample {
            at: start + Duration::from_millis(ms),
            counts: from_to
                .iter()
                .map(|(from, to)| (ms.clamp(*from, *to) - from) * 2_000)
                .collect(),
        };
        (0..200).map(look).collect()
    }

    #[test]
    fn only_time_in_which_all_cores_send_counts() {
        let both = rate(&samples(&[(10, 110), (30, 130)]), 200_000).unwrap();
        assert!((both - 4e6).abs() < 1.0, "{both}");
        let error = rate(&samples(&[(10, 60), (50, 100)]), 100_000).unwrap_err();
        assert!(error.to_string().contains("in only 9 of 200"), "{error}");
        assert!(rate(&[], 100).is_err());
    }

    #[test]
    fn a_pause_is_not_heeded() {
        let mut paused = samples(&[(0, 150)]);
        for sample in &mut paused[40..] {
            sample.at += Duration::from_millis(50);
        }
        let rate = rate(&paused, 300_000).unwrap();
        assert!((rate - 2e6).abs() < 1.0, "{rate}");
    }
}
