//! Values of headers: where they begin, the Call-ID's hash, the To-tag.

use super::{
    GAP_LIMIT, REFUSAL_TAG, VALUE_LIMIT,
    words::{bytes_below, each, first_flag, is_blank, keep_bytes, last_flag, text, word_at},
};
use crate::{
    hash::{Digest, Hasher},
    source::Source,
    verdict::Verdict,
};

/// Offset of a header's value: behind the colon and the blanks around it. `behind` is the offset
/// behind the header's name.
#[inline(always)]
pub(super) fn value_at<S: Source + ?Sized>(
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
pub(super) fn skip_blanks<S: Source + ?Sized>(
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
pub(super) fn header_ends<S: Source + ?Sized>(message: &S, at: usize) -> bool {
    // Behind the last header there is an empty line, so there are always four bytes.
    message.u32_at(at).is_some_and(|end| {
        end as u16 == u16::from_le_bytes(*b"\r\n") && !is_blank((end >> 16) as u8)
    })
}

/// Hashes a Call-ID: everything up to the end of the line, which may hold no blank.
#[inline(always)]
pub(super) fn hash_call_id<S: Source + ?Sized>(
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

/// Whether a To header carries a tag. Numbers and not an enum, so that they can be blurred.
pub(super) type Tag = usize;
/// None.
pub(super) const NO_TAG: Tag = 0;
/// One.
pub(super) const TAG: Tag = 1;
/// One that looks like the forwarder's own.
pub(super) const OWN_TAG: Tag = 2;

/// Does a To header carry a tag, and whose?
///
/// Parameters of the header itself stand behind the last `>`, or behind the first `;` where the
/// address has no brackets (RFC 3261 section 20). Only two things are sure enough: nothing there, or
/// a tag as the first parameter.
#[inline(always)]
pub(super) fn to_tag<S: Source + ?Sized>(message: &S, start: usize) -> Result<Tag, Verdict> {
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

/// Tells whether what lies between the address and the end of the line is nothing, or a tag, and whose.
#[inline(always)]
pub(super) fn tag_follows<S: Source + ?Sized>(
    message: &S,
    parameters: usize,
    end: usize,
) -> Result<Tag, Verdict> {
    const ODD: Verdict = Verdict::PassedTo;
    if message.u8_at(parameters.wrapping_sub(1)) != Some(b'>') || !header_ends(message, end) {
        return Err(ODD);
    }
    if parameters == end {
        return Ok(NO_TAG);
    }
    let word = word_at(message, parameters).ok_or(ODD)?;
    let value = (word >> 40) as u8;
    if (word | 0x2020_2000) & 0xff_ffff_ffff == text(b";tag=") && value > b' ' && value != b';' {
        // Behind `;tag=`.
        let own = word_at(message, message.blur(parameters + 5)) == Some(text(&REFUSAL_TAG));
        return Ok(message.blur(if own { OWN_TAG } else { TAG }));
    }
    Err(ODD)
}
