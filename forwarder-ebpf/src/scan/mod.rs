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

/// Bytes of a message within which the fast path must have found what it needs.
pub const SCAN_LIMIT: usize = 1_472;
/// Longest Call-ID and longest key the fast path reads, in bytes.
pub const VALUE_LIMIT: usize = 128;
/// Longest message the fast path looks into, in bytes: a jumbo frame's payload.
pub const LENGTH_LIMIT: usize = 9_216;
/// Shortest message worth a look: no SIP message with its mandatory headers is shorter.
const SHORTEST: usize = 64;
/// Lines that one scan looks at.
const LINE_LIMIT: usize = 64;
/// Steps of the line loop: each takes in a block or a line.
const STEP_LIMIT: usize = SCAN_LIMIT / 32 + LINE_LIMIT;
/// How the To-tag of a refusal by the forwarder begins; a keyed hash follows. The ACK of the refusal
/// brings it back, and the slow path absorbs it.
pub const REFUSAL_TAG: [u8; 8] = *b"sfw-503-";
/// Longest host in Via or Route the fast path reads, in bytes.
const HOST_LIMIT: usize = 64;
/// Characters it reads between a header's name and its value: the colon and blanks around it.
const GAP_LIMIT: usize = 8;
/// The port that is meant where none is written (RFC 3261 section 19.1.2).
pub const DEFAULT_PORT: u16 = 5060;

mod hosts;
mod lines;
mod start;
#[cfg(test)]
mod tests;
mod values;
mod words;

pub use hosts::{Host, HostForm};
pub use lines::Lines;
pub use words::lower_case;

use crate::{abi::Key, hash::Digest, rule::Role, source::Source, verdict::Verdict};
use hosts::{route_host, uri_has_user, via_host};
use lines::{CALL_ID, FOLDED, FOUND, HEADER_END, Headers, LINE_ENDING, ROUTE, TO, VIA, find_lines};
use start::{
    ACK, CANCEL, IN_DIALOG, OPTIONS, REGISTER, RESPONSE, STANDALONE, STARTING, Start, start_line,
};
use values::{NO_TAG, OWN_TAG, hash_call_id, to_tag, value_at};

/// What the rule must know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// What the message is.
    pub role: Role,
    /// Hash of the Call-ID.
    pub call: Digest,
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
    Ok(Scan { role, call, host })
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
    } else if start & ACK != 0 {
        1 << CALL_ID | 1 << TO | 1 << ROUTE
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
    if start & IN_DIALOG != 0 && start & ACK == 0 {
        return Ok(Role::InDialog);
    }
    if start & CANCEL != 0 {
        return Ok(Role::Follows);
    }
    let to = value_at(message, lines.at[TO], Verdict::PassedTo)?;
    let tag = message.blur(to_tag(message, to)?);
    if start & ACK != 0 {
        return if tag == OWN_TAG {
            Err(Verdict::PassedRefusalAck)
        } else {
            Ok(Role::InDialog)
        };
    }
    Ok(if tag != NO_TAG {
        Role::InDialog
    } else if start & STANDALONE != 0 {
        Role::StartsNothing
    } else {
        Role::StartsDialog
    })
}
