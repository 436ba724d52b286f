//! The lines of a message: where the headers that matter begin.

use super::{
    SCAN_LIMIT, STEP_LIMIT,
    words::{beyond, each_other, is_blank, repeat, text},
};
use crate::source::Source;

/// A header that matters: its place in [`Lines`].
pub(super) type Header = usize;
pub(super) const CALL_ID: Header = 0;
pub(super) const TO: Header = 1;
pub(super) const VIA: Header = 2;
pub(super) const ROUTE: Header = 3;
/// Headers that matter.
pub(super) const HEADERS: usize = 4;

/// A set of headers: bit `1 << header` for each.
pub(super) type Headers = usize;
pub(super) const ALL: Headers = (1 << HEADERS) - 1;

/// The work space of a scan: where the headers that matter begin. The caller keeps it, because the
/// kernel's stack is small. What it holds before a scan does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    /// Offsets behind the name of each header's first line; meaningful if it was seen.
    pub(super) at: [usize; HEADERS],
    /// Which were not seen.
    missing: Headers,
    /// Offset of the first byte behind the block that `mask` is about.
    next: usize,
    /// A bit for each line feed of the block not yet looked at.
    mask: usize,
}

impl Lines {
    /// Nothing seen yet.
    #[inline(always)]
    pub(super) fn begin<S: Source + ?Sized>(&mut self, message: &S) {
        self.missing = ALL;
        // Blurred, else both are zeroed by a call.
        self.next = message.blur(0);
        self.mask = message.blur(0);
    }

    #[inline(always)]
    pub(super) const fn has(&self, headers: Headers) -> bool {
        self.missing & headers == 0
    }
}

/// Bit `i` set if byte `i` of the four words is a line feed.
#[inline(always)]
pub(super) fn line_feeds(block: [u64; 4]) -> usize {
    /// Each flag bit of a word gathered into one byte by a multiplication.
    const fn gather(word: u64) -> u64 {
        ((word >> 7) & repeat(1)).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }
    let others = [
        each_other(block[0], b'\n'),
        each_other(block[1], b'\n'),
        each_other(block[2], b'\n'),
        each_other(block[3], b'\n'),
    ];
    if others[0] & others[1] & others[2] & others[3] & repeat(0x80) == repeat(0x80) {
        return 0;
    }
    let gathered = gather(others[0])
        | gather(others[1]) << 8
        | gather(others[2]) << 16
        | gather(others[3]) << 24;
    (gathered ^ 0xffff_ffff) as usize
}

/// How one header's name is told.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Name {
    /// The name's bytes, in lower case.
    text: u64,
    /// Bit 0x20 in each byte that is a letter: set in a letter of either case it makes the lower
    /// one, and it makes that letter of nothing else.
    fold: u64,
    /// All bits of the bytes the name has.
    keep: u64,
    /// The name's length in bytes.
    length: u32,
    /// The header; meaningless if there is no name.
    header: u32,
}

impl Name {
    /// What no line is.
    const NONE: Self = Self {
        text: u64::MAX,
        fold: 0,
        keep: 0,
        length: 0,
        header: 0,
    };

    const fn new(name: &[u8], header: Header) -> Self {
        let mut fold = 0;
        let mut i = 0;
        while i < name.len() {
            if name[i].is_ascii_lowercase() {
                fold |= 0x20 << (i * 8);
            }
            i += 1;
        }
        Self {
            text: text(name),
            fold,
            keep: !(u64::MAX << (name.len() * 8)),
            length: name.len() as u32,
            header: header as u32,
        }
    }
}

/// The first letters of names that matter, by their low five bits.
pub(super) const LETTERS: u64 =
    1 << (b'c' & 31) | 1 << (b'i' & 31) | 1 << (b't' & 31) | 1 << (b'v' & 31) | 1 << (b'r' & 31);

