//! The cookie: what our Via remembers of a request, so that the forwarder need not.
//!
//! ```text
//! byte  0       format version
//!       1       direction (bit 0), IPv6 (bit 1), transport of the way back (upper half; 0 is UDP)
//!       2..4    time, in units of 16 s, of which there are 65,536 (12 days)
//!       4..8    loop hash
//!       8..12   hash of the host the request went to; 0 if that is a backend
//!       12..    way back: address (4 or 16 bytes), port. A transport with connections will add 8 bytes
//!       ..      tag (8 bytes)
//! ```
//!
//! All numbers are big-endian; the whole is written in base64url without padding, whose characters
//! may all stand in a token.
//!
//! The tag is a keyed hash of the bytes before it and of the Call-ID, so a cookie is good for one
//! call only. It is the sum of two SipHash-1-3 with independent keys: whoever wants to forge one must
//! break both. 64 bits are enough because a forger cannot try offline: each guess is a response that
//! must come from a backend's address, and at a million of them a second one cookie of the hour in
//! which it is valid is hit with a probability of 2 in 10 billion.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::hash::{FieldHasher, Keys};

const VERSION: u8 = 1;
const OUTWARD: u8 = 1;
const IPV6: u8 = 2;
const FIXED: usize = 12;
const TAG: usize = 8;
/// The length of the longest cookie: IPv6.
const LONGEST: usize = FIXED + 16 + 2 + TAG;

/// Seconds in a unit of time.
const UNIT: u64 = 16;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From a client to a backend.
    Inward,
    /// From a backend to somebody else.
    Outward,
}

/// What a cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cookie {
    pub(super) direction: Direction,
    pub(super) time: Time,
    pub(super) loop_hash: u32,
    pub(super) peer: u32,
    pub(super) way_back: SocketAddr,
}

/// A time in units of 16 s, modulo 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(u16);

impl Time {
    pub(super) const fn of(unix_seconds: u64) -> Self {
        Self((unix_seconds / UNIT) as u16)
    }

    /// Is this at most `lifetime` seconds before `now`, or one unit after it, as another forwarder's
    /// clock may have it?
    pub(super) fn is_fresh(self, now: Self, lifetime: u64) -> bool {
        // Half of the range is the past, so that a clock put back a little makes nothing fresh.
        let units = lifetime.div_ceil(UNIT).min(0x7fff);
        let age = now.0.wrapping_sub(self.0);
        u64::from(age) <= units || age == u16::MAX
    }
}

impl Cookie {
    /// Writes the cookie for a message of this Call-ID.
    pub(super) fn seal(&self, keys: &Keys, call_id: &[u8], out: &mut Vec<u8>) {
        let mut bytes = [0; LONGEST];
        let kind = match self.direction {
            Direction::Inward => 0,
            Direction::Outward => OUTWARD,
        };
        bytes[0] = VERSION;
        bytes[1] = kind;
        bytes[2..4].copy_from_slice(&self.time.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.loop_hash.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.peer.to_be_bytes());
        let port = match self.way_back {
            SocketAddr::V4(address) => {
                bytes[FIXED..FIXED + 4].copy_from_slice(&address.ip().octets());
                FIXED + 4
            }
            SocketAddr::V6(address) => {
                bytes[1] |= IPV6;
                bytes[FIXED..FIXED + 16].copy_from_slice(&address.ip().octets());
                FIXED + 16
            }
        };
        bytes[port..port + 2].copy_from_slice(&self.way_back.port().to_be_bytes());
        let end = port + 2;
        let tag = tag(keys, &bytes[..end], call_id);
        bytes[end..end + TAG].copy_from_slice(&tag.to_be_bytes());
        encode(&bytes[..end + TAG], out);
    }

    /// Reads a cookie that is ours and of this Call-ID.
    pub(super) fn open(text: &[u8], keys: &Keys, call_id: &[u8]) -> Option<Self> {
        let mut buffer = [0; LONGEST];
        let bytes = decode(text, &mut buffer)?;
        let (body, sealed) = bytes.split_last_chunk::<TAG>()?;
        if tag(keys, body, call_id) != u64::from_be_bytes(*sealed) {
            return None;
        }
        let (fixed, rest) = body.split_first_chunk::<FIXED>()?;
        let [version, kind, t0, t1, l0, l1, l2, l3, p0, p1, p2, p3] = *fixed;
        if version != VERSION || kind & !(OUTWARD | IPV6) != 0 {
            return None;
        }
        Some(Self {
            direction: if kind & OUTWARD == 0 {
                Direction::Inward
            } else {
                Direction::Outward
            },
            time: Time(u16::from_be_bytes([t0, t1])),
            loop_hash: u32::from_be_bytes([l0, l1, l2, l3]),
            peer: u32::from_be_bytes([p0, p1, p2, p3]),
            way_back: read_address(rest, kind & IPV6 != 0)?,
        })
    }
}

