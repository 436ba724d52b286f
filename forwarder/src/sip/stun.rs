//! STUN Binding (RFC 8489): the keep-alive by which a phone behind a NAT learns its address
//! (RFC 5626 section 4.4.2). And keep-alives that want no answer.

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_INDICATION: u16 = 0x0011;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes that must be understood, and are: they change nothing here, since whoever answers
/// anybody need not know who asks (USERNAME, MESSAGE-INTEGRITY, REALM, NONCE and their SHA-256 kin).
const UNDERSTOOD: [u16; 7] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001d, 0x001e];
/// From here on an attribute may be ignored by who does not know it.
const OPTIONAL_FROM: u16 = 0x8000;
/// Unknown attributes that an error names; a request with more is answered all the same.
const NAMED_LIMIT: usize = 16;

/// Is the datagram a keep-alive that wants no answer: nothing, one byte, or line ends and zeroes?
#[must_use]
pub fn is_keep_alive(datagram: &[u8]) -> bool {
    datagram.len() <= 1 || datagram.iter().all(|b| matches!(b, b'\r' | b'\n' | 0))
}

/// A STUN message that concerns the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stun<'a> {
    /// A Binding request.
    Request(Request<'a>),
    /// A Binding indication: a keep-alive that wants no answer.
    Indication,
}

/// A Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    transaction: &'a [u8; 12],
    attributes: &'a [u8],
}

/// Reads a datagram; `None` if it is no well-formed STUN Binding request or indication.
#[must_use]
pub fn read(datagram: &[u8]) -> Option<Stun<'_>> {
    let kind = u16_at(datagram, 0)?;
    let length = usize::from(u16_at(datagram, 2)?);
    let transaction = datagram.get(8..HEADER)?.first_chunk()?;
    let attributes = &datagram[HEADER..];
    if datagram[4..8] != COOKIE || !length.is_multiple_of(4) || length != attributes.len() {
        return None;
    }
    let mut walk = Attributes { rest: attributes };
    walk.by_ref().for_each(drop);
    if !walk.rest.is_empty() {
        return None;
    }
    match kind {
        BINDING_REQUEST => Some(Stun::Request(Request {
            transaction,
            attributes,
        })),
        BINDING_INDICATION => Some(Stun::Indication),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The attributes' types. What cannot be walked over stays in `rest`.
struct Attributes<'a> {
    rest: &'a [u8],
}

impl Iterator for Attributes<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let kind = u16_at(self.rest, 0)?;
        let length = usize::from(u16_at(self.rest, 2)?).next_multiple_of(4);
        self.rest = self.rest.get(4 + length..)?;
        Some(kind)
    }
}

impl Request<'_> {
    /// The answer to a client at `client`: its address, or error 420 if the request asks for what is
    /// not known here (RFC 8489 section 6.3.1).
    #[must_use]
    pub fn answer(&self, client: SocketAddr) -> Vec<u8> {
        let unknown: Vec<u8> = Attributes {
            rest: self.attributes,
        }
        .filter(|kind| *kind < OPTIONAL_FROM && !UNDERSTOOD.contains(kind))
        .take(NAMED_LIMIT)
        .flat_map(u16::to_be_bytes)
        .collect();
        let mut body = Vec::new();
        let kind = if unknown.is_empty() {
            append(&mut body, XOR_MAPPED_ADDRESS, &self.mapped(client));
            BINDING_SUCCESS
        } else {
            append(&mut body, ERROR_CODE, b"\x00\x00\x04\x14Unknown Attribute");
            append(&mut body, UNKNOWN_ATTRIBUTES, &unknown);
            BINDING_ERROR
        };
        let mut answer = Vec::with_capacity(HEADER + body.len());
        answer.extend(kind.to_be_bytes());
        answer.extend((body.len() as u16).to_be_bytes());
        answer.extend(COOKIE);
        answer.extend(self.transaction);
        answer.append(&mut body);
        answer
    }

    /// An address and port, combined with cookie and transaction so that no NAT on the way back
    /// takes them for addresses to rewrite (RFC 8489 section 14.2).
    fn mapped(&self, client: SocketAddr) -> Vec<u8> {
        let mask = COOKIE.iter().chain(self.transaction);
        let mut value = vec![0];
        let xored = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().zip(mask.clone()).map(|(b, m)| b ^ m).collect()
        };
        match client.ip() {
            IpAddr::V4(v4) => {
                value.push(1);
                value.extend(xored(&client.port().to_be_bytes()));
                value.extend(xored(&v4.octets()));
            }
            IpAddr::V6(v6) => {
                value.push(2);
                value.extend(xored(&client.port().to_be_bytes()));
                value.extend(xored(&v6.octets()));
            }
        }
        value
    }
}

