//! Eight bytes at a step: masks over words, and words out of a message.

use crate::source::Source;

pub(super) const fn repeat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// A flag (0x80) in each byte of `word` that is zero. Exact up to and including the first flag; the
/// carry may falsify flags above it, so only the lowest may be trusted.
#[inline(always)]
pub(super) const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(repeat(1)) & !word & repeat(0x80)
}

/// A flag in each byte of `word` that is `byte` (below 0x80), all of them exact.
#[inline(always)]
pub(super) const fn each(word: u64, byte: u8) -> u64 {
    !each_other(word, byte) & repeat(0x80)
}

/// A flag in each byte of `word` that is not `byte` (below 0x80), all of them exact. The other bits
/// mean nothing.
#[inline(always)]
pub(super) const fn each_other(word: u64, byte: u8) -> u64 {
    (((word & repeat(0x7f)) ^ repeat(byte)) + repeat(0x7f)) | word
}

/// A flag in each byte of `word` below `limit` (at most 0x80), exact up to the first.
#[inline(always)]
pub(super) const fn bytes_below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(repeat(limit)) & !word & repeat(0x80)
}

/// Index of the byte that holds the lowest flag of a mask that is not zero.
#[inline(always)]
pub(super) const fn first_flag(mask: u64) -> usize {
    // Below the flag of byte i lie the lowest bits of bytes 0 to i.
    let below = mask.wrapping_sub(1) & !mask & repeat(1);
    (below.wrapping_mul(repeat(1)) >> 56) as usize - 1
}

/// `word` with everything from byte `count` (0 to 7) on zeroed.
#[inline(always)]
pub(super) const fn keep_bytes(word: u64, count: usize) -> u64 {
    word & !(u64::MAX << ((count as u32 * 8) & 63))
}

/// ASCII upper-case letters of `word` turned to lower case.
#[inline(always)]
#[must_use]
pub const fn lower_case(word: u64) -> u64 {
    // Per byte, with the top bit out of the way: ≥ 'A' and not > 'Z'.
    let low = word & repeat(0x7f);
    let from_a = low + repeat(0x80 - b'A');
    let after_z = low + repeat(0x80 - b'Z' - 1);
    let upper = from_a & !after_z & !word & repeat(0x80);
    word | upper >> 2
}

pub(super) const fn text(bytes: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < bytes.len() {
        word |= (bytes[i] as u64) << (i * 8);
        i += 1;
    }
    word
}

/// Is `byte` a blank (SP or HT)?
#[inline(always)]
pub(super) const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// How many bytes `end` lies behind the end of the message; 0 if it does not. Without a branch: the
/// verifier would go on separately for either side.
#[inline(always)]
pub(super) fn beyond<S: Source + ?Sized>(message: &S, end: usize) -> usize {
    let over = end.wrapping_sub(message.len());
    let sign = message.blur((over as isize >> (isize::BITS - 1)) as usize);
    over & !sign
}

/// Eight bytes at `at`, zeroes where the message has ended. The message must be eight bytes long.
#[inline(always)]
pub(super) fn word_at<S: Source + ?Sized>(message: &S, at: usize) -> Option<u64> {
    // Near the end, the message's last eight bytes, the ones before `at` shifted out.
    let over = beyond(message, at + 8);
    if over > 7 {
        return None;
    }
    Some(message.u64_at(at - over)? >> ((over as u32 * 8) & 63))
}

/// Index of the byte that holds the highest flag of a mask that is not zero.
#[inline(always)]
pub(super) const fn last_flag(mask: u64) -> usize {
    // Smear the flags downwards; then every byte up to the highest flag has its lowest bit set.
    let mut m = mask;
    m |= m >> 8;
    m |= m >> 16;
    m |= m >> 32;
    (((m >> 7) & repeat(1)).wrapping_mul(repeat(1)) >> 56) as usize - 1
}

/// Both masks' flags. The lowest flag of the union is the lower of the two lowest, and exact.
#[inline(always)]
pub(super) const fn lowest(a: u64, b: u64) -> u64 {
    a | b
}
