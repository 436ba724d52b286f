//! The α/β gate of one backend (OSLB thesis, chapter 4): closed above α, open again below β.
//!
//! CPU figures of a tenth of a second jump by ten percent, so they are smoothed with a time constant
//! of one second. Taken literally ("β is the mean CPU of the live backends") a lone backend, or
//! several equally loaded ones, would be at their own mean and never below it; so a gate opens when
//! CPU is *at most* β, and half of α is always low enough. A gap of [`HYSTERESIS`] below α keeps a
//! gate from opening where it has just closed.

use std::time::Duration;

use super::Now;
use crate::config::{self, Beta};

/// Time constant of the smoothing.
pub const SMOOTHING: Duration = Duration::from_secs(1);

/// A gate that closed above α opens only below α less this.
pub const HYSTERESIS: f64 = 0.05;

/// A CPU figure older than this says nothing any more: the gate is open, as if there had been none.
/// Otherwise a backend that no longer reports CPU would keep a closed gate for ever.
pub const STALE: Duration = Duration::from_secs(5);

/// What a gate did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Move {
    /// It closed at this smoothed CPU.
    Closed(f64),
    /// It opened at this smoothed CPU; `None`: there is no figure any more.
    Opened(Option<f64>),
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    smoothed: f64,
    /// When the first figure of this row came.
    first: Now,
    at: Now,
}

impl Sample {
    /// Are there figures of a whole time constant? Before that, one busy tenth of a second is nearly
    /// all there is, and would close a gate.
    fn is_settled(&self) -> bool {
        self.at.saturating_sub(self.first) >= SMOOTHING
    }
}

/// The gate of one backend, and its CPU.
#[derive(Clone, Debug)]
pub struct Gate {
    config: config::Gate,
    cpu: Option<Sample>,
    closed: bool,
    /// Closed from before the forwarder started, at this moment; figures have yet to come.
    restored: Option<Now>,
}

impl Gate {
    /// An open gate that knows of no CPU.
    #[must_use]
    pub const fn new(config: config::Gate) -> Self {
        Self {
            config,
            cpu: None,
            closed: false,
            restored: None,
        }
    }

    /// Closes a gate that was closed when the forwarder ended: a restart must not pour new calls on who
    /// has too many. It opens by its figures, or when none come.
    pub const fn restore_closed(&mut self, now: Now) {
        self.closed = true;
        self.restored = Some(now);
    }

    /// Follows a changed configuration; whether the gate moves is decided at the next figure.
    pub const fn configure(&mut self, config: config::Gate) {
        self.config = config;
    }

    /// The CPU above which this gate closes.
    #[must_use]
    pub const fn alpha(&self) -> f64 {
        self.config.alpha
    }

    /// Takes note of the backend's CPU, from 0 to 1.
    pub fn sample(&mut self, now: Now, cpu: f64) {
        if !cpu.is_finite() {
            return;
        }
        let cpu = cpu.clamp(0.0, 1.0);
        self.restored = None;
        self.cpu = Some(match self.cpu {
            None => Sample {
                smoothed: cpu,
                first: now,
                at: now,
            },
            Some(last) => {
                let gap = now.saturating_sub(last.at).as_secs_f64() / SMOOTHING.as_secs_f64();
                Sample {
                    smoothed: last.smoothed + (cpu - last.smoothed) * (1.0 - (-gap).exp()),
                    at: now,
                    ..last
                }
            }
        });
    }

    /// The smoothed CPU, if it is known.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        self.cpu.map(|sample| sample.smoothed)
    }

    /// Is it closed?
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Opens or closes the gate; `mean` is asked for only where it matters.
    pub fn decide(&mut self, mean: impl FnOnce() -> f64) -> Option<Move> {
        let sample = self.cpu?;
        let cpu = sample.smoothed;
        let alpha = self.config.alpha;
        let never_closes = alpha >= 1.0;
        if !self.closed {
            self.closed = cpu > alpha && !never_closes && sample.is_settled();
            return self.closed.then_some(Move::Closed(cpu));
        }
        let low_enough = || {
            let beta = match self.config.beta {
                Beta::Mean => mean(),
                Beta::Fixed(beta) => beta,
            };
            cpu <= beta && cpu < alpha - HYSTERESIS
        };
        // Above α = 0.1 this is `cpu ≤ max(β, α/2) and cpu < α − 0.05`; below it, the second half
        // could never hold and a gate would never open.
        let opens = never_closes || sample.is_settled() && (cpu <= alpha / 2.0 || low_enough());
        self.closed = !opens;
        opens.then_some(Move::Opened(Some(cpu)))
    }

    /// Forgets a figure that is too old.
    pub fn forget_stale(&mut self, now: Now) -> Option<Move> {
        let last = self.cpu.map(|sample| sample.at).or(self.restored);
        let stale = last.is_some_and(|last| now.saturating_sub(last) > STALE);
        if !stale {
            return None;
        }
        self.cpu = None;
        self.restored = None;
        let was_closed = std::mem::replace(&mut self.closed, false);
        was_closed.then_some(Move::Opened(None))
    }
}

#[cfg(test)]
mod tests;
