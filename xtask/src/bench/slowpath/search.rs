//! The highest rate at which next to nothing is lost.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Messages per second to begin with.
const FIRST: f64 = 10_000.0;
/// How much more is tried while all is clean.
const GROWTH: f64 = 1.6;
/// Halvings between the last clean rate and the first that was not.
const HALVINGS: u32 = 4;
/// The part of the messages that may be lost.
const LOSS: f64 = 0.001;
/// The part of the time that a box works which is at its limit.
const BUSY: f64 = 0.9;
/// The part of the wanted rate that the generator must reach.
const REACHED: f64 = 0.97;

/// One rate, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::bench) struct Measured {
    /// Messages per second asked for.
    pub(in crate::bench) wanted: f64,
    /// Messages that were sent.
    pub(in crate::bench) sent: u64,
    /// Those that arrived.
    pub(in crate::bench) arrived: u64,
    /// How long was sent.
    pub(in crate::bench) time: Duration,
    /// The CPU time of the box.
    pub(in crate::bench) cpu: Duration,
    /// What becomes of messages that the box has no time for.
    pub(in crate::bench) excess: Excess,
}

/// What becomes of messages that a box has no time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Excess {
    /// They are lost: datagrams.
    Lost,
    /// They wait, and the generator with them: streams.
    Waits,
}

impl Measured {
    /// Messages per second that arrived.
    pub(in crate::bench) fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }

    pub(in crate::bench) fn cpu_per_message(&self) -> Duration {
        self.cpu.div_f64((self.arrived as f64).max(1.0))
    }

    /// A box that works all the time and has the generator wait is at its limit just like one that loses.
    pub(in crate::bench) fn is_clean(&self) -> bool {
        let busy = self.cpu.as_secs_f64() >= self.time.as_secs_f64() * BUSY;
        let waits = self.excess == Excess::Waits && busy && !self.reached();
        self.arrived as f64 >= self.sent as f64 * (1.0 - LOSS) && !waits
    }

    fn reached(&self) -> bool {
        self.sent as f64 >= self.wanted * self.time.as_secs_f64() * REACHED
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s wanted: {} sent, {} arrived, {:.2} µs of CPU each",
            self.wanted,
            self.sent,
            self.arrived,
            self.cpu_per_message().as_secs_f64() * 1e6
        )
    }
}

/// What kept the rate from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::bench) enum Limit {
    /// The box lost messages, or had them wait.
    Box,
    /// The generator could send no more.
    Generator,
}

/// Raises the rate until messages are lost, then closes in on the highest clean one.
pub(in crate::bench) fn search(
    mut measure: impl FnMut(f64) -> anyhow::Result<Measured>,
) -> anyhow::Result<(Measured, Limit)> {
    let mut rate = FIRST;
    let mut best: Option<Measured> = None;
    let mut dirty = loop {
        let measured = measure(rate)?;
        if !measured.is_clean() {
            break rate;
        }
        best = Some(measured);
        if !measured.reached() {
            return Ok((measured, Limit::Generator));
        }
        rate *= GROWTH;
    };
    let mut clean = best.map_or(0.0, |best| best.wanted);
    for _ in 0..HALVINGS {
        let measured = measure(f64::midpoint(clean, dirty))?;
        if measured.is_clean() {
            clean = measured.wanted;
            best = Some(measured);
        } else {
            dirty = measured.wanted;
        }
    }
    let best = best.ok_or_else(|| {
        anyhow::anyhow!(
            "even {dirty:.0} messages/s were not clean; is another load on this machine?"
        )
    })?;
    Ok((best, Limit::Box))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box that loses all above `limit`, and a generator that can send `most`.
    fn model(limit: f64, most: f64) -> impl FnMut(f64) -> anyhow::Result<Measured> {
        move |wanted| {
            let sent = wanted.min(most);
            Ok(Measured {
                wanted,
                sent: sent as u64,
                arrived: sent.min(limit) as u64,
                time: Duration::from_secs(1),
                cpu: Duration::from_secs(1),
                excess: Excess::Lost,
            })
        }
    }

    #[test]
    fn the_limit_of_the_box_is_closed_in_on() {
        for limit in [5_000.0, 33_000.0, 250_000.0] {
            let (best, by) = search(model(limit, 1e9)).unwrap();
            assert_eq!(by, Limit::Box);
            let part = best.rate() / limit;
            assert!((0.9..=1.01).contains(&part), "{} of {limit}", best.rate());
        }
    }

    #[test]
    fn a_weak_generator_is_told() {
        let (best, by) = search(model(1e9, 100_000.0)).unwrap();
        assert_eq!((best.arrived, by), (100_000, Limit::Generator));
    }

    #[test]
    fn a_box_that_has_the_generator_wait_is_the_limit() {
        let mut wait = model(1e9, 33_000.0);
        let (best, by) = search(|wanted| {
            Ok(Measured {
                excess: Excess::Waits,
                ..wait(wanted)?
            })
        })
        .unwrap();
        assert_eq!(by, Limit::Box);
        assert!((30_000..=33_000).contains(&best.arrived), "{best:?}");
    }

    #[test]
    fn nothing_clean_is_a_fault() {
        search(model(1.0, 1e9)).unwrap_err();
    }
}
