//! The bounded SIP scan: what the rule must know of a message, found without reading more than it
//! takes, eight and thirty-two bytes at a step.
//!
//! The scan never guesses. Whatever is unusual ends it with a `Passed…` verdict, and the slow path
//! reads the message in full. Where it does answer, the answer is that of the full reader; tests and
//! fuzzing hold the two together.
//!
//! Lines are found in blocks of 32 bytes: a byte of `w ^ 0x0a…` is zero where `w` holds a line feed,
//! and the classic zero-byte mask turns that into a flag bit. The eight bytes after each line feed
//! tell whether the line is a header that matters. Header values are then read once each.

use crate::abi::{Key, SentByKey};
use crate::hash::{Digest, Hasher};
use crate::rule::Role;
use crate::source::Source;
use crate::verdict::Verdict;

/// Bytes of a message within which the fast path must have found what it needs.
pub const SCAN_LIMIT: usize = 1_472;
/// Longest Call-ID and longest key the fast path reads, in bytes.
pub const VALUE_LIMIT: usize = 128;
/// Longest message the fast path looks into, in bytes: a jumbo frame's payload.
const LENGTH_LIMIT: usize = 9_216;
/// Shortest message worth a look: no SIP message with its mandatory headers is shorter.
const SHORTEST: usize = 64;
/// Lines that one scan looks at.
const LINE_LIMIT: usize = 64;
/// Steps of the line loop: each takes in a block or a line.
const STEP_LIMIT: usize = SCAN_LIMIT / 32 + LINE_LIMIT;
/// Longest host in Via or Route the fast path reads, in bytes.
const HOST_LIMIT: usize = 64;
/// Characters it reads between a header's name and its value: the colon and blanks around it.
const GAP_LIMIT: usize = 8;
/// The port that is meant where none is written (RFC 3261 section 19.1.2).
pub const DEFAULT_PORT: u16 = 5060;

const fn repeat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// A flag (0x80) in each byte of `word` that is zero. Exact up to and including the first flag; the
/// carry may falsify flags above it, so only the lowest may be trusted.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(repeat(1)) & !word & repeat(0x80)
}

/// A flag in each byte of `word` that is `byte` (below 0x80), all of them exact.
#[inline(always)]
const fn each(word: u64, byte: u8) -> u64 {
    !each_other(word, byte) & repeat(0x80)
}

/// A flag in each byte of `word` that is not `byte` (below 0x80), all of them exact. The other bits
/// mean nothing.
#[inline(always)]
const fn each_other(word: u64, byte: u8) -> u64 {
    (((word & repeat(0x7f)) ^ repeat(byte)) + repeat(0x7f)) | word
}

/// A flag in each byte of `word` below `limit` (at most 0x80), exact up to the first.
#[inline(always)]
const fn bytes_below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(repeat(limit)) & !word & repeat(0x80)
}

/// Index of the byte that holds the lowest flag of a mask that is not zero.
#[inline(always)]
const fn first_flag(mask: u64) -> usize {
    // Below the flag of byte i lie the lowest bits of bytes 0 to i.
    let below = mask.wrapping_sub(1) & !mask & repeat(1);
    (below.wrapping_mul(repeat(1)) >> 56) as usize - 1
}

