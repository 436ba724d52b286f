//! The keyed hash: SipHash-1-3 (Aumasson and Bernstein, 2012) over 8-byte words.
//!
//! A Call-ID is chosen by strangers. With a secret key they cannot choose the proxy by it, nor fill
//! one slot; with a strong hash, Call-IDs that count upwards spread like any others.

use crate::abi::{AffinityKey, RING_SLOTS, ServiceId};

/// A hash in the making.
#[derive(Clone, Copy)]
pub struct Hasher {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Hasher {
    /// Starts with a key.
    #[must_use]
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Takes in eight bytes, little-endian.
    #[inline(always)]
    pub const fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    /// Takes in the last 0 to 7 bytes (the rest of `tail` must be zero) and ends a message of
    /// `length` bytes in all.
    #[must_use]
    #[inline(always)]
    pub const fn finish(mut self, tail: u64, length: usize) -> Digest {
        self.word(tail | (length as u64) << 56);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        Digest(self.v0 ^ self.v1 ^ self.v2 ^ self.v3)
    }
}

/// Hashes a whole slice.
#[must_use]
pub fn digest(key: [u64; 2], bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(key);
    let words = bytes.chunks_exact(8);
    let mut tail = [0; 8];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    for word in words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        hasher.word(u64::from_le_bytes(bytes));
    }
    hasher.finish(u64::from_le_bytes(tail), bytes.len())
}

/// The hash of a Call-ID (or of another key), and everything that is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// The slot of a ring it falls into: the upper half scaled to the ring (Lemire 2019), which
    /// costs a multiplication and no division.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (((self.0 >> 32) * RING_SLOTS as u64) >> 32) as u32
    }

    /// The key of the affinity map: one Call-ID at two services is two calls.
    #[must_use]
    #[inline(always)]
    pub const fn affinity_key(self, service: ServiceId) -> AffinityKey {
        AffinityKey(self.0 ^ (service.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns the line of the recent table for this Call-ID at this service.
    #[must_use]
    #[inline(always)]
    pub const fn recent_line(self, service: ServiceId, mask: u32) -> u32 {
        self.affinity_key(service).0 as u32 & mask
    }

    /// Returns what distinguishes Call-IDs that share a line of the recent table: the other half.
    #[must_use]
    #[inline(always)]
    pub const fn fingerprint(self, service: ServiceId) -> u32 {
        (self.affinity_key(service).0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher as _;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_an_independent_siphash(key: [u64; 2], bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut other = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
            other.write(&bytes);
            prop_assert_eq!(digest(key, &bytes).0, other.finish());
        }

        #[test]
        fn a_slot_is_in_the_ring(hash: u64) {
            prop_assert!(Digest(hash).slot() < RING_SLOTS);
        }
    }

    #[test]
    fn counting_call_ids_spread_over_the_slots() {
        let key = [1, 2];
        let mut buckets = [0u32; 16];
        for n in 0..16_000 {
            let slot = digest(key, format!("{n}-4711@192.0.2.1").as_bytes()).slot();
            buckets[(slot * 16 / RING_SLOTS) as usize] += 1;
        }
        // 1,000 expected in each, standard deviation 31: six of those is never reached by chance.
        assert!(
            buckets.iter().all(|&b| (810..1_190).contains(&b)),
            "{buckets:?}"
        );
    }
}