/// Names by their first letter's low five bits; compact names (RFC 3261 section 7.3.3) 32 further on.
pub(super) static NAMES: [Name; 64] = {
    let mut names = [Name::NONE; 64];
    names[(b'c' & 31) as usize] = Name::new(b"call-id", CALL_ID);
    names[(b'i' & 31 | 32) as usize] = Name::new(b"i", CALL_ID);
    names[(b't' & 31) as usize] = Name::new(b"to", TO);
    names[(b't' & 31 | 32) as usize] = Name::new(b"t", TO);
    names[(b'v' & 31) as usize] = Name::new(b"via", VIA);
    names[(b'v' & 31 | 32) as usize] = Name::new(b"v", VIA);
    names[(b'r' & 31) as usize] = Name::new(b"route", ROUTE);
    names
};

/// 1 if the lowest byte of `word` may follow a header's name, else 0. Without a branch.
#[inline(always)]
pub(super) const fn ends_name(word: u64) -> u64 {
    const ENDS: u64 = 1 << b':' | 1 << b' ' | 1 << b'\t';
    let below_64 = ((word >> 6 & 3).wrapping_sub(1)) >> 63;
    ENDS >> (word & 63) & below_64
}

/// How a search for lines ended. Numbers and not a `Result`: a function of its own can return but
/// one register in BPF.
pub(super) type Found = usize;
/// Everything required is seen.
pub(super) const FOUND: Found = 0;
/// The headers have ended.
pub(super) const HEADER_END: Found = 1;
/// A line ends in other than CR LF.
pub(super) const LINE_ENDING: Found = 2;
/// A header is folded.
pub(super) const FOLDED: Found = 3;
/// Something lies too far behind, or the message ends early.
pub(super) const LIMIT: Found = 4;

/// Walks over lines until everything required is seen, or the headers end.
///
/// A function of its own, so that it has all registers to itself and stands in the program once.
#[inline(never)]
pub(super) fn find_lines<S: Source + ?Sized>(
    message: &S,
    lines: &mut Lines,
    required: Headers,
) -> Found {
    let mut next = lines.next;
    let mut mask = lines.mask;
    let mut steps = 0;
    loop {
        // Counted at the head: a count at the end would fall through to the head, which Linux 6.1 refuses
        // as a loop that is closed by no jump (`back-edge from insn`, 6.1.192, 2026-11).
        steps += 1;
        if steps > STEP_LIMIT {
            return LIMIT;
        }
        if mask == 0 {
            if next >= SCAN_LIMIT || next >= message.len() {
                return LIMIT;
            }
            // The last block of a message overlaps the one before it.
            let over = beyond(message, next + 32);
            let Some(block) = message.block_at(next - over) else {
                return LIMIT;
            };
            let seen = over as u32 & 31;
            mask = message.blur(line_feeds(block) >> seen << seen);
            next = message.blur(next + 32 - over);
            // Back to the loop's head, where all ways meet for the verifier.
            continue;
        }
        let feed = (next + (mask as u64).trailing_zeros() as usize).wrapping_sub(32);
        mask = message.blur(mask & (mask - 1));
        let Some((before, word)) = message.around(feed) else {
            return end_of_message(message, feed);
        };
        if before != b'\r' {
            return LINE_ENDING;
        }
        if is_blank(word as u8) {
            return FOLDED;
        }
        if word as u16 == u16::from_le_bytes(*b"\r\n") {
            return HEADER_END;
        }
        let first = word & 31;
        if LETTERS >> first & 1 == 0 {
            continue;
        }
        // A letter has 0x40; what may follow a compact name has not.
        let name = &NAMES[(first | (!word >> 9 & 32)) as usize];
        if (word | name.fold) & name.keep != name.text
            || ends_name(word >> ((name.length * 8) & 63)) == 0
        {
            continue;
        }
        let header = name.header as usize % HEADERS;
        let missing = lines.missing;
        if missing >> header & 1 == 0 {
            continue;
        }
        lines.at[header] = feed + 1 + name.length as usize;
        let missing = message.blur(missing & !(1 << header));
        lines.missing = missing;
        if missing & required == 0 {
            lines.next = next;
            lines.mask = mask;
            return FOUND;
        }
    }
}

/// What a line feed near the end of the message means: nothing but an empty line may follow.
#[inline(always)]
pub(super) fn end_of_message<S: Source + ?Sized>(message: &S, feed: usize) -> Found {
    if message.u32_at(feed.wrapping_sub(1)) == Some(u32::from_le_bytes(*b"\r\n\r\n")) {
        HEADER_END
    } else {
        LIMIT
    }
}
