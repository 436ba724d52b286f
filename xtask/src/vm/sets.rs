//! Which tests run in the virtual machine: those whose outcome depends on the kernel or the driver, and call no more
//! programs than are in it.

use std::collections::BTreeSet;

use anyhow::ensure;
use clap::ValueEnum;

/// A set of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Set {
    /// A few of each kind: three minutes for each kernel, for CI.
    Short,
    /// All that a kernel can change.
    #[default]
    All,
}

/// Every test whose name begins so.
const ALL: [&str; 12] = [
    "packets::",
    "rule::",
    "shared_words::",
    "truncation::",
    "bad_input::",
    "calls::",
    "fragments::",
    "slow_path::",
    "way_back::",
    "next_hops::",
    "takeover::",
    "virtio_net::",
];

/// What call programs that the machine lacks, or are about something else than the kernel.
const NOT: [&str; 1] = ["calls::kamailio"];

const SHORT: [&str; 15] = [
    "packets::the_verifier_stays_within_its_budget",
    "packets::requests_are_rewritten_v4",
    "packets::odd_packets_are_passed_with_their_reason_v4",
    "packets::odd_packets_are_passed_with_their_reason_v6",
    "packets::responses_return_from_the_vip_v6",
    "truncation::frames_v6",
    "calls::sipp_veth_v4",
    "calls::sipp_veth_v6",
    "fragments::large_request_v4",
    "fragments::large_response_v6",
    "takeover::killed_and_started_again",
    "takeover::stopped_and_started_again",
    "virtio_net::calls_v4",
    "virtio_net::calls_v6",
    "virtio_net::check_tells_what_slows_xdp",
];

impl Set {
    /// Returns the names of the set that contain `filter`, in the test program's order. Fails if the set names a test
    /// that the program does not have.
    pub(super) fn choose(
        self,
        there: &[String],
        filter: Option<&str>,
    ) -> anyhow::Result<Vec<String>> {
        if self == Self::Short {
            let known: BTreeSet<_> = there.iter().map(String::as_str).collect();
            let gone: Vec<_> = SHORT
                .iter()
                .filter(|name| !known.contains(**name))
                .collect();
            ensure!(
                gone.is_empty(),
                "the short set names tests that are not there: {gone:?}; mend xtask/src/vm/sets.rs"
            );
        }
        let chosen = there
            .iter()
            .filter(|name| self.has(name))
            .filter(|name| filter.is_none_or(|filter| name.contains(filter)));
        Ok(chosen.cloned().collect())
    }

    fn has(self, name: &str) -> bool {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        match self {
            Self::Short => SHORT.contains(&name),
            Self::All => begins(&ALL) && !begins(&NOT),
        }
    }
}

/// Counts the names of the short set that contain `filter`. The names of all tests only the test program knows.
pub(super) fn count_short(filter: Option<&str>) -> usize {
    let contains = |name: &&&str| filter.is_none_or(|filter| name.contains(filter));
    SHORT.iter().filter(contains).count()
}

#[cfg(test)]
mod tests {
    use super::{SHORT, Set};

    #[test]
    fn the_short_set_is_part_of_all() {
        let there = SHORT.map(str::to_owned);
        assert_eq!(Set::All.choose(&there, None).unwrap(), there);
        assert_eq!(Set::Short.choose(&there, Some("virtio")).unwrap().len(), 3);
        assert!(Set::Short.choose(&[], None).is_err());
    }
}
