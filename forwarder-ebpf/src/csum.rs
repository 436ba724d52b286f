//! Incremental Internet checksums (RFC 1624).
//!
//! A header checksum `HC` is the complement of the ones' complement sum of the 16-bit words it
//! covers. When words `m` become `m'`, equation 3 of RFC 1624 gives the new one without reading the
//! rest: `HC' = ~(~HC + ~m + m')`. [`Delta`] gathers `~m + m'` over all words that change, once, and
//! applies it to each checksum that covers them. Ones' complement sums do not depend on byte order,
//! so words are taken as they were loaded from the packet (RFC 1071 section 2).

/// The sum of `~m + m'` over every changed 16-bit word, not yet folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// Nothing changed yet.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// With a 16-bit word changed.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// With a 32-bit word changed. Two 16-bit words fold out of it, since 2¹⁶ is 1 in this
    /// arithmetic.
    #[must_use]
    #[inline(always)]
    pub const fn double(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// With sixteen bytes changed.
    #[must_use]
    #[inline(always)]
    pub const fn address(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.double(old[0], new[0])
            .double(old[1], new[1])
            .double(old[2], new[2])
            .double(old[3], new[3])
    }

    /// The new value of a checksum that covers the changed words.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The new value of a UDP checksum. Zero means "not computed" and stays so; a sum that comes
    /// out as zero is sent as all ones (RFC 768).
    #[must_use]
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The IPv4 header checksum of a packet whose time to live is one less, as loaded little-endian: the
/// word that holds it falls by 0x0100, so the checksum rises by as much (RFC 1141).
#[must_use]
#[inline(always)]
pub const fn one_hop_less(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100_u16.to_be() as u32;
    (sum + (sum >= 0xffff) as u32) as u16
}

/// The ones' complement sum of a 64-bit accumulator in 16 bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // At most 2³³, then 2¹⁷ + 2¹⁶, then 2¹⁶ + 1, then 2¹⁶ - 1.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The sum of `bytes` as 16-bit words in native order, an odd last byte padded with zero (RFC 1071);
/// for whole packets in userspace.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let last = words
        .remainder()
        .first()
        .map_or(0, |&b| u16::from_ne_bytes([b, 0]));
    words
        .map(|w| u64::from(u16::from_ne_bytes([w[0], w[1]])))
        .sum::<u64>()
        + u64::from(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The IPv4 header of RFC 1071's folklore example, checksum 0xb861 in place.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    #[test]
    fn a_real_header_sums_to_all_ones() {
        assert_eq!(fold(sum(&HEADER)), 0xffff);
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent_and_a_zero_one_is_sent_as_ones() {
        assert_eq!(Delta::new().double(1, 2).apply_udp(0), 0);
        let all = Delta::new().word(0x1234, 0x1234).apply_udp(0xffff);
        assert_eq!(all, 0xffff);
    }

    #[test]
    fn every_sum_folds() {
        for sum in [
            u64::MAX,
            u64::MAX - 1,
            0xffff_ffff_0000_0001,
            0x1_ffff_ffff,
            0x1_0000,
        ] {
            let expected = sum % 0xffff;
            assert_eq!(u64::from(fold(sum)) % 0xffff, expected, "{sum:x}");
        }
    }

    proptest! {
        #[test]
        fn one_hop_less_equals_the_changed_word(ttl in 1_u8.., protocol: u8, checksum: u16) {
            let old = u16::from_le_bytes([ttl, protocol]);
            let new = u16::from_le_bytes([ttl - 1, protocol]);
            let expected = Delta::new().word(old, new).apply(checksum);
            let got = one_hop_less(checksum);
            // 0x0000 and 0xffff are the same number in ones' complement.
            prop_assert!(got == expected || (got ^ expected) == 0xffff, "{got:04x} {expected:04x}");
        }

        #[test]
        fn incremental_equals_full(mut bytes in proptest::collection::vec(any::<u8>(), 20..60), new: u32, at in 0usize..5) {
            let checksum = !fold(sum(&bytes));
            let at = at * 4;
            let old = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            let expected = !fold(sum(&bytes));
            let got = Delta::new().double(old, new).apply(checksum);
            // 0x0000 and 0xffff are the same number in ones' complement.
            prop_assert!(got == expected || (got ^ expected) == 0xffff, "{got:04x} {expected:04x}");
        }
    }
}
