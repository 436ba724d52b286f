//! The fast scan against the full reader: where the scan answers, it answers as the reader does.

use sip_forwarder::sip::reader::read;
use sip_forwarder_ebpf::{
    abi::{Key, SentByKey},
    hash::digest,
    scan::{HostForm, Keys, Lines, scan},
    verdict::Verdict,
};

use crate::program::HASH_KEY;

/// Compares what both make of a message. `Ok` with the scan's reason if it passed the message on.
///
/// # Errors
/// What the two disagree about.
pub fn agree(message: &[u8]) -> Result<Option<Verdict>, String> {
    let keys = Keys {
        hash_key: HASH_KEY,
        key: Key::CALL_ID,
        register_key: Key::CALL_ID,
    };
    let scanned = match scan(message, &keys, &mut Lines::default()) {
        Ok(scanned) => scanned,
        Err(reason) => return Ok(Some(reason)),
    };
    let reading = read(message).map_err(|error| format!("only the scan can read it: {error}"))?;
    if reading.role != scanned.role {
        return Err(format!(
            "{:?} to the reader, {:?} to the scan",
            reading.role, scanned.role
        ));
    }
    if digest(HASH_KEY, &reading.call_id) != scanned.call {
        let call_id = reading.call_id.escape_ascii();
        return Err(format!("the scan's Call-ID is not the reader's, {call_id}"));
    }
    let host = reading
        .host
        .as_ref()
        .map(|(host, port)| SentByKey::new(digest(HASH_KEY, &host.to_ascii_lowercase()).0, *port));
    let named = (scanned.host.form != HostForm::Absent).then_some(scanned.host.key);
    if host != named {
        return Err(format!(
            "the scan's host is not the reader's, {:?}",
            reading.host
        ));
    }
    Ok(None)
}