/// `word` with everything from byte `count` (0 to 7) on zeroed.
#[inline(always)]
const fn keep_bytes(word: u64, count: usize) -> u64 {
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

const fn text(bytes: &[u8]) -> u64 {
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
const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// How many bytes `end` lies behind the end of the message; 0 if it does not. Without a branch: the
/// verifier would go on separately for either side.
#[inline(always)]
fn beyond<S: Source + ?Sized>(message: &S, end: usize) -> usize {
    let over = end.wrapping_sub(message.len());
    let sign = message.blur((over as isize >> (isize::BITS - 1)) as usize);
    over & !sign
}

/// Eight bytes at `at`, zeroes where the message has ended. The message must be eight bytes long.
#[inline(always)]
fn word_at<S: Source + ?Sized>(message: &S, at: usize) -> Option<u64> {
    // Near the end, the message's last eight bytes, the ones before `at` shifted out.
    let over = beyond(message, at + 8);
    if over > 7 {
        return None;
    }
    Some(message.u64_at(at - over)? >> ((over as u32 * 8) & 63))
}

/// What the first eight bytes tell of a message: a set of the flags below. Flags and not an enum,
/// so that it can be blurred ([`Source::blur`]).
type Start = usize;
const RESPONSE: Start = 1;
/// A request that starts something if it has no To-tag.
const STARTING: Start = 2;
/// With `STARTING`: a method that forms no dialog.
const STANDALONE: Start = 4;
/// A method that only occurs inside a dialog, or belongs to one as ACK does.
const IN_DIALOG: Start = 8;
const CANCEL: Start = 16;
/// Its key is the service's key for REGISTER.
const REGISTER: Start = 32;
/// It may be meant for the forwarder itself.
const OPTIONS: Start = 64;

/// Reads the start line's first eight bytes, and the two behind them.
#[inline(always)]
fn start_line(word: u64, behind: u16) -> Option<Start> {
    const fn is(word: u64, name: &[u8]) -> bool {
        let kept = if name.len() == 8 {
            word
        } else {
            keep_bytes(word, name.len())
        };
        kept == text(name)
    }
    Some(if is(word, b"SIP/2.0 ") {
        RESPONSE
    } else if is(word, b"INVITE ") {
        STARTING
    } else if is(word, b"ACK ") || is(word, b"BYE ") {
        IN_DIALOG
    } else if is(word, b"REGISTER") && behind as u8 == b' ' {
        STARTING | STANDALONE | REGISTER
    } else if is(word, b"CANCEL ") {
        CANCEL
    } else if is(word, b"OPTIONS ") {
        STARTING | STANDALONE | OPTIONS
    } else if is(word, b"PRACK ") || is(word, b"UPDATE ") || is(word, b"INFO ") {
        IN_DIALOG
    } else if is(word, b"REFER ")
        || is(word, b"NOTIFY ")
        || is(word, b"SUBSCRIB") && behind == u16::from_le_bytes(*b"E ")
    {
        STARTING
    } else if is(word, b"MESSAGE ") || is(word, b"PUBLISH ") {
        STARTING | STANDALONE
    } else {
        return None;
    })
}

/// A header that matters: its place in [`Lines`].
type Header = usize;
const CALL_ID: Header = 0;
const TO: Header = 1;
const VIA: Header = 2;
const ROUTE: Header = 3;
/// Headers that matter.
const HEADERS: usize = 4;

/// A set of headers: bit `1 << header` for each.
type Headers = usize;
const ALL: Headers = (1 << HEADERS) - 1;

/// The work space of a scan: where the headers that matter begin. The caller keeps it, because the
/// kernel's stack is small. What it holds before a scan does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    /// Offsets behind the name of each header's first line; meaningful if it was seen.
    at: [usize; HEADERS],
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
    fn begin<S: Source + ?Sized>(&mut self, message: &S) {
        self.missing = ALL;
        // Blurred, else both are zeroed by a call.
        self.next = message.blur(0);
        self.mask = message.blur(0);
    }

    #[inline(always)]
    const fn has(&self, headers: Headers) -> bool {
        self.missing & headers == 0
    }
}

/// Bit `i` set if byte `i` of the four words is a line feed.
#[inline(always)]
fn line_feeds(block: [u64; 4]) -> usize {
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
struct Name {
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
const LETTERS: u64 =
    1 << (b'c' & 31) | 1 << (b'i' & 31) | 1 << (b't' & 31) | 1 << (b'v' & 31) | 1 << (b'r' & 31);

/// Names by their first letter's low five bits; compact names (RFC 3261 section 7.3.3) 32 further on.
static NAMES: [Name; 64] = {
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
const fn ends_name(word: u64) -> u64 {
    const ENDS: u64 = 1 << b':' | 1 << b' ' | 1 << b'\t';
    let below_64 = ((word >> 6 & 3).wrapping_sub(1)) >> 63;
    ENDS >> (word & 63) & below_64
}

/// How a search for lines ended. Numbers and not a `Result`: a function of its own can return but
/// one register in BPF.
type Found = usize;
/// Everything required is seen.
const FOUND: Found = 0;
/// The headers have ended.
const HEADER_END: Found = 1;
/// A line ends in other than CR LF.
const LINE_ENDING: Found = 2;
/// A header is folded.
const FOLDED: Found = 3;
/// Something lies too far behind, or the message ends early.
const LIMIT: Found = 4;

/// Walks over lines until everything required is seen, or the headers end.
///
/// A function of its own, so that it has all registers to itself and stands in the program once.
#[inline(never)]
fn find_lines<S: Source + ?Sized>(message: &S, lines: &mut Lines, required: Headers) -> Found {
    let mut next = lines.next;
    let mut mask = lines.mask;
    for _ in 0..STEP_LIMIT {
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
    LIMIT
}

/// What a line feed near the end of the message means: nothing but an empty line may follow.
#[inline(always)]
fn end_of_message<S: Source + ?Sized>(message: &S, feed: usize) -> Found {
    if message.u32_at(feed.wrapping_sub(1)) == Some(u32::from_le_bytes(*b"\r\n\r\n")) {
        HEADER_END
    } else {
        LIMIT
    }
}

/// Offset of a header's value: behind the colon and the blanks around it. `behind` is the offset
/// behind the header's name.
#[inline(always)]
fn value_at<S: Source + ?Sized>(
    message: &S,
    behind: usize,
    odd: Verdict,
) -> Result<usize, Verdict> {
    let mut at = message.blur(behind);
    // Nearly always a colon, a blank and the value.
    let start = message.u32_at(at).ok_or(odd)?;
    if start as u16 == u16::from_le_bytes(*b": ") && !is_blank((start >> 16) as u8) {
        return Ok(message.blur(at + 2));
    }
    let mut colon = message.blur(0);
    for _ in 0..=GAP_LIMIT {
        let byte = message.u8_at(at).ok_or(odd)?;
        if byte == b':' && colon == 0 {
            colon = message.blur(1);
        } else if !is_blank(byte) {
            return if colon == 0 {
                Err(odd)
            } else {
                Ok(message.blur(at))
            };
        }
        at = message.blur(at + 1);
    }
    Err(odd)
}

/// Offset of the first byte from `at` on that is no blank.
#[inline(always)]
fn skip_blanks<S: Source + ?Sized>(
    message: &S,
    mut at: usize,
    odd: Verdict,
) -> Result<usize, Verdict> {
    for _ in 0..=GAP_LIMIT {
        if !is_blank(message.u8_at(at).ok_or(odd)?) {
            return Ok(message.blur(at));
        }
        at = message.blur(at + 1);
    }
    Err(odd)
}

/// Does a header end at `at`, and not go on in the next line?
#[inline(always)]
fn header_ends<S: Source + ?Sized>(message: &S, at: usize) -> bool {
    // Behind the last header there is an empty line, so there are always four bytes.
    message.u32_at(at).is_some_and(|end| {
        end as u16 == u16::from_le_bytes(*b"\r\n") && !is_blank((end >> 16) as u8)
    })
}

/// Hashes a Call-ID: everything up to the end of the line, which may hold no blank.
#[inline(always)]
fn hash_call_id<S: Source + ?Sized>(
    message: &S,
    start: usize,
    hash_key: [u64; 2],
) -> Result<Digest, Verdict> {
    const ODD: Verdict = Verdict::PassedCallId;
    let mut hasher = Hasher::new(hash_key);
    let mut at = start;
    for _ in 0..VALUE_LIMIT / 8 {
        let word = word_at(message, at).ok_or(ODD)?;
        let end = bytes_below(word, b' ' + 1);
        if end == 0 {
            hasher.word(word);
            at = message.blur(at + 8);
            continue;
        }
        let rest = message.blur(first_flag(end));
        let length = message.blur(at + rest - start);
        if length == 0 || !header_ends(message, at + rest) {
            return Err(ODD);
        }
        return Ok(hasher.finish(keep_bytes(word, rest), length));
    }
    Err(ODD)
}

/// Does a To header carry a tag?
///
/// Parameters of the header itself stand behind the last `>`, or behind the first `;` where the
/// address has no brackets (RFC 3261 section 20). Only two things are sure enough: nothing there, or
/// a tag as the first parameter.
#[inline(always)]
fn has_to_tag<S: Source + ?Sized>(message: &S, start: usize) -> Result<bool, Verdict> {
    const ODD: Verdict = Verdict::PassedTo;
    let mut at = start;
    let mut parameters = message.blur(0);
    for _ in 0..VALUE_LIMIT * 2 / 8 {
        let word = word_at(message, at).ok_or(ODD)?;
        let line_end = bytes_below(word, b' ');
        let kept = if line_end == 0 {
            word
        } else {
            keep_bytes(word, first_flag(line_end))
        };
        // A bracket may stand in quotes; then a quote follows it.
        let mark = each(kept, b'>') | each(kept, b'"');
        if mark != 0 {
            parameters = at + last_flag(mark) + 1;
        }
        if line_end != 0 {
            let end = at + first_flag(line_end);
            return tag_follows(message, message.blur(parameters), message.blur(end));
        }
        parameters = message.blur(parameters);
        at = message.blur(at + 8);
    }
    Err(ODD)
}

/// Index of the byte that holds the highest flag of a mask that is not zero.
#[inline(always)]
const fn last_flag(mask: u64) -> usize {
    // Smear the flags downwards; then every byte up to the highest flag has its lowest bit set.
    let mut m = mask;
    m |= m >> 8;
    m |= m >> 16;
    m |= m >> 32;
    (((m >> 7) & repeat(1)).wrapping_mul(repeat(1)) >> 56) as usize - 1
}

/// Tells whether what lies between the address and the end of the line is nothing, or a tag.
#[inline(always)]
fn tag_follows<S: Source + ?Sized>(
    message: &S,
    parameters: usize,
    end: usize,
) -> Result<bool, Verdict> {
    const ODD: Verdict = Verdict::PassedTo;
    if message.u8_at(parameters.wrapping_sub(1)) != Some(b'>') || !header_ends(message, end) {
        return Err(ODD);
    }
    if parameters == end {
        return Ok(false);
    }
    let word = word_at(message, parameters).ok_or(ODD)?;
    let value = (word >> 40) as u8;
    if (word | 0x2020_2000) & 0xff_ffff_ffff == text(b";tag=") && value > b' ' && value != b';' {
        return Ok(true);
    }
    Err(ODD)
}

/// Hashes the host at `start` and reads the port behind it.
#[inline(always)]
fn host_and_port<S: Source + ?Sized>(
    message: &S,
    start: usize,
    hash_key: [u64; 2],
    odd: Verdict,
    may_follow: impl Fn(u8) -> bool,
) -> Result<Host, Verdict> {
    let bracket = message.blur(usize::from(message.u8_at(start) == Some(b'[')));
    let mut hasher = Hasher::new(hash_key);
    let mut at = message.blur(start);
    for _ in 0..HOST_LIMIT / 8 {
        let word = word_at(message, at).ok_or(odd)?;
        let ends = host_ends(word, bracket);
        if ends == 0 {
            hasher.word(lower_case(word));
            at = message.blur(at + 8);
            continue;
        }
        // A closing bracket belongs to its host.
        let last = message.blur(first_flag(ends) + bracket);
        let length = message.blur(at + last - start);
        if length <= bracket || bracket != 0 && message.u8_at(start + length - 1) != Some(b']') {
            return Err(odd);
        }
        let digest = finish(hasher, lower_case(word), last, length);
        let port = port_at(message, message.blur(start + length), odd, may_follow)?;
        let form = if bracket != 0 {
            HostForm::Ipv6
        } else {
            HostForm::Plain
        };
        return Ok(Host {
            key: SentByKey::new(digest.0, port),
            form,
        });
    }
    Err(odd)
}

/// Ends a hash with the first `last` bytes of `word`, 0 to 8.
#[inline(always)]
fn finish(mut hasher: Hasher, word: u64, last: usize, length: usize) -> Digest {
    if last >= 8 {
        hasher.word(word);
        return hasher.finish(0, length);
    }
    hasher.finish(keep_bytes(word, last), length)
}

/// Flags where a host ends: at `]` if it is bracketed, else at `:`, `;`, `>`, `,`, `?`, `@` or
/// anything up to a blank. Exact up to the first.
#[inline(always)]
fn host_ends(word: u64, bracket: usize) -> u64 {
    if bracket != 0 {
        return lowest(
            lowest(
                zero_bytes(word ^ repeat(b']')),
                zero_bytes(word ^ repeat(b'>')),
            ),
            bytes_below(word, b' ' + 1),
        );
    }
    // ':' ';' are 0x3a and 0x3b; '>' '?' are 0x3e and 0x3f; '@' is 0x40.
    lowest(
        lowest(
            zero_bytes(word & repeat(0xfe) ^ repeat(b':')),
            zero_bytes(word & repeat(0xfe) ^ repeat(b'>')),
        ),
        lowest(
            lowest(
                zero_bytes(word ^ repeat(b'@')),
                zero_bytes(word ^ repeat(b',')),
            ),
            bytes_below(word, b' ' + 1),
        ),
    )
}

/// Both masks' flags. The lowest flag of the union is the lower of the two lowest, and exact.
#[inline(always)]
const fn lowest(a: u64, b: u64) -> u64 {
    a | b
}

/// The port written at `at`, or the default if there is none.
#[inline(always)]
fn port_at<S: Source + ?Sized>(
    message: &S,
    at: usize,
    odd: Verdict,
    may_follow: impl Fn(u8) -> bool,
) -> Result<u16, Verdict> {
    let word = word_at(message, at).ok_or(odd)?;
    if word as u8 != b':' {
        return if may_follow(word as u8) {
            Ok(DEFAULT_PORT)
        } else {
            Err(odd)
        };
    }
    // One to five digits; the byte behind them is looked at as a sixth.
    let mut port = message.blur(0);
    for i in 1..=6u32 {
        let byte = (word >> (i * 8)) as u8;
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            port = message.blur(port * 10 + usize::from(digit));
            continue;
        }
        if port == 0 || port > 0xffff || !may_follow(byte) {
            return Err(odd);
        }
        return Ok(message.blur(port) as u16);
    }
    Err(odd)
}

/// May `byte` follow the sent-by of a Via? A blank may not, nor the end of the line, which may be
/// folded: a colon and a port may stand behind either.
#[inline(always)]
const fn ends_sent_by(byte: u8) -> bool {
    matches!(byte, b';' | b',')
}

/// May `byte` follow the host and port of a URI in angle brackets?
#[inline(always)]
const fn ends_uri_host(byte: u8) -> bool {
    matches!(byte, b';' | b'>' | b'?')
}

/// The sent-by of a Via.
#[inline(always)]
fn via_host<S: Source + ?Sized>(
    message: &S,
    behind: usize,
    hash_key: [u64; 2],
) -> Result<Host, Verdict> {
    const ODD: Verdict = Verdict::PassedVia;
    let at = value_at(message, behind, ODD)?;
    if word_at(message, at).ok_or(ODD)? != text(b"SIP/2.0/") {
        return Err(ODD);
    }
    let transport = word_at(message, at + 8).ok_or(ODD)?;
    if transport & 0xffff_ffff != text(b"UDP ") {
        return Err(ODD);
    }
    let host = skip_blanks(message, at + 12, ODD)?;
    host_and_port(message, host, hash_key, ODD, ends_sent_by)
}

/// The host of a Route's URI.
#[inline(always)]
fn route_host<S: Source + ?Sized>(
    message: &S,
    behind: usize,
    hash_key: [u64; 2],
) -> Result<Host, Verdict> {
    const ODD: Verdict = Verdict::PassedRoute;
    let at = value_at(message, behind, ODD)?;
    let word = word_at(message, at).ok_or(ODD)?;
    if (word | 0x2020_2000) & 0xff_ffff_ffff != text(b"<sip:") {
        return Err(ODD);
    }
    if may_have_user(message, at + 5) {
        return Err(ODD);
    }
    host_and_port(message, at + 5, hash_key, ODD, ends_uri_host)
}

/// May the URI at `at` have a user part? Surely not if its closing bracket comes before any '@'. A
/// user part may hold `;`, `?` and `:`, all that ends a host.
#[inline(always)]
fn may_have_user<S: Source + ?Sized>(message: &S, mut at: usize) -> bool {
    for _ in 0..VALUE_LIMIT / 8 {
        let Some(word) = word_at(message, at) else {
            return true;
        };
        let close = zero_bytes(word ^ repeat(b'>'));
        let other = lowest(zero_bytes(word ^ repeat(b'@')), bytes_below(word, b' ' + 1));
        if close | other != 0 {
            return close == 0 || other != 0 && first_flag(other) < first_flag(close);
        }
        at = message.blur(at + 8);
    }
    true
}

/// Has the Request-URI of an OPTIONS a user part? Only then it is surely not for the forwarder.
#[inline(always)]
fn uri_has_user<S: Source + ?Sized>(message: &S) -> bool {
    let mut at = message.blur(8);
    for _ in 0..8 {
        let Some(word) = message.u64_at(at) else {
            return false;
        };
        let user = zero_bytes(word ^ repeat(b'@'));
        let end = bytes_below(word, b' ' + 1);
        if user | end != 0 {
            return user != 0 && (end == 0 || first_flag(user) < first_flag(end));
        }
        at += 8;
    }
    false
}

/// A host as it stands in Via or Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// What to look it up by.
    pub key: SentByKey,
    /// What is written there.
    pub form: HostForm,
}

impl Host {
    /// Nothing that matters is written.
    const ABSENT: Self = Self {
        key: SentByKey::new(0, 0),
        form: HostForm::Absent,
    };
}

/// What a host is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostForm {
    /// There is none, or none that matters.
    Absent,
    /// An IPv4 address or a name.
    Plain,
    /// An IPv6 address. One has many spellings, so not finding it proves nothing.
    Ipv6,
}

/// What the rule must know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// What the message is.
    pub role: Role,
    /// Hash of the Call-ID.
    pub call: Digest,
    /// Hash of what a new call is spread by; that of the Call-ID unless the service says otherwise.
    pub key: Digest,
    /// Whom the top Route (requests in a dialog) or the top Via (responses) names.
    pub host: Host,
}

/// Which keys a service spreads by, and the key of the hash.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Key of the hash.
    pub hash_key: [u64; 2],
    /// What new calls are spread by.
    pub key: Key,
    /// What REGISTER requests are spread by.
    pub register_key: Key,
}

