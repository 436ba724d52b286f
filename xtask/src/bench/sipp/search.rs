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

/// Raises the rate until it is not clean, then closes in. It is told one run after the other, so that several searches
/// can take turns.
#[derive(Debug)]
pub(super) struct Search {
    clean: u32,
    unclean: Option<u32>,
    next: u32,
    tries: u32,
    halvings: u32,
}

impl Search {
    pub(super) const fn from(first: u32) -> Self {
        Self {
            clean: 0,
            unclean: None,
            next: first,
            tries: 0,
            halvings: 0,
        }
    }

    /// The same once more, when this one is done.
    pub(super) fn again(&self, first: u32) -> Self {
        Self::from(match self.clean {
            0 => first,
            found => (f64::from(found) * AGAIN) as u32,
        })
    }

    /// The rate of the next run; `None` when the search is done.
    pub(super) fn next(&self) -> Option<u32> {
        (self.halvings <= HALVINGS).then_some(self.next)
    }

    /// The highest rate that was clean; 0 if none was.
    pub(super) const fn highest(&self) -> u32 {
        self.clean
    }

    /// What came of the run.
    pub(super) fn tell(&mut self, run: Run) {
        match run {
            Run::Clean => self.clean = self.next,
            Run::Unclean => {
                self.tries += 1;
                if self.tries < TRIES {
                    return;
                }
                self.unclean = Some(self.next);
            }
        }
        self.tries = 0;
        self.next = if let Some(unclean) = self.unclean {
            self.halvings += 1;
            u32::midpoint(self.clean, unclean)
        } else {
            (f64::from(self.clean) * GROWTH) as u32
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(mut search: Search, mut run: impl FnMut(u32) -> Run) -> Search {
        while let Some(rate) = search.next() {
            search.tell(run(rate));
        }
        search
    }

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
            let search = finish(Search::from(4_000), |rate| below(limit, rate));
            let part = f64::from(search.highest()) / f64::from(limit);
            assert!((0.85..=1.0).contains(&part), "{search:?} of {limit}");
            let closer = finish(search.again(4_000), |rate| below(limit, rate));
            let part = f64::from(closer.highest()) / f64::from(limit);
            assert!((0.98..=1.0).contains(&part), "{closer:?} of {limit}");
        }
    }

    #[test]
    fn a_pause_of_the_machine_is_no_limit() {
        let mut runs = 0;
        let search = finish(Search::from(4_000), |rate| {
            runs += 1;
            if runs % 2 == 1 {
                Run::Unclean
            } else {
                below(9_000, rate)
            }
        });
        assert!(search.highest() > 8_000, "{search:?}");
    }

    #[test]
    fn where_nothing_is_clean_the_search_ends() {
        let search = finish(Search::from(4_000), |_| Run::Unclean);
        assert_eq!(search.highest(), 0);
    }
}
