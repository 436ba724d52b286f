//! Who the entries of the affinity map belong to.

use std::collections::HashMap;

use sip_forwarder_ebpf::abi::{Affinity, BackendId};

/// A count of the affinity map.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// All entries.
    pub entries: usize,
    /// By backend and incarnation: those young enough to be calls that are up.
    young: HashMap<(BackendId, u16), usize>,
}

impl Census {
    /// Of these entries at `now` (seconds of the monotonic clock). An entry is young up to as many
    /// seconds as `settle` has for its backend, by number.
    #[must_use]
    pub fn of(entries: impl Iterator<Item = Affinity>, now: u32, settle: &[u32]) -> Self {
        let mut census = Self::default();
        for entry in entries {
            census.entries += 1;
            let limit = settle
                .get(usize::from(entry.backend.0))
                .copied()
                .unwrap_or(0);
            if now.saturating_sub(entry.second) <= limit {
                *census
                    .young
                    .entry((entry.backend, entry.incarnation))
                    .or_default() += 1;
            }
        }
        census
    }

    /// Young entries of one backend.
    #[must_use]
    pub fn young(&self, backend: BackendId, incarnation: u16) -> usize {
        self.young
            .get(&(backend, incarnation))
            .copied()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_count_for_their_backend_while_they_are_young() {
        let entry = |backend, incarnation, second| Affinity {
            backend: BackendId(backend),
            incarnation,
            second,
        };
        let all = [
            entry(0, 1, 100),
            entry(0, 1, 40),
            entry(0, 2, 100),
            entry(1, 1, 99),
        ];
        let census = Census::of(all.into_iter(), 100, &[30, 0]);
        assert_eq!(census.entries, 4);
        assert_eq!(census.young(BackendId(0), 1), 1);
        assert_eq!(census.young(BackendId(0), 2), 1);
        assert_eq!(census.young(BackendId(1), 1), 0);
        assert_eq!(census.young(BackendId(7), 1), 0);
    }
}
