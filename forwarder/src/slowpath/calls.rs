//! Calls that are not at their home, in memory: what the LRU map is to the kernel.
//!
//! Sets of eight entries; a key's set is given by its lower bits. Readers take no lock: a key, its
//! value, and the key again, which tells that the value belongs to it. Writers of one set take turns;
//! they are few, since only exceptions are written. A full set gives up its oldest entry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use sip_forwarder_ebpf::abi::{Affinity, AffinityKey, BackendId};

const WAYS: usize = 8;

#[derive(Default)]
struct Set {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
    writing: AtomicBool,
}

/// The calls.
pub(super) struct Calls {
    sets: Box<[Set]>,
}

impl Calls {
    /// Room for at least so many.
    pub(super) fn new(capacity: u32) -> Self {
        let sets = (capacity as usize).div_ceil(WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
        }
    }

    /// How many there is room for.
    pub(super) fn capacity(&self) -> u32 {
        (self.sets.len() * WAYS) as u32
    }

    /// What is known of a call.
    pub(super) fn get(&self, key: AffinityKey) -> Option<Affinity> {
        let (key, set) = self.set(key);
        let way = set
            .keys
            .iter()
            .position(|k| k.load(Ordering::Acquire) == key)?;
        let value = set.values[way].load(Ordering::Relaxed);
        // The value must not be that of whoever takes the place meanwhile.
        fence(Ordering::Acquire);
        (set.keys[way].load(Ordering::Relaxed) == key).then(|| unpack(value))
    }

    /// Writes down a call.
    pub(super) fn insert(&self, key: AffinityKey, entry: Affinity) {
        let (key, set) = self.set(key);
        while set
            .writing
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::hint::spin_loop();
        }
        let way = set.place_for(key);
        let place = &set.keys[way];
        if place.load(Ordering::Relaxed) == key {
            set.values[way].store(pack(entry), Ordering::Release);
        } else {
            place.store(0, Ordering::Relaxed);
            fence(Ordering::Release);
            set.values[way].store(pack(entry), Ordering::Relaxed);
            place.store(key, Ordering::Release);
        }
        set.writing.store(false, Ordering::Release);
    }

    /// All that are known.
    pub(super) fn entries(&self) -> impl Iterator<Item = Affinity> {
        self.sets.iter().flat_map(|set| {
            set.keys
                .iter()
                .zip(&set.values)
                .filter(|(key, _)| key.load(Ordering::Relaxed) != 0)
                .map(|(_, value)| unpack(value.load(Ordering::Relaxed)))
        })
    }

    /// The key as it is kept (0 is no key), and its set.
    fn set(&self, key: AffinityKey) -> (u64, &Set) {
        let key = key.0.max(1);
        (key, &self.sets[key as usize & (self.sets.len() - 1)])
    }
}

impl Set {
    /// Where a key is or may go: its own place, an empty one, or that of the oldest.
    fn place_for(&self, key: u64) -> usize {
        let key_at = |way: usize| self.keys[way].load(Ordering::Relaxed);
        let find = |wanted| (0..WAYS).find(|&way| key_at(way) == wanted);
        let age = |way: &usize| unpack(self.values[*way].load(Ordering::Relaxed)).second;
        find(key)
            .or_else(|| find(0))
            .or_else(|| (0..WAYS).min_by_key(age))
            .unwrap_or(0)
    }
}

fn pack(entry: Affinity) -> u64 {
    u64::from(entry.backend.0) | u64::from(entry.incarnation) << 16 | u64::from(entry.second) << 32
}

fn unpack(value: u64) -> Affinity {
    Affinity {
        backend: BackendId(value as u16),
        incarnation: (value >> 16) as u16,
        second: (value >> 32) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, sync::Arc, thread};

    fn entry(n: u16) -> Affinity {
        Affinity {
            backend: BackendId(n),
            incarnation: n,
            second: n.into(),
        }
    }

    #[test]
    fn what_is_written_is_found() {
        let calls = Calls::new(1_000);
        for n in 0..500u16 {
            calls.insert(
                AffinityKey(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                entry(n),
            );
        }
        for n in 0..500u16 {
            let key = AffinityKey(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert_eq!(calls.get(key), Some(entry(n)), "{n}");
        }
        assert_eq!(calls.get(AffinityKey(7)), None);
        assert_eq!(calls.entries().count(), 500);
    }

    #[test]
    fn a_full_set_gives_up_its_oldest() {
        let calls = Calls::new(8);
        for n in 1..=9u16 {
            calls.insert(AffinityKey(n.into()), entry(n));
        }
        assert_eq!(calls.get(AffinityKey(1)), None);
        assert!((2..=9).all(|n| calls.get(AffinityKey(n)).is_some()));
        calls.insert(AffinityKey(5), entry(50));
        assert_eq!(calls.get(AffinityKey(5)), Some(entry(50)));
        assert_eq!(calls.entries().count(), 8);
    }

    /// Whoever reads while others write finds the value of the key or nothing.
    #[test]
    fn readers_never_find_anothers_value() {
        let calls = Arc::new(Calls::new(16));
        let writers: Vec<_> = (0..2u64)
            .map(|w| {
                let calls = Arc::clone(&calls);
                thread::spawn(move || {
                    for round in 0..20_000u64 {
                        let n = (round * 2 + w) % 60 + 1;
                        calls.insert(AffinityKey(n), entry(n as u16));
                    }
                })
            })
            .collect();
        let mut found: HashMap<u64, usize> = HashMap::new();
        while writers.iter().any(|w| !w.is_finished()) {
            for n in 1..=60u64 {
                if let Some(seen) = calls.get(AffinityKey(n)) {
                    assert_eq!(seen, entry(n as u16));
                    *found.entry(n).or_default() += 1;
                }
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(!found.is_empty());
    }
}
