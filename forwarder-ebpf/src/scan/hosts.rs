//! Hosts as Via and Route name them.

use super::{
    DEFAULT_PORT, HOST_LIMIT, VALUE_LIMIT,
    values::{skip_blanks, value_at},
    words::{
        bytes_below, first_flag, keep_bytes, lower_case, lowest, repeat, text, word_at, zero_bytes,
    },
};
use crate::{
    abi::SentByKey,
    hash::{Digest, Hasher},
    source::Source,
    verdict::Verdict,
};

/// Hashes the host at `start` and reads the port behind it.
#[inline(always)]
pub(super) fn host_and_port<S: Source + ?Sized>(
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
pub(super) fn finish(mut hasher: Hasher, word: u64, last: usize, length: usize) -> Digest {
    if last >= 8 {
        hasher.word(word);
        return hasher.finish(0, length);
    }
    hasher.finish(keep_bytes(word, last), length)
}

/// Flags where a host ends: at `]` if it is bracketed, else at `:`, `;`, `>`, `,`, `?`, `@` or
/// anything up to a blank. Exact up to the first.
#[inline(always)]
pub(super) fn host_ends(word: u64, bracket: usize) -> u64 {
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

/// The port written at `at`, or the default if there is none.
#[inline(always)]
pub(super) fn port_at<S: Source + ?Sized>(
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
pub(super) const fn ends_sent_by(byte: u8) -> bool {
    matches!(byte, b';' | b',')
}

/// May `byte` follow the host and port of a URI in angle brackets?
#[inline(always)]
pub(super) const fn ends_uri_host(byte: u8) -> bool {
    matches!(byte, b';' | b'>' | b'?')
}

/// The sent-by of a Via.
#[inline(always)]
pub(super) fn via_host<S: Source + ?Sized>(
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
pub(super) fn route_host<S: Source + ?Sized>(
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
pub(super) fn may_have_user<S: Source + ?Sized>(message: &S, mut at: usize) -> bool {
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
pub(super) fn uri_has_user<S: Source + ?Sized>(message: &S) -> bool {
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
    pub(super) const ABSENT: Self = Self {
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
