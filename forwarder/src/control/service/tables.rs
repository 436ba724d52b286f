//! The admit column, from tables that are computed only when what they depend on changed.

use crate::{
    config::Policy,
    control::{
        homes::{Homes, Share},
        maglev::{self, Member},
        ring, turns, weights,
    },
};

/// A ring and the weights it was computed from.
#[derive(Clone, Debug, Default)]
struct Cached {
    weights: Vec<u16>,
    table: Vec<u16>,
}

impl Cached {
    fn of(&mut self, members: &[Share], weights: Vec<u16>, slots: u32) -> &[u16] {
        if self.weights != weights {
            self.table = maglev::table(&weighted(members, &weights), slots);
            self.weights = weights;
        }
        &self.table
    }
}

/// The rings behind the admit column of one service.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    slots: u32,
    /// Over all backends, where shares differ from the configured ones.
    preferred: Cached,
    /// Over the open ones.
    fallback: Cached,
}

impl Tables {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots,
            preferred: Cached::default(),
            fallback: Cached::default(),
        }
    }

    /// Forgets everything: the backends are others.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.slots);
    }

    /// The admit column as indexes of members; `steps` is the part of each one's weight that counts.
    pub(super) fn admit(
        &mut self,
        policy: Policy,
        homes: &Homes,
        steps: &[u16],
        open: &[bool],
    ) -> Vec<u16> {
        let members = homes.members();
        // Largest weight times most steps is well within 16 bits.
        let shares: Vec<u16> = members
            .iter()
            .zip(steps)
            .map(|(member, step)| member.weight.saturating_mul(*step))
            .collect();
        let open_shares: Vec<u16> = shares
            .iter()
            .zip(open)
            .map(|(&share, &open)| if open { share } else { 0 })
            .collect();
        if policy == Policy::RoundRobin {
            return turns::sequence(&weighted(members, &open_shares), self.slots);
        }
        // Maglev depends on the ratio of weights only.
        let in_proportion = steps.iter().all(|step| *step == steps[0]);
        let preferred = if in_proportion {
            homes.target()
        } else {
            self.preferred.of(members, shares, self.slots)
        };
        let fallback = if open.iter().all(|&open| open) {
            &[]
        } else {
            self.fallback.of(members, open_shares, self.slots)
        };
        ring::admit(preferred, fallback, open)
    }
}

const _: () = assert!(
    crate::config::WEIGHT_LIMIT
        .checked_mul(weights::FULL)
        .is_some()
);

fn weighted<'a>(members: &'a [Share], weights: &[u16]) -> Vec<Member<'a>> {
    members
        .iter()
        .zip(weights)
        .map(|(member, &weight)| Member {
            name: &member.name,
            weight,
        })
        .collect()
}
