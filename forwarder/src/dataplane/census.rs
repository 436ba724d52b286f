//! Who the entries of the affinity map belong to.

use std::{collections::HashMap, time::Duration};

use sip_forwarder_ebpf::abi::{Affinity, BackendId};

use crate::control::numbering::Number;

/// The entries at one moment, by backend.
#[derive(Debug, Default)]
pub struct Census {
    entries: usize,
    /// Backend and incarnation → the ages of its entries, in seconds.
    ages: HashMap<(BackendId, u16), Vec<u32>>,
}

impl Census {
    /// Of these entries, at second `now` of the monotonic clock.
    pub(super) fn of(entries: impl Iterator<Item = Affinity>, now: u32) -> Self {
        let mut census = Self::default();
        for entry in entries {
            census.entries += 1;
            let ages = census.ages.entry((entry.backend, entry.incarnation));
            // An entry may be written while the others are read.
            ages.or_default().push(now.saturating_sub(entry.second));
        }
        census
    }

    /// All entries, those of backends that are gone included.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Entries of a backend that are younger than `settle`.
    #[must_use]
    pub fn younger(&self, backend: Number, settle: Duration) -> usize {
        let ages = self.ages.get(&(backend.id(), backend.incarnation));
        ages.map_or(0, |ages| {
            let young = ages
                .iter()
                .filter(|age| u64::from(**age) < settle.as_secs());
            young.count()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_young_entries_of_the_same_incarnation_count() {
        let entry = |backend, incarnation, second| Affinity {
            backend: BackendId(backend),
            incarnation,
            second,
        };
        let entries = [
            entry(1, 1, 995),
            entry(1, 1, 990),
            entry(1, 1, 1_001),
            entry(1, 2, 999),
            entry(2, 1, 999),
        ];
        let census = Census::of(entries.into_iter(), 1_000);
        let number = |index, incarnation| Number { index, incarnation };
        let ten = Duration::from_secs(10);
        assert_eq!(census.entries(), 5);
        assert_eq!(census.younger(number(1, 1), ten), 2);
        assert_eq!(census.younger(number(1, 1), ten * 2), 3);
        assert_eq!(census.younger(number(1, 2), ten), 1);
        assert_eq!(census.younger(number(3, 1), ten), 0);
        assert_eq!(census.younger(number(2, 1), Duration::ZERO), 0);
    }
}
