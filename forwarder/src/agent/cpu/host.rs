//! The host: `/proc/stat`, see `proc_stat(5)`.

use std::{io, path::Path};

/// Ticks of all CPUs together since the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl Ticks {
    /// From the line `cpu  user nice system idle iowait irq softirq steal guest guest_nice`. Waiting for
    /// a disk is idle. Stolen time is busy: the proxy does not get it. A guest's time is in the user's
    /// already.
    fn parse(stat: &str) -> Option<Self> {
        let figures = stat.lines().next()?.strip_prefix("cpu ")?;
        let mut ticks = [0; 8];
        let mut words = figures.split_ascii_whitespace();
        for tick in &mut ticks {
            *tick = words.next()?.parse().ok()?;
        }
        let [_, _, _, idle, iowait, ..] = ticks;
        let total: u64 = ticks.iter().sum();
        Some(Self {
            busy: total - idle - iowait,
            total,
        })
    }

    /// The busy part since `before`; `None` if no tick passed.
    fn since(self, before: Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total)?;
        // The kernel's idle and iowait may run backwards a little.
        let busy = self.busy.saturating_sub(before.busy);
        (total > 0).then(|| (busy as f64 / total as f64).min(1.0))
    }
}

/// Compares one look with the next.
#[derive(Debug, Default)]
pub(super) struct HostMeter {
    before: Option<Ticks>,
}

impl HostMeter {
    pub(super) fn measure(&mut self) -> io::Result<Option<f64>> {
        let path = Path::new("/proc/stat");
        let now = Ticks::parse(&super::read(path)?).ok_or_else(|| super::damaged(path))?;
        Ok(self
            .before
            .replace(now)
            .and_then(|before| now.since(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(line: &str) -> Ticks {
        Ticks::parse(&format!("{line}\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 9\n")).unwrap()
    }

    #[test]
    fn waiting_is_idle_and_stolen_time_is_busy() {
        let before = ticks("cpu  100 10 50 800 40 0 0 0 5 0");
        let later = ticks("cpu  120 10 60 840 60 5 5 0 9 0");
        assert_eq!(later.since(before), Some(0.4));
        let stolen = ticks("cpu  100 10 50 810 40 0 0 30 5 0");
        assert_eq!(stolen.since(before), Some(0.75));
        assert_eq!(before.since(before), None);
        assert_eq!(before.since(later), None);
    }

    #[test]
    fn what_is_no_stat_is_refused() {
        for bad in [
            "",
            "cpu0 1 2 3 4 5 6 7 8\n",
            "cpu  1 2 3\n",
            "cpu  a b c d e f g h\n",
        ] {
            assert_eq!(Ticks::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_machine_has_one() {
        let mut meter = HostMeter::default();
        assert_eq!(meter.measure().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let share = meter.measure().unwrap().unwrap();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