/// Scans a message.
#[inline(always)]
pub fn scan<S: Source + ?Sized>(
    message: &S,
    keys: &Keys,
    lines: &mut Lines,
) -> Result<Scan, Verdict> {
    if message.len() < SHORTEST {
        return Err(Verdict::PassedShort);
    }
    if message.len() > LENGTH_LIMIT {
        return Err(Verdict::PassedScanLimit);
    }
    let first = message.u64_at(0).ok_or(Verdict::PassedShort)?;
    let behind = message.u16_at(message.blur(8)).unwrap_or(0);
    let start = message.blur(start_line(first, behind).ok_or(Verdict::PassedStartLine)?);
    // Blurred anew for each question, so that what one answer tells is forgotten before the next.
    if message.blur(start) & OPTIONS != 0 && !uri_has_user(message) {
        return Err(Verdict::PassedForwarder);
    }
    let wanted = message.blur(wanted_headers(message.blur(start)));
    lines.begin(message);
    search(message, lines, wanted)?;
    // A Route may be missing; the rest may not.
    if !lines.has(wanted & !(1 << ROUTE)) {
        return Err(Verdict::PassedHeaderEnd);
    }
    let role = role_of(message, message.blur(start), lines)?;
    if message.blur(start) & STARTING != 0 && role == Role::InDialog && !lines.has(1 << ROUTE) {
        search(message, lines, 1 << ROUTE)?;
    }
    let value = value_at(message, lines.at[CALL_ID], Verdict::PassedCallId)?;
    let call = hash_call_id(message, value, keys.hash_key)?;
    let host = match role {
        Role::Response => via_host(message, lines.at[VIA], keys.hash_key)?,
        Role::InDialog if lines.has(1 << ROUTE) => {
            route_host(message, lines.at[ROUTE], keys.hash_key)?
        }
        _ => Host::ABSENT,
    };
    let spread_by = if start & REGISTER != 0 {
        keys.register_key
    } else {
        keys.key
    };
    if role.starts() && spread_by != Key::CALL_ID {
        return Err(Verdict::PassedKey);
    }
    Ok(Scan {
        role,
        call,
        key: call,
        host,
    })
}

