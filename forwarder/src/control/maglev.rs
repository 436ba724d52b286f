//! Weighted Maglev (Eisenbud et al., NSDI 2016, section 3.4): which member holds which slot.
//!
//! Each member has its own permutation of the slots, drawn from its name. Members take turns in
//! proportion to their weights, each taking the next free slot of its permutation. Shares follow
//! weights to within a few slots, and when the set changes few slots change hands that need not.

use sip_forwarder_ebpf::hash;

/// One who may hold slots.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name: all that its permutation depends on.
    pub name: &'a str,
    /// Its share against the others'; 0 takes no part.
    pub weight: u16,
}

/// Keys of the two hashes a permutation is drawn from. Fixed, so that forwarders that know the same
/// members agree on every slot.
const OFFSET_KEY: [u64; 2] = [0x6f66_6673_6574_0000, 1];
const SKIP_KEY: [u64; 2] = [0x736b_6970_0000_0000, 2];

/// No holder yet.
const FREE: u16 = u16::MAX;

/// A member's walk through its permutation.
struct Walk {
    position: u64,
    skip: u64,
    slots: u64,
}

impl Walk {
    fn new(name: &str, slots: u32) -> Self {
        let slots = u64::from(slots);
        Self {
            position: hash::digest(OFFSET_KEY, name.as_bytes()).0 % slots,
            skip: hash::digest(SKIP_KEY, name.as_bytes()).0 % (slots - 1) + 1,
            slots,
        }
    }

    fn next(&mut self) -> usize {
        let slot = self.position;
        self.position = (self.position + self.skip) % self.slots;
        slot as usize
    }
}

/// The holder of each of `slots` slots, as an index into `members`; empty if no member has weight.
/// `slots` must be prime, so that every skip visits every slot.
#[must_use]
pub fn table(members: &[Member<'_>], slots: u32) -> Vec<u16> {
    // Turns are taken in the order of names, so that the order given does not matter.
    let mut turns: Vec<(usize, Walk, u32)> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.weight > 0)
        .map(|(index, member)| (index, Walk::new(member.name, slots), 0))
        .collect();
    turns.sort_by_key(|(index, ..)| members[*index].name);
    let Some(heaviest) = turns
        .iter()
        .map(|(index, ..)| u32::from(members[*index].weight))
        .max()
    else {
        return Vec::new();
    };
    let mut table = vec![FREE; slots as usize];
    let mut taken = 0;
    loop {
        for (index, walk, credit) in &mut turns {
            // The heaviest moves every round, the others when their weights add up to it.
            *credit += u32::from(members[*index].weight);
            if *credit < heaviest {
                continue;
            }
            *credit -= heaviest;
            let mut slot = walk.next();
            while table[slot] != FREE {
                slot = walk.next();
            }
            table[slot] = *index as u16;
            taken += 1;
            if taken == slots {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sip_forwarder_ebpf::abi::RING_SLOTS;

    fn members<'a>(names: &'a [String], weights: &[u16]) -> Vec<Member<'a>> {
        names
            .iter()
            .zip(weights)
            .map(|(name, &weight)| Member { name, weight })
            .collect()
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("p{i}")).collect()
    }

    fn shares(table: &[u16], n: usize) -> Vec<usize> {
        let mut shares = vec![0; n];
        for &holder in table {
            shares[usize::from(holder)] += 1;
        }
        shares
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Every share is within 1 % of its weight (and a slot), whatever the weights.
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u16..20, 1..24)) {
            let names = names(weights.len());
            let table = table(&members(&names, &weights), RING_SLOTS);
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for (share, &weight) in shares(&table, weights.len()).into_iter().zip(&weights) {
                let expected = f64::from(RING_SLOTS) * f64::from(weight) / total;
                prop_assert!((share as f64 - expected).abs() <= expected * 0.01 + 2.0, "{share} of {expected}");
            }
        }

        /// The order in the file does not matter.
        #[test]
        fn order_does_not_matter(weights in proptest::collection::vec(1u16..9, 2..9), rotate in 1usize..8) {
            let names = names(weights.len());
            let there = members(&names, &weights);
            let mut rotated = there.clone();
            rotated.rotate_left(rotate % weights.len());
            let (a, b) = (table(&there, 1_009), table(&rotated, 1_009));
            for (x, y) in a.iter().zip(&b) {
                prop_assert_eq!(there[usize::from(*x)].name, rotated[usize::from(*y)].name);
            }
        }
    }

    /// When one of ten goes, the others keep nearly all they had: the paper's figure is under 1 % of
    /// slots moved needlessly for rings of more than 100 slots a member.
    #[test]
    fn few_slots_move_that_need_not() {
        let names = names(10);
        let before = table(&members(&names, &[1; 10]), RING_SLOTS);
        let after = table(&members(&names[..9], &[1; 9]), RING_SLOTS);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != 9 && b != a)
            .count();
        assert!(moved * 100 < RING_SLOTS as usize * 2, "{moved} slots moved");
    }

    /// A ring that changes between versions tears calls at an upgrade: this one must never change.
    #[test]
    fn the_golden_ring_stands() {
        let members = [
            Member {
                name: "alpha",
                weight: 1,
            },
            Member {
                name: "beta",
                weight: 2,
            },
            Member {
                name: "gamma",
                weight: 1,
            },
        ];
        assert_eq!(table(&members, 31), GOLDEN);
    }

    const GOLDEN: [u16; 31] = [
        2, 1, 0, 1, 2, 0, 2, 2, 0, 2, 1, 0, 0, 0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 0,
    ];

    #[test]
    fn nobody_holds_a_ring_of_nobody() {
        assert!(table(&[], 7).is_empty());
        assert!(
            table(
                &[Member {
                    name: "a",
                    weight: 0
                }],
                7
            )
            .is_empty()
        );
    }
}
