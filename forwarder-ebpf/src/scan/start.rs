//! The start line: what kind of message it is.

use super::words::{keep_bytes, text};

/// What the first eight bytes tell of a message: a set of the flags below. Flags and not an enum,
/// so that it can be blurred ([`Source::blur`]).
pub(super) type Start = usize;
pub(super) const RESPONSE: Start = 1;
/// A request that starts something if it has no To-tag.
pub(super) const STARTING: Start = 2;
/// With `STARTING`: a method that forms no dialog.
pub(super) const STANDALONE: Start = 4;
/// A method that only occurs inside a dialog, or belongs to one as ACK does.
pub(super) const IN_DIALOG: Start = 8;
pub(super) const CANCEL: Start = 16;
/// Its key is the service's key for REGISTER.
pub(super) const REGISTER: Start = 32;
/// It may be meant for the forwarder itself.
pub(super) const OPTIONS: Start = 64;
/// With `IN_DIALOG`: its To-tag may be one that the forwarder gave in a refusal.
pub(super) const ACK: Start = 128;

/// Reads the start line's first eight bytes, and the two behind them.
#[inline(always)]
pub(super) fn start_line(word: u64, behind: u16) -> Option<Start> {
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
    } else if is(word, b"BYE ") {
        IN_DIALOG
    } else if is(word, b"ACK ") {
        IN_DIALOG | ACK
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
