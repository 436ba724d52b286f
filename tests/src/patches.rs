//! What mode `proxy` changed in a message: our Via, Record-Route and Max-Forwards, `received` and `rport` in the
//! sender's Via, our own Routes; and nothing else.

use std::ops::Range;

use sip_forwarder::sip::proxy::{Patch, Piece};

/// The message as it leaves, once it is sure that only what may be changed is changed. `own` is the VIP as
/// URIs name it.
pub fn checked(original: &[u8], patch: &Patch, own: &str) -> Result<Vec<u8>, String> {
    let mut left = Vec::new();
    patch.write_to(original, &mut left);
    let mut back = Vec::new();
    let (mut at, mut out) = (0, 0);
    // Two changes may touch each other.
    let mut inserted = Vec::new();
    for piece in patch.pieces() {
        match piece {
            Piece::Inserted(range) => {
                inserted.extend_from_slice(&patch.inserted()[range.clone()]);
                out += range.len();
            }
            Piece::Original(range) => {
                if range.start < at {
                    return Err(format!("{range:?} is sent again"));
                }
                change(original, at..range.start, &inserted, own)?;
                inserted.clear();
                back.extend_from_slice(&original[at..range.start]);
                back.extend_from_slice(&left[out..out + range.len()]);
                out += range.len();
                at = range.end;
            }
        }
    }
    change(original, at..original.len(), &inserted, own)?;
    back.extend_from_slice(&original[at..]);
    if out != left.len() || back != original {
        return Err("without the changes it is another message".to_owned());
    }
    Ok(left)
}

/// Is this a change that may be?
fn change(original: &[u8], cut: Range<usize>, inserted: &[u8], own: &str) -> Result<(), String> {
    if cut.is_empty() && inserted.is_empty() {
        return Ok(());
    }
    let gone = String::from_utf8_lossy(&original[cut]).into_owned();
    let new = std::str::from_utf8(inserted).map_err(|_| "no text inserted".to_owned())?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let lower = gone.to_ascii_lowercase();
    let may = if new.is_empty() {
        // One or two Routes of ours.
        lower.contains(own)
    } else if gone.is_empty() {
        is_ours(new, own) || new.starts_with(";received=") || behind_rport(new)
    } else {
        // Ours above Routes of ours.
        is_ours(new, own) && lower.contains(own)
            || is_digits(&gone) && is_digits(new)
            || lower.starts_with("received") && new.starts_with("received=")
            || gone.trim_start().starts_with('=') && behind_rport(new)
    };
    if may {
        Ok(())
    } else {
        Err(format!("{gone:?} became {new:?}"))
    }
}

/// What fills `rport` in, behind which `received` may follow at once.
fn behind_rport(new: &str) -> bool {
    new.strip_prefix('=')
        .is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// Our own headers.
fn is_ours(new: &str, own: &str) -> bool {
    let via = format!("Via: SIP/2.0/UDP {own}");
    let route = format!("Record-Route: <sip:{own}");
    let mut lines = new.split_terminator("\r\n");
    lines.next().is_some_and(|line| line.starts_with(&via))
        && lines.all(|line| line.starts_with(&route) || line == "Max-Forwards: 70")
}
