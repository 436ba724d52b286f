//! The cookie: what our Via remembers of a request, so that the forwarder need not.
//!
//! ```text
//! byte  0       format version
//!       1       direction (bit 0), IPv6 (bit 1), transport of the way back (upper half; 0 is UDP)
//!       2..4    time, in units of 16 s, of which there are 65,536 (12 days)
//!       4..8    loop hash
//!       8..12   hash of the host the request went to; 0 if that is a backend
//!       12..    way back: address (4 or 16 bytes), port, and the connection's id (8 bytes) if the
//!               transport has connections
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

use super::{
    codec::{self, FLOW_FLAGS, LONGEST_FLOW},
    hash::{FieldHasher, Keys},
};
use crate::sip::transport::Flow;

const VERSION: u8 = 1;
const OUTWARD: u8 = 1;
const FIXED: usize = 12;
const TAG: usize = 8;
const LONGEST: usize = FIXED + LONGEST_FLOW + TAG;

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
    pub(super) way_back: Flow,
}

/// A time in units of 16 s, modulo 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(u16);

impl Time {
    pub(super) const fn of(unix_seconds: u64) -> Self {
        Self((unix_seconds / UNIT) as u16)
    }

    pub(super) const fn to_be_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    pub(super) const fn from_be_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes))
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
        bytes[1] = kind | codec::flow_flags(&self.way_back);
        bytes[2..4].copy_from_slice(&self.time.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.loop_hash.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.peer.to_be_bytes());
        let end = FIXED + codec::write_flow(&self.way_back, &mut bytes[FIXED..]);
        let tag = tag(keys, &bytes[..end], call_id);
        bytes[end..end + TAG].copy_from_slice(&tag.to_be_bytes());
        codec::encode(&bytes[..end + TAG], out);
    }

    /// Reads a cookie that is ours and of this Call-ID.
    pub(super) fn open(text: &[u8], keys: &Keys, call_id: &[u8]) -> Option<Self> {
        let mut buffer = [0; LONGEST];
        let bytes = codec::decode(text, &mut buffer)?;
        let (body, sealed) = bytes.split_last_chunk::<TAG>()?;
        if tag(keys, body, call_id) != u64::from_be_bytes(*sealed) {
            return None;
        }
        let (fixed, rest) = body.split_first_chunk::<FIXED>()?;
        let [version, kind, t0, t1, l0, l1, l2, l3, p0, p1, p2, p3] = *fixed;
        if version != VERSION || kind & !(OUTWARD | FLOW_FLAGS) != 0 {
            return None;
        }
        Some(Self {
            direction: if kind & OUTWARD == 0 {
                Direction::Inward
            } else {
                Direction::Outward
            },
            time: Time::from_be_bytes([t0, t1]),
            loop_hash: u32::from_be_bytes([l0, l1, l2, l3]),
            peer: u32::from_be_bytes([p0, p1, p2, p3]),
            way_back: codec::read_flow(rest, kind)?,
        })
    }
}

fn tag(keys: &Keys, body: &[u8], call_id: &[u8]) -> u64 {
    let lane = |key| FieldHasher::new(key).field(body).field(call_id).finish();
    lane(keys.tag[0]) ^ lane(keys.tag[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::proxy::testing::flows;
    use proptest::prelude::*;

    const KEY: [u64; 2] = [3, 4];

    fn keys() -> Keys {
        Keys::derive(KEY, "192.0.2.1:5060".parse().unwrap())
    }

    fn cookies() -> impl Strategy<Value = Cookie> {
        let direction = prop_oneof![Just(Direction::Inward), Just(Direction::Outward)];
        (direction, any::<(u16, u32, u32)>(), flows()).prop_map(
            |(direction, (time, loop_hash, peer), way_back)| Cookie {
                direction,
                time: Time(time),
                loop_hash,
                peer,
                way_back,
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