/// Looks for lines until everything wanted is seen or the headers end.
#[inline(always)]
fn search<S: Source + ?Sized>(
    message: &S,
    lines: &mut Lines,
    wanted: Headers,
) -> Result<(), Verdict> {
    match find_lines(message, lines, wanted) {
        FOUND | HEADER_END => Ok(()),
        LINE_ENDING => Err(Verdict::PassedLineEnding),
        FOLDED => Err(Verdict::PassedFolded),
        _ => Err(Verdict::PassedScanLimit),
    }
}

/// The headers without which nothing can be told of a message.
#[inline(always)]
const fn wanted_headers(start: Start) -> Headers {
    if start & RESPONSE != 0 {
        1 << CALL_ID | 1 << VIA
    } else if start & STARTING != 0 {
        1 << CALL_ID | 1 << TO
    } else if start & IN_DIALOG != 0 {
        1 << CALL_ID | 1 << ROUTE
    } else {
        1 << CALL_ID
    }
}

/// What the message is to the rule.
#[inline(always)]
fn role_of<S: Source + ?Sized>(message: &S, start: Start, lines: &Lines) -> Result<Role, Verdict> {
    if start & RESPONSE != 0 {
        return Ok(Role::Response);
    }
    if start & IN_DIALOG != 0 {
        return Ok(Role::InDialog);
    }
    if start & CANCEL != 0 {
        return Ok(Role::Follows);
    }
    let to = value_at(message, lines.at[TO], Verdict::PassedTo)?;
    Ok(if has_to_tag(message, to)? {
        Role::InDialog
    } else if start & STANDALONE != 0 {
        Role::StartsNothing
    } else {
        Role::StartsDialog
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest;
    use proptest::prelude::*;

    const HASH_KEY: [u64; 2] = [1, 2];
    const KEYS: Keys = Keys {
        hash_key: HASH_KEY,
        key: Key::CALL_ID,
        register_key: Key::CALL_ID,
    };

    fn scanned(message: &[u8]) -> Result<Scan, Verdict> {
        scan(message, &KEYS, &mut Lines::default())
    }

    /// A message of a start line and headers, `|` standing for the ends of lines.
    fn message(start: &str, headers: &str) -> String {
        let headers = headers.trim_end_matches('|').replace('|', "\r\n");
        format!("{start}\r\n{headers}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n")
    }

    fn plain(text: &str, port: u16) -> Host {
        Host {
            key: SentByKey::new(digest(HASH_KEY, text.as_bytes()).0, port),
            form: HostForm::Plain,
        }
    }

    fn v6(text: &str, port: u16) -> Host {
        Host {
            form: HostForm::Ipv6,
            ..plain(text, port)
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with results")]
    fn ok(role: Role, call: &str, host: Host) -> Result<Scan, Verdict> {
        let call = digest(HASH_KEY, call.as_bytes());
        Ok(Scan {
            role,
            call,
            key: call,
            host,
        })
    }

    const INVITE: &str = "INVITE sip:a@example.org SIP/2.0";
    const BYE: &str = "BYE sip:a@example.org SIP/2.0";
    const OK: &str = "SIP/2.0 200 OK";
    const VIA: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1|";

    #[test]
    fn call_ids_are_found_however_they_are_written() {
        for headers in [
            "To: <sip:b@h>|Call-ID: x@y",
            "t: <sip:b@h>|i: x@y",
            "T:<sip:b@h>|I:x@y",
            "TO  :   <sip:b@h>|cALL-iD\t:\t x@y",
            "To: <sip:b@h>|Call-ID:x@y|Call-ID: other",
            "Call-ID: x@y|Via: SIP/2.0/UDP h|From: <sip:c@h>;tag=1|To: \"a>b;tag=1\" <sip:b@h>",
            "Call-Info: z|Idle: z|Topic: z|C: z|F: z|Call-ID : x@y|T : b <sip:b@h>",
        ] {
            let got = scanned(message(INVITE, headers).as_bytes());
            assert_eq!(
                got,
                ok(Role::StartsDialog, "x@y", Host::ABSENT),
                "{headers}"
            );
        }
    }

    #[test]
    fn call_ids_of_every_length_are_read_also_at_the_end_of_the_message() {
        for length in 1..VALUE_LIMIT {
            let call = "0123456789".repeat(13)[..length].to_owned();
            let text =
                format!("{INVITE}\r\n{VIA}To: <sip:b@h>|Call-ID: {call}||").replace('|', "\r\n");
            let expected = ok(Role::StartsDialog, &call, Host::ABSENT);
            assert_eq!(scanned(text.as_bytes()), expected, "{length}");
        }
    }

    #[test]
    fn roles_follow_from_method_and_to_tag() {
        for (start, to, role) in [
            (INVITE, "<sip:b@h>", Role::StartsDialog),
            (INVITE, "b <sip:b@h>;tag=1", Role::InDialog),
            (
                INVITE,
                "\"b\" <sip:b@h;tag=x>;TAG=1;z=\"y\"x",
                Role::InDialog,
            ),
            (BYE, "<sip:b@h>", Role::InDialog),
            ("ACK sip:a@example.org SIP/2.0", "sip:b@h", Role::InDialog),
            ("PRACK sip:a@example.org SIP/2.0", "sip:b@h", Role::InDialog),
            (
                "UPDATE sip:a@example.org SIP/2.0",
                "sip:b@h",
                Role::InDialog,
            ),
            ("INFO sip:a@example.org SIP/2.0", "sip:b@h", Role::InDialog),
            (
                "CANCEL sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::Follows,
            ),
            (
                "REGISTER sip:example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsNothing,
            ),
            (
                "OPTIONS sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsNothing,
            ),
            (
                "MESSAGE sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsNothing,
            ),
            (
                "PUBLISH sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsNothing,
            ),
            (
                "SUBSCRIBE sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsDialog,
            ),
            (
                "REFER sip:a@example.org SIP/2.0",
                "<sip:b@h>",
                Role::StartsDialog,
            ),
            (
                "NOTIFY sip:a@example.org SIP/2.0",
                "<sip:b@h>;tag=2",
                Role::InDialog,
            ),
        ] {
            let text = message(start, &format!("{VIA}To: {to}|Call-ID: x"));
            let quoted_tail = to.contains("z=\"y\"");
            if quoted_tail {
                // A quote behind the last bracket might hold that bracket.
                assert_eq!(
                    scanned(text.as_bytes()),
                    Err(Verdict::PassedTo),
                    "{start} {to}"
                );
            } else {
                assert_eq!(
                    scanned(text.as_bytes()),
                    ok(role, "x", Host::ABSENT),
                    "{start} {to}"
                );
            }
        }
    }

    #[test]
    fn hosts_of_responses_come_from_the_top_via() {
        for (via, host) in [
            (
                "SIP/2.0/UDP 192.0.2.1:5070;branch=1",
                plain("192.0.2.1", 5070),
            ),
            ("SIP/2.0/UDP 192.0.2.1;branch=1", plain("192.0.2.1", 5060)),
            (
                "SIP/2.0/UDP \t Proxy.Example.ORG:1;branch=1",
                plain("proxy.example.org", 1),
            ),
            ("SIP/2.0/UDP h:65535,SIP/2.0/UDP other", plain("h", 65_535)),
            (
                "SIP/2.0/UDP [2001:DB8::1]:5070;branch=1",
                v6("[2001:db8::1]", 5070),
            ),
            ("SIP/2.0/UDP [::1];branch=1", v6("[::1]", 5060)),
        ] {
            for name in ["Via: ", "v:", "VIA :"] {
                let text = message(OK, &format!("{name}{via}|{VIA}To: <sip:b@h>|Call-ID: x"));
                assert_eq!(
                    scanned(text.as_bytes()),
                    ok(Role::Response, "x", host),
                    "{name}{via}"
                );
            }
        }
    }

    #[test]
    fn hosts_of_requests_in_a_dialog_come_from_the_top_route() {
        for (route, host) in [
            ("<sip:192.0.2.1;lr>", plain("192.0.2.1", 5060)),
            ("<SIP:Proxy:5080;lr>,<sip:other>", plain("proxy", 5080)),
            ("<sip:[2001:db8::1]:5070;lr>", v6("[2001:db8::1]", 5070)),
        ] {
            for (start, to) in [(BYE, "<sip:b@h>;tag=1"), (INVITE, "<sip:b@h>;tag=1")] {
                for headers in [
                    format!("Route: {route}|To: {to}|Call-ID: x|Route: <sip:other>"),
                    format!("To: {to}|Call-ID: x|ROUTE : {route}|Route: <sip:other>"),
                ] {
                    let got = scanned(message(start, &headers).as_bytes());
                    assert_eq!(got, ok(Role::InDialog, "x", host), "{headers}");
                }
            }
        }
    }

    #[test]
    fn what_is_unusual_is_passed() {
        use Verdict::{
            PassedCallId, PassedFolded, PassedForwarder, PassedHeaderEnd, PassedRoute,
            PassedScanLimit, PassedStartLine, PassedTo, PassedVia,
        };
        let long = format!("To: <sip:b@h>|Call-ID: {}", "x".repeat(VALUE_LIMIT + 8));
        let far = format!("{}To: <sip:b@h>|Call-ID: x", VIA.repeat(50));
        for (start, headers, verdict) in [
            (INVITE, "To: <sip:b@h>|From: <sip:c@h>", PassedHeaderEnd),
            (INVITE, "From: <sip:b@h>|Call-ID: x", PassedHeaderEnd),
            (OK, "To: <sip:b@h>|Call-ID: x", PassedHeaderEnd),
            (
                INVITE,
                "From: a|\t;tag=1|To: <sip:b@h>|Call-ID: x",
                PassedFolded,
            ),
            (INVITE, "Call-ID: x|To: <sip:b@h>|\t;tag=1", PassedTo),
            (INVITE, "To: <sip:b@h>|Call-ID: x| y", PassedCallId),
            (INVITE, "To: <sip:b@h>|Call-ID:| x", PassedCallId),
            (INVITE, "To: <sip:b@h>|Call-ID: x y", PassedCallId),
            (INVITE, "To: <sip:b@h>|Call-ID:", PassedCallId),
            (INVITE, "To: <sip:b@h>|Call-ID          : x", PassedCallId),
            (INVITE, long.as_str(), PassedCallId),
            (INVITE, far.as_str(), PassedScanLimit),
            (INVITE, "To: sip:b@h|Call-ID: x", PassedTo),
            (INVITE, "To: sip:b@h;tag=1|Call-ID: x", PassedTo),
            (INVITE, "To: <sip:b@h>;x=1;tag=1|Call-ID: x", PassedTo),
            (INVITE, "To: <sip:b@h>;x=\">;tag=1\"|Call-ID: x", PassedTo),
            (INVITE, "To: <sip:b@h>;tag=|Call-ID: x", PassedTo),
            (INVITE, "To: <sip:b@h>;tag=;y|Call-ID: x", PassedTo),
            (INVITE, "To: <sip:b@h> ;tag=1|Call-ID: x", PassedTo),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h| :5070", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h :5070;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/TCP h;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP / 2.0 / UDP h;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h:;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h:0;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h:65536;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP h:123456;b", PassedVia),
            (OK, "Call-ID: x|Via: SIP/2.0/UDP ;b", PassedVia),
            (BYE, "Call-ID: x|Route: <sip:user@h;lr>", PassedRoute),
            (BYE, "Call-ID: x|Route: <sip:user:5070@h;lr>", PassedRoute),
            (BYE, "Call-ID: x|Route: <sips:h;lr>", PassedRoute),
            (BYE, "Call-ID: x|Route: \"n\" <sip:h;lr>", PassedRoute),
            (
                "OPTIONS sip:example.org SIP/2.0",
                "To: <sip:b@h>|Call-ID: x",
                PassedForwarder,
            ),
            (
                "invite sip:a@example.org SIP/2.0",
                "To: <sip:b@h>|Call-ID: x",
                PassedStartLine,
            ),
        ] {
            let got = scanned(message(start, headers).as_bytes());
            assert_eq!(got, Err(verdict), "{start}|{headers}");
        }
        let bare = message(INVITE, "To: <sip:b@h>|Call-ID: x").replace('\r', "");
        assert_eq!(scanned(bare.as_bytes()), Err(Verdict::PassedLineEnding));
        assert_eq!(
            scanned(b"INVITE sip:a@b SIP/2.0\r\n\r\n"),
            Err(Verdict::PassedShort)
        );
    }

    #[test]
    fn a_truncated_message_is_passed_or_has_the_same_call_id() {
        for (start, headers) in [
            (
                INVITE,
                "Via: SIP/2.0/UDP h;b=1|To: <sip:b@h>|Call-ID: 0123456789abcdef@host|Subject: x",
            ),
            (
                INVITE,
                "Call-ID: 0123456789abcdef@host|To: <sip:b@h>;tag=1|Subject: x|Route: <sip:h;lr>",
            ),
            (
                OK,
                "Call-ID: 0123456789abcdef@host|Via: SIP/2.0/UDP [::1]:5070;b=1|To: <sip:b@h>",
            ),
            (
                BYE,
                "Subject: 0123456789012345678901234567890|Route: <sip:h:5070>|i: 0123456789abcdef",
            ),
        ] {
            let text = message(start, headers);
            let whole = scanned(text.as_bytes()).unwrap();
            for length in 0..text.len() {
                if let Ok(got) = scanned(&text.as_bytes()[..length]) {
                    assert_eq!(got.call, whole.call, "{start} {length}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics(start in prop_oneof![Just(INVITE), Just(BYE), Just(OK)],
            rest in proptest::collection::vec(prop_oneof![
                Just("Call-ID: "), Just("To: "), Just("Via: SIP/2.0/UDP "), Just("Route: <sip:"), Just("\r\n"),
                Just("\n"), Just(" "), Just(":"), Just(">"), Just("["), Just(";tag="), Just("x"), Just("\u{ff}0123456789"),
            ], 0..300))
        {
            let _ = scanned(format!("{start}\r\n{}", rest.concat()).as_bytes());
        }

        /// A line feed anywhere in a block is found, and nothing else is.
        #[test]
        fn line_feeds_are_all_found(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(0x8a), any::<u8>()], 32)) {
            let expected = (0..32).filter(|&i| bytes[i] == b'\n').fold(0, |mask, i| mask | 1 << i);
            prop_assert_eq!(line_feeds(bytes[..].block_at(0).unwrap()), expected);
        }
    }
}
