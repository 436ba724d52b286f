//! The ring of one service: both columns of every slot.

use sip_forwarder_ebpf::abi::{BackendId, RING_SLOTS, Slot};

use super::maglev::{self, Member};

/// One backend, as its ring needs it.
#[derive(Clone, Copy, Debug)]
pub struct RingMember<'a> {
    /// Its number.
    pub id: BackendId,
    /// Its name.
    pub name: &'a str,
    /// Its configured weight.
    pub weight: u16,
    /// May it be given new calls?
    pub open: bool,
}

/// Nobody, where a column holds indexes of backends.
pub const NOBODY: u16 = u16::MAX;

/// The admit column of policy `hash`, as indexes: the backend of `preferred` where it is open, else
/// that of `fallback`, a ring of the open ones only, which may be empty if nobody is open.
#[must_use]
pub fn admit(preferred: &[u16], fallback: &[u16], open: &[bool]) -> Vec<u16> {
    preferred
        .iter()
        .enumerate()
        .map(|(slot, &index)| {
            if open[usize::from(index)] {
                index
            } else {
                fallback.get(slot).copied().unwrap_or(NOBODY)
            }
        })
        .collect()
}

/// The slots of a ring from its columns, whose indexes are indexes into `ids`. A slot settles while
/// its home is not its target. An empty admit column admits nobody.
#[must_use]
pub fn slots(home: &[u16], target: &[u16], admit: &[u16], ids: &[BackendId]) -> Vec<Slot> {
    let id = |index: u16| {
        ids.get(usize::from(index))
            .copied()
            .unwrap_or(BackendId::NONE)
    };
    home.iter()
        .zip(target)
        .enumerate()
        .map(|(slot, (&home, &target))| {
            let admit = admit.get(slot).copied().unwrap_or(NOBODY);
            Slot::new(id(home), id(admit), home != target)
        })
        .collect()
}

/// The slots of a service's ring that nothing ever settles in.
///
/// The home column is what weighted Maglev over the configured backends says; the admit column is
/// the same, but where that backend is not open it is what weighted Maglev over the open ones says.
/// With nobody open, admit is nobody.
#[must_use]
pub fn build(members: &[RingMember<'_>]) -> Vec<Slot> {
    let target = maglev::table(&weights(members, |_| true), RING_SLOTS);
    if target.is_empty() {
        return vec![Slot::EMPTY; RING_SLOTS as usize];
    }
    let open: Vec<bool> = members.iter().map(|m| m.open).collect();
    let fallback = if open.iter().all(|&open| open) {
        Vec::new()
    } else {
        maglev::table(&weights(members, |m| m.open), RING_SLOTS)
    };
    let ids: Vec<BackendId> = members.iter().map(|m| m.id).collect();
    slots(&target, &target, &admit(&target, &fallback, &open), &ids)
}

fn weights<'a>(
    members: &[RingMember<'a>],
    takes_part: impl Fn(&RingMember<'_>) -> bool,
) -> Vec<Member<'a>> {
    members
        .iter()
        .map(|m| Member {
            name: m.name,
            weight: if takes_part(m) { m.weight } else { 0 },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(open: [bool; 3]) -> Vec<RingMember<'static>> {
        ["a", "b", "c"]
            .into_iter()
            .zip(open)
            .enumerate()
            .map(|(i, (name, open))| RingMember {
                id: BackendId(i as u16),
                name,
                weight: 1,
                open,
            })
            .collect()
    }

    #[test]
    fn with_everybody_open_both_columns_agree() {
        assert!(
            build(&members([true; 3]))
                .iter()
                .all(|slot| slot.home() == slot.admit())
        );
    }

    #[test]
    fn only_slots_of_a_closed_backend_admit_elsewhere_and_evenly() {
        let slots = build(&members([true, false, true]));
        let mut admitted = [0; 3];
        for slot in &slots {
            if slot.home() == BackendId(1) {
                assert_ne!(slot.admit(), BackendId(1));
                admitted[usize::from(slot.admit().0)] += 1;
            } else {
                assert_eq!(slot.home(), slot.admit());
            }
        }
        let mean = f64::from(admitted[0] + admitted[2]) / 2.0;
        assert!(
            (f64::from(admitted[0]) - mean).abs() / mean < 0.05,
            "{admitted:?}"
        );
    }

    #[test]
    fn with_nobody_open_calls_keep_their_homes() {
        let slots = build(&members([false; 3]));
        assert!(
            slots
                .iter()
                .all(|slot| slot.admit().0 == 0x7fff && slot.home().0 < 3)
        );
    }
}
