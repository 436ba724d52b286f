//! Frames that differ from one another, made in the kernel for the benches: one template, whose
//! Call-ID holds a number, and whose destination port goes round.
//!
//! A frame is handed to the program under test in memory that comes round again as it was left, so
//! the generator writes the head afresh each time.

use crate::csum::Delta;

/// Bytes of a template that are written afresh for each frame: more than any head it may have.
pub const HEAD: usize = 64;

/// Characters of a number in a Call-ID.
pub const NUMBER_LENGTH: usize = 8;

/// Longest frame in the generator's rotation, in bytes.
pub const FRAME_LIMIT: usize = 1_514;

/// What the generator makes frames of.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The first bytes of the frame, with the number 0 and the first port.
    pub head: [u64; HEAD / 8],
    /// Offset of the number in the frame; even, as seen from the UDP header.
    pub number_at: u32,
    /// Offset of the UDP destination port.
    pub port_at: u32,
    /// The lowest number.
    pub first_number: u32,
    /// Numbers less one; a power of two less one.
    pub number_mask: u32,
    /// Ports less one; a power of two less one.
    pub port_mask: u32,
    /// The first port, in host order.
    pub first_port: u16,
    /// The UDP checksum of the template, as it stands in it.
    pub checksum: u16,
    /// The interface frames leave by, where they leave.
    pub interface: u32,
    /// What rounds the size up; always zero.
    pub zero: u32,
}

/// What differs from frame to frame, as it goes into the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// The number's characters.
    pub number: u64,
    /// The destination port, in network byte order.
    pub port: u16,
    /// The UDP checksum.
    pub checksum: u16,
}

impl Template {
    /// The frame with this count.
    #[must_use]
    #[inline(always)]
    pub const fn fresh(&self, count: u32) -> Fresh {
        let zero = characters(0);
        let number = characters(self.first_number.wrapping_add(count & self.number_mask));
        let first = self.first_port.to_be();
        let port = (self.first_port + (count & self.port_mask) as u16).to_be();
        let delta = Delta::new()
            .double(zero as u32, number as u32)
            .double((zero >> 32) as u32, (number >> 32) as u32)
            .word(first, port);
        Fresh {
            number,
            port,
            checksum: delta.apply_udp(self.checksum),
        }
    }
}

/// A number as eight letters from `a` to `p`, one for each four bits, the lowest first: as a word for
/// a little-endian store.
#[must_use]
#[inline(always)]
pub const fn characters(number: u32) -> u64 {
    const LETTERS: u64 = u64::from_le_bytes([b'a'; 8]);
    let x = number as u64;
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    x + LETTERS
}

/// A frame of a rotation, as it is held for the generator.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its length in bytes.
    pub length: u32,
    /// Its bytes.
    pub bytes: [u8; FRAME_LIMIT + 2],
}

impl Held {
    /// A frame; `None` if it is too long, or empty.
    #[must_use]
    pub fn new(frame: &[u8]) -> Option<Self> {
        let mut bytes = [0; FRAME_LIMIT + 2];
        if frame.is_empty() || frame.len() > FRAME_LIMIT {
            return None;
        }
        bytes.get_mut(..frame.len())?.copy_from_slice(frame);
        Some(Self {
            length: frame.len() as u32,
            bytes,
        })
    }
}

const _: () = assert!(size_of::<Template>() == 96 && size_of::<Held>() == 1_520);

#[cfg(feature = "user")]
mod pod {
    use super::{Held, Template};

    // SAFETY: `repr(C)` over integers, without padding (the assert above), any bit pattern is one.
    unsafe impl aya::Pod for Template {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Held {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum;

    #[test]
    fn numbers_are_told_apart_and_legal_in_a_call_id() {
        assert_eq!(characters(0).to_le_bytes(), *b"aaaaaaaa");
        assert_eq!(characters(0xf000_0021).to_le_bytes(), *b"bcaaaaap");
    }

    #[test]
    fn checksums_follow_number_and_port() {
        let template = Template {
            head: [0; HEAD / 8],
            number_at: 0,
            port_at: 0,
            first_number: 7,
            number_mask: 0xffff_ffff,
            port_mask: 3,
            first_port: 5060,
            checksum: !csum::fold(
                csum::sum(&5060_u16.to_be_bytes()) + csum::sum(&characters(0).to_le_bytes()),
            ),
            interface: 0,
            zero: 0,
        };
        for count in [0, 1, 2, 3, 4, 0xdead_beef] {
            let fresh = template.fresh(count);
            let sum = csum::sum(&fresh.port.to_ne_bytes()) + csum::sum(&fresh.number.to_le_bytes());
            assert_eq!(csum::fold(sum + u64::from(fresh.checksum)), 0xffff);
            assert_eq!(u16::from_be(fresh.port), 5060 + (count & 3) as u16);
        }
    }

    #[test]
    fn a_frame_is_held_only_if_it_fits() {
        assert_eq!(Held::new(&[7; 60]).map(|held| held.length), Some(60));
        assert_eq!(Held::new(&[]), None);
        assert_eq!(Held::new(&[0; FRAME_LIMIT + 1]), None);
    }
}
