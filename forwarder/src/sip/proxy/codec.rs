//! How cookies and tokens are written: bytes of a flow, and base64url.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use crate::sip::transport::{ConnectionId, Flow, Transport};

/// In a byte of flags: the flow's address is IPv6.
const IPV6: u8 = 2;
/// Where in a byte of flags the transport begins.
const TRANSPORT_SHIFT: u32 = 4;
/// Flags that say something of a flow.
pub(super) const FLOW_FLAGS: u8 = IPV6 | 0xf0;
/// Bytes of the longest flow: IPv6, port, connection.
pub(super) const LONGEST_FLOW: usize = 16 + 2 + 8;

/// The flags of a flow.
pub(super) const fn flow_flags(flow: &Flow) -> u8 {
    let family = if flow.peer.is_ipv6() { IPV6 } else { 0 };
    family | flow.transport.number() << TRANSPORT_SHIFT
}

/// Writes a flow and says how long it is: address, port, and for a transport with connections the
/// connection's id, 0 if none is meant. All big-endian.
pub(super) fn write_flow(flow: &Flow, out: &mut [u8]) -> usize {
    let port = match flow.peer {
        SocketAddr::V4(address) => {
            out[..4].copy_from_slice(&address.ip().octets());
            4
        }
        SocketAddr::V6(address) => {
            out[..16].copy_from_slice(&address.ip().octets());
            16
        }
    };
    let end = port + 2;
    out[port..end].copy_from_slice(&flow.peer.port().to_be_bytes());
    if !flow.transport.has_connections() {
        return end;
    }
    let id = flow.connection.map_or(0, |id| id.0.get());
    out[end..end + 8].copy_from_slice(&id.to_be_bytes());
    end + 8
}

/// Reads a flow with these flags that fills all of `bytes`.
pub(super) fn read_flow(bytes: &[u8], flags: u8) -> Option<Flow> {
    let transport = Transport::of_number(flags >> TRANSPORT_SHIFT)?;
    let (bytes, connection) = if transport.has_connections() {
        let (rest, id) = bytes.split_last_chunk::<8>()?;
        let id = NonZeroU64::new(u64::from_be_bytes(*id));
        (rest, id.map(ConnectionId))
    } else {
        (bytes, None)
    };
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let peer = if flags & IPV6 != 0 {
        let ip: [u8; 16] = ip.try_into().ok()?;
        (Ipv6Addr::from(ip), port).into()
    } else {
        let ip: [u8; 4] = ip.try_into().ok()?;
        (Ipv4Addr::from(ip), port).into()
    };
    Some(Flow {
        transport,
        peer,
        connection,
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const INVALID: u8 = 0xff;
const VALUES: [u8; 256] = {
    let mut values = [INVALID; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// Appends base64url (RFC 4648 section 5) without padding.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(group);
        for at in 0..=chunk.len() {
            out.push(ALPHABET[(word >> (18 - 6 * at) & 63) as usize]);
        }
    }
}

/// Reads base64url; `None` if it is none, is too long for `buffer`, or has stray bits at its end.
pub(super) fn decode<'a>(text: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = text.len() * 3 / 4;
    let out = buffer.get_mut(..length)?;
    for (chunk, bytes) in text.chunks(4).zip(out.chunks_mut(3)) {
        let mut word = 0;
        for (at, &character) in chunk.iter().enumerate() {
            let value = VALUES[usize::from(character)];
            if value == INVALID {
                return None;
            }
            word |= u32::from(value) << (18 - 6 * at);
        }
        let group = word.to_be_bytes();
        bytes.copy_from_slice(&group[1..=bytes.len()]);
        if chunk.len() != bytes.len() + 1 || group[bytes.len() + 1..].iter().any(|&b| b != 0) {
            return None;
        }
    }
    (text.len() % 4 != 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn base64url_is_undone(bytes in proptest::collection::vec(any::<u8>(), 0..=60)) {
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            let mut buffer = [0; 60];
            prop_assert_eq!(decode(&text, &mut buffer), Some(&bytes[..]));
        }
    }

    #[test]
    fn base64url_is_that_of_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foobar", "Zm9vYmFy")] {
            let mut out = Vec::new();
            encode(bytes.as_bytes(), &mut out);
            assert_eq!(out, text.as_bytes());
        }
        for wrong in ["Z", "Zh", "Zm9", "Zg==", "Zg+", "Z/"] {
            assert_eq!(decode(wrong.as_bytes(), &mut [0; 60]), None, "{wrong}");
        }
    }
}