fn append(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(kind.to_be_bytes());
    body.extend((value.len() as u16).to_be_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The transaction of RFC 5769's sample messages.
    const TRANSACTION: [u8; 12] = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";

    fn request(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend((attributes.len() as u16).to_be_bytes());
        bytes.extend(COOKIE);
        bytes.extend(TRANSACTION);
        bytes.extend(attributes);
        bytes
    }

    fn answer(attributes: &[u8], client: &str) -> Vec<u8> {
        match read(&request(BINDING_REQUEST, attributes)) {
            Some(Stun::Request(request)) => request.answer(client.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_answered_as_in_rfc_5769() {
        let v4 = answer(b"", "192.0.2.1:32853");
        assert_eq!(v4[..4], [1, 1, 0, 12]);
        assert_eq!(v4[4..20], request(1, b"")[4..20]);
        assert_eq!(
            v4[20..],
            *b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43"
        );
        let v6 = answer(b"", "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(
            v6[20..],
            *b"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9"
        );
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_named_in_error_420() {
        // SOFTWARE and USERNAME are fine; CHANGE-REQUEST is not known here.
        let attributes =
            b"\x80\x22\x00\x03abc\x00\x00\x06\x00\x01u\x00\x00\x00\x00\x03\x00\x04\x00\x00\x00\x06";
        let error = answer(attributes, "192.0.2.1:1");
        assert_eq!(error[..2], BINDING_ERROR.to_be_bytes());
        assert!(error.ends_with(b"\x00\x0a\x00\x02\x00\x03\x00\x00"));
        assert_eq!(error.len(), 20 + usize::from(u16_at(&error, 2).unwrap()));
        assert_eq!(answer(&attributes[..16], "192.0.2.1:1")[..2], [1, 1]);
    }

    #[test]
    fn what_is_not_well_formed_is_not_stun() {
        let good = request(BINDING_REQUEST, b"\x80\x22\x00\x04abcd");
        assert!(matches!(read(&good), Some(Stun::Request(_))));
        assert_eq!(
            read(&request(BINDING_INDICATION, b"")),
            Some(Stun::Indication)
        );
        assert_eq!(read(&request(0x0003, b"")), None);
        assert_eq!(
            read(&request(BINDING_REQUEST, b"\x80\x22\x00\x05abcd")),
            None
        );
        assert_eq!(read(&request(BINDING_REQUEST, b"\x80\x22")), None);
        assert_eq!(read(&good[..good.len() - 4]), None);
        for at in [4, 3] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(read(&bad), None);
        }
    }

    #[test]
    fn keep_alives_are_told() {
        for yes in [&b""[..], b"x", b"\0", b"\r\n\r\n", b"\0\0\0\0"] {
            assert!(is_keep_alive(yes), "{yes:?}");
        }
        assert!(!is_keep_alive(b"ab"));
        assert!(!is_keep_alive(b"\r\nx"));
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), length: bool) {
            if length && bytes.len() >= 20 {
                bytes[4..8].copy_from_slice(&COOKIE);
                let rest = (bytes.len() - 20) as u16;
                bytes[2..4].copy_from_slice(&rest.to_be_bytes());
                bytes[..2].copy_from_slice(&[0, 1]);
            }
            if let Some(Stun::Request(request)) = read(&bytes) {
                let _ = request.answer("[::1]:1".parse().unwrap());
            }
        }
    }
}
