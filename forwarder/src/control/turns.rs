//! The admit column of policy `round-robin`: backends in turn, in proportion to weight.
//!
//! The data plane counts new calls and takes element `count % length`. Each member's k-th turn has a
//! window: it may not come before k·W/w and must come before (k+1)·W/w, with w its weight and W the
//! sum of all. Among those whose turn may come, the one whose must come first has it (earliest
//! deadline first, which on a single row of turns misses no deadline where any order does). So
//!
//! - after any number n of turns from the start, a member had n·w/W turns, less than 1 off;
//! - in any row of turns, less than 2 off; in any W of them (weights reduced), exactly w;
//! - equal weights alternate strictly, in the order of names;
//! - a row across the table's end, where the count begins anew, is less than 3 off.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::maglev::Member;

/// The first `length` turns, as indexes into `members`; empty if no member has weight.
#[must_use]
pub fn sequence(members: &[Member<'_>], length: u32) -> Vec<u16> {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    // Ranks by name, so that the order given does not matter.
    let mut by_name: Vec<usize> = (0..members.len())
        .filter(|&index| members[index].weight > 0)
        .collect();
    by_name.sort_by_key(|&index| members[index].name);
    if by_name.is_empty() {
        return Vec::new();
    }
    let weight = |rank: usize| u64::from(members[by_name[rank]].weight);
    let release = |rank: usize, turn: u64| turn * total / weight(rank);
    let deadline = |rank: usize, turn: u64| ((turn + 1) * total).div_ceil(weight(rank));

    let mut ready: BinaryHeap<Reverse<(u64, usize, u64)>> = (0..by_name.len())
        .map(|rank| Reverse((deadline(rank, 0), rank, 0)))
        .collect();
    let mut waiting: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut sequence = Vec::with_capacity(length as usize);
    for now in 0..u64::from(length) {
        while let Some(&Reverse((at, rank, turn))) = waiting.peek()
            && at <= now
        {
            waiting.pop();
            ready.push(Reverse((deadline(rank, turn), rank, turn)));
        }
        // There is always one: windows of all turns together cover every element exactly.
        if let Some(Reverse((_, rank, turn))) = ready.pop() {
            sequence.push(by_name[rank] as u16);
            waiting.push(Reverse((release(rank, turn + 1), rank, turn + 1)));
        }
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(weights: &[u16], length: u32) -> Vec<u16> {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("p{i:04}")).collect();
        let members: Vec<Member<'_>> = names
            .iter()
            .zip(weights)
            .map(|(name, &weight)| Member { name, weight })
            .collect();
        sequence(&members, length)
    }

    fn gcd(a: usize, b: usize) -> usize {
        if b == 0 { a } else { gcd(b, a % b) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// After any number of turns everybody had its share, less than one turn off.
        #[test]
        fn shares_are_kept_at_every_turn(weights in proptest::collection::vec(1u16..30, 1..12)) {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let row = turns(&weights, 2_000);
            prop_assert_eq!(row.len(), 2_000);
            let mut had = vec![0.0; weights.len()];
            for (index, &who) in row.iter().enumerate() {
                had[usize::from(who)] += 1.0;
                for (had, &weight) in had.iter().zip(&weights) {
                    let due = (index + 1) as f64 * f64::from(weight) / total;
                    prop_assert!((had - due).abs() < 1.0, "{had} of {due} after {index}");
                }
            }
        }

        /// Any row as long as the sum of the reduced weights has everybody exactly its weight.
        #[test]
        fn a_full_round_is_exact(weights in proptest::collection::vec(1u16..12, 1..8), from in 0usize..500) {
            let divisor = weights.iter().fold(0, |a, &w| gcd(a, usize::from(w)));
            let round: usize = weights.iter().map(|&w| usize::from(w) / divisor).sum();
            let row = turns(&weights, 1_000);
            for (who, &weight) in weights.iter().enumerate() {
                let had = row[from..from + round].iter().filter(|&&w| usize::from(w) == who).count();
                prop_assert_eq!(had, usize::from(weight) / divisor);
            }
        }

        /// Equal weights alternate strictly, whatever the weight is.
        #[test]
        fn equals_alternate(n in 1usize..40, weight in 1u16..1_000) {
            let row = turns(&vec![weight; n], 500);
            for (index, &who) in row.iter().enumerate() {
                prop_assert_eq!(usize::from(who), index % n);
            }
        }
    }

    #[test]
    fn the_order_given_does_not_matter() {
        let a = Member {
            name: "a",
            weight: 3,
        };
        let b = Member {
            name: "b",
            weight: 2,
        };
        let one = sequence(&[a, b], 50);
        let other = sequence(&[b, a], 50);
        assert!(one.iter().zip(&other).all(|(x, y)| *x == 1 - *y));
    }

    #[test]
    fn nobody_has_turns_among_nobody() {
        assert!(turns(&[], 7).is_empty());
        assert!(turns(&[0], 7).is_empty());
        assert_eq!(turns(&[0, 5], 3), [1, 1, 1]);
    }
}
