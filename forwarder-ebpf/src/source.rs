//! Where bytes come from: a slice on the host, `data..data_end` in the kernel.

/// Bytes that can be loaded at an offset, checked. Loads are little-endian whatever the host, so
/// that the scanner's masks mean the same everywhere.
pub trait Source {
    /// Number of bytes.
    fn len(&self) -> usize;

    /// Is there nothing?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes of the whole, of which more may not be readable.
    #[inline(always)]
    fn whole_length(&self) -> usize {
        self.len()
    }

    /// The byte at `offset`, if it is there.
    fn u8_at(&self, offset: usize) -> Option<u8>;

    /// Two bytes at `offset`, if they are all there.
    fn u16_at(&self, offset: usize) -> Option<u16>;

    /// Four bytes at `offset`, if they are all there.
    fn u32_at(&self, offset: usize) -> Option<u32>;

    /// Eight bytes at `offset`, if they are all there.
    fn u64_at(&self, offset: usize) -> Option<u64>;

    /// Thirty-two bytes at `offset`, if they are all there.
    fn block_at(&self, offset: usize) -> Option<[u64; 4]>;

    /// The byte before `offset` and the eight bytes behind the one there, if they are all there.
    fn around(&self, offset: usize) -> Option<(u8, u64)> {
        let before = self.u8_at(offset.wrapping_sub(1))?;
        Some((before, self.u64_at(offset.wrapping_add(1))?))
    }

    /// The same number, of which nothing is known any more.
    ///
    /// The BPF verifier follows every way through a program with all it knows of every number, and
    /// stops where it has been with the same knowledge. Numbers that came about in different ways
    /// make it verify all that follows again for each; blurred, they are one. On the host this does
    /// nothing.
    #[inline(always)]
    fn blur(&self, number: usize) -> usize {
        number
    }
}

/// The slice from `offset` of `N` bytes.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

impl Source for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn u8_at(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn u16_at(&self, offset: usize) -> Option<u16> {
        array_at(self, offset).map(u16::from_le_bytes)
    }

    fn u32_at(&self, offset: usize) -> Option<u32> {
        array_at(self, offset).map(u32::from_le_bytes)
    }

    fn u64_at(&self, offset: usize) -> Option<u64> {
        array_at(self, offset).map(u64::from_le_bytes)
    }

    fn block_at(&self, offset: usize) -> Option<[u64; 4]> {
        Some([
            self.u64_at(offset)?,
            self.u64_at(offset + 8)?,
            self.u64_at(offset + 16)?,
            self.u64_at(offset + 24)?,
        ])
    }
}
