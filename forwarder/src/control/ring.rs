//! The ring of one service: both columns of every slot.

use sip_forwarder_ebpf::abi::{BackendId, Slot};

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

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [BackendId; 3] = [BackendId(7), BackendId(8), BackendId(9)];

    #[test]
    fn only_slots_of_a_closed_backend_admit_elsewhere() {
        let admitted = admit(&[0, 1, 2, 1], &[0, 2, 2, 0], &[true, false, true]);
        assert_eq!(admitted, [0, 2, 2, 0]);
    }

    #[test]
    fn with_nobody_open_calls_keep_their_homes() {
        let home = [0, 1, 2];
        let admitted = admit(&home, &[], &[false; 3]);
        for (slot, id) in slots(&home, &home, &admitted, &IDS).into_iter().zip(IDS) {
            assert_eq!((slot.home(), slot.settling()), (id, false));
            assert_eq!(slot.admit(), Slot::EMPTY.admit());
        }
    }

    #[test]
    fn a_slot_settles_while_its_home_is_not_its_target() {
        let settling: Vec<bool> = slots(&[0, 0], &[0, 1], &[0, 1], &IDS)
            .into_iter()
            .map(Slot::settling)
            .collect();
        assert_eq!(settling, [false, true]);
    }
}