fn read_address(bytes: &[u8], ipv6: bool) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    if ipv6 {
        let ip: [u8; 16] = ip.try_into().ok()?;
        Some((Ipv6Addr::from(ip), port).into())
    } else {
        let ip: [u8; 4] = ip.try_into().ok()?;
        Some((Ipv4Addr::from(ip), port).into())
    }
}

fn tag(keys: &Keys, body: &[u8], call_id: &[u8]) -> u64 {
    let lane = |key| FieldHasher::new(key).field(body).field(call_id).finish();
    lane(keys.tag[0]) ^ lane(keys.tag[1])
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
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(group);
        for at in 0..=chunk.len() {
            out.push(ALPHABET[(word >> (18 - 6 * at) & 63) as usize]);
        }
    }
}

/// Reads base64url; `None` if it is none, is too long, or has stray bits at its end.
fn decode<'a>(text: &[u8], buffer: &'a mut [u8; LONGEST]) -> Option<&'a [u8]> {
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

    const KEY: [u64; 2] = [3, 4];

    fn keys() -> Keys {
        Keys::derive(KEY, "192.0.2.1:5060".parse().unwrap())
    }

    fn cookies() -> impl Strategy<Value = Cookie> {
        let direction = prop_oneof![Just(Direction::Inward), Just(Direction::Outward)];
        (direction, any::<(u16, u32, u32, std::net::IpAddr, u16)>()).prop_map(
            |(direction, (time, loop_hash, peer, ip, port))| Cookie {
                direction,
                time: Time(time),
                loop_hash,
                peer,
                way_back: SocketAddr::new(ip, port),
            },
        )
    }

    fn sealed(cookie: &Cookie, call_id: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        cookie.seal(&keys(), call_id, &mut text);
        text
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_again(cookie in cookies(), call_id: Vec<u8>) {
            let text = sealed(&cookie, &call_id);
            prop_assert_eq!(Cookie::open(&text, &keys(), &call_id), Some(cookie));
        }

        #[test]
        fn a_change_anywhere_is_noticed(cookie in cookies(), at: proptest::sample::Index, to: u8) {
            let mut text = sealed(&cookie, b"x");
            let at = at.index(text.len());
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert_eq!(Cookie::open(&text, &keys(), b"x"), None);
        }

        #[test]
        fn a_cookie_is_good_for_one_call_and_one_service(cookie in cookies(), other: Vec<u8>) {
            prop_assume!(other != b"x");
            let text = sealed(&cookie, b"x");
            prop_assert_eq!(Cookie::open(&text, &keys(), &other), None);
            let neighbour = Keys::derive(KEY, "192.0.2.1:5061".parse().unwrap());
            prop_assert_eq!(Cookie::open(&text, &neighbour, b"x"), None);
        }

        #[test]
        fn strangers_open_nothing_and_nothing_panics(text in "[A-Za-z0-9_=-]{0,60}", bytes: Vec<u8>) {
            prop_assert_eq!(Cookie::open(text.as_bytes(), &keys(), b"x"), None);
            prop_assert_eq!(Cookie::open(&bytes, &keys(), b"x"), None);
        }

        #[test]
        fn base64url_is_undone(bytes in proptest::collection::vec(any::<u8>(), 0..=LONGEST)) {
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            let mut buffer = [0; LONGEST];
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
            assert_eq!(decode(wrong.as_bytes(), &mut [0; LONGEST]), None, "{wrong}");
        }
    }

    #[test]
    fn a_cookie_is_fresh_for_its_lifetime_and_one_unit_ahead() {
        let at = |seconds| Time::of(1 << 40).is_fresh(Time::of((1 << 40) + seconds), 300);
        assert!(at(0) && at(300) && at(319));
        assert!(!at(320) && !at(4000) && !at(UNIT * 0xfffe));
        assert!(at(UNIT * 0xffff), "one unit ahead");
        // The clock wraps without a gap.
        assert!(Time(0xffff).is_fresh(Time(0), 300));
    }
}
