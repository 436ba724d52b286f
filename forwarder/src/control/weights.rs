//! `weights = "cpu"`: a backend's share of new calls is its weight times the part of its CPU it has
//! left, in twentieths.
//!
//! A ring is built anew when a share changes, so shares move in steps, a step is left only when the
//! CPU is clearly beyond it, and all are looked at once a second at most.

use std::time::Duration;

use super::Now;

/// Steps of a whole CPU left; the least is one, since a backend without any share would never show
/// that it has recovered.
pub const FULL: u16 = 20;

/// Steps change no more often than this.
pub const PACE: Duration = Duration::from_secs(1);

/// How far, in steps, the CPU must be from the step in force; half a step would be plain rounding.
const STICKINESS: f64 = 0.9;

/// The step that follows `current` at this smoothed CPU. A backend that reports no CPU has all left.
#[must_use]
pub fn step(current: u16, cpu: Option<f64>) -> u16 {
    let Some(cpu) = cpu else {
        return FULL;
    };
    let full = f64::from(FULL);
    let left = ((1.0 - cpu) * full).clamp(1.0, full);
    if (left - f64::from(current)).abs() <= STICKINESS {
        current
    } else {
        left.round() as u16
    }
}

/// When steps may change next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    next: Now,
}

impl Pace {
    /// May they change now? Says so once in [`PACE`].
    pub fn take(&mut self, now: Now) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + PACE;
        }
        due
    }

    /// The next moment at which they may.
    #[must_use]
    pub const fn next(&self) -> Now {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, control::gate::Gate};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A load that trembles by a tenth around a level hardly moves the step, and one that
        /// trembles by a fortieth moves it once at most.
        #[test]
        fn a_steady_load_keeps_its_step(level in 0.0f64..1.0, noise in proptest::collection::vec(-0.1f64..0.1, 300), calm in any::<bool>()) {
            let mut gate = Gate::new(config::Gate::default());
            let (mut current, mut moves) = (FULL, 0);
            let mut pace = Pace::default();
            for (i, noise) in noise.iter().enumerate() {
                let now = Duration::from_millis(100) * i as u32;
                gate.sample(now, level + if calm { noise / 4.0 } else { *noise });
                if pace.take(now) {
                    let next = step(current, gate.cpu());
                    // The first sample counts in full; the level is there after some seconds.
                    moves += u32::from(next != current && i >= 50);
                    current = next;
                }
            }
            prop_assert!(moves <= if calm { 1 } else { 5 }, "{moves} moves in 25 s");
        }

        /// A step is never further from the CPU than the stickiness.
        #[test]
        fn a_step_is_near_its_cpu(cpus in proptest::collection::vec(0.0f64..=1.0, 1..100)) {
            let mut current = FULL;
            for cpu in cpus {
                current = step(current, Some(cpu));
                let left = ((1.0 - cpu) * f64::from(FULL)).max(1.0);
                prop_assert!((1..=FULL).contains(&current));
                prop_assert!((left - f64::from(current)).abs() <= STICKINESS);
            }
        }

        /// However often somebody asks, steps change at most once a second.
        #[test]
        fn the_pace_is_kept(gaps in proptest::collection::vec(0u64..400, 1..200)) {
            let mut pace = Pace::default();
            let (mut now, mut taken) = (Duration::ZERO, 0);
            for gap in gaps {
                now += Duration::from_millis(gap);
                taken += u64::from(pace.take(now));
            }
            prop_assert!(taken <= now.as_secs() + 1);
        }
    }

    #[test]
    fn without_cpu_all_is_left() {
        assert_eq!(step(3, None), FULL);
        assert_eq!(step(FULL, Some(1.0)), 1);
    }
}
