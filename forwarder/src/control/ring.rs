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

/// The slots of a service's ring.
///
/// The home column is what weighted Maglev over the configured backends says; the admit column is
/// the same, but where that backend is not open it is what weighted Maglev over the open ones says.
/// With nobody open, admit is nobody.
#[must_use]
pub fn build(members: &[RingMember<'_>]) -> Vec<Slot> {
    let target = maglev::table(&weights(members, |_| true), RING_SLOTS);
    let everybody_open = members.iter().all(|m| m.open);
    let open = if everybody_open {
        Vec::new()
    } else {
        maglev::table(&weights(members, |m| m.open), RING_SLOTS)
    };
    let mut slots = vec![Slot::EMPTY; RING_SLOTS as usize];
    for (index, &holder) in target.iter().enumerate() {
        let home = &members[usize::from(holder)];
        let admit = if home.open {
            home.id
        } else {
            open.get(index)
                .map_or(BackendId::NONE, |&other| members[usize::from(other)].id)
        };
        slots[index] = Slot::new(home.id, admit, false);
    }
    slots
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
