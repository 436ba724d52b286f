//! The flow token (RFC 5626 section 5.2): what a Path or Record-Route of ours remembers of the flow
//! that a client is reached by, as the user part of its URI.
//!
//! ```text
//! byte  0       mark, and with it the format's version
//!       1       purpose (bit 0), IPv6 (bit 1), transport (upper half)
//!       2..4    time, as in a cookie
//!       4..     flow: address, port, and the connection's id if the transport has connections
//!       ..      tag (8 bytes)
//! ```
//!
//! It is written and sealed like a cookie, with keys of its own. The token of a dialog is good for
//! its Call-ID only. That of a registration is good for all calls to the phone, so it has none in it.
//! Either counts only from a backend's address, which is for the caller to know.

use super::{
    codec::{self, FLOW_FLAGS, LONGEST_FLOW},
    cookie::Time,
    hash::{FieldHasher, Keys},
};
use crate::sip::transport::Flow;

/// No cookie begins with it.
const MARK: u8 = 0xf1;
const DIALOG: u8 = 1;
const FIXED: usize = 4;
const TAG: usize = 8;
const LONGEST: usize = FIXED + LONGEST_FLOW + TAG;
/// The shortest token as text: that of a flow over UDP and IPv4. What is as long, as the user of a URI
/// of ours, was meant to be one.
const SHORTEST_TEXT: usize = (FIXED + 4 + 2 + TAG) * 4 / 3;

/// What a token was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Later requests of the dialog of one Call-ID.
    Dialog,
    /// Whatever comes for a phone that registered.
    Registration,
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) purpose: Purpose,
    pub(super) time: Time,
    pub(super) flow: Flow,
}

/// What the user part of a URI of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Not a token.
    Nothing,
    /// It was meant to be one, but we did not make it for this.
    Forged,
    /// A token of ours.
    Token(Token),
}

impl Token {
    /// Writes the token for a message of this Call-ID.
    pub(super) fn seal(&self, keys: &Keys, call_id: &[u8], out: &mut Vec<u8>) {
        let mut bytes = [0; LONGEST];
        bytes[0] = MARK;
        bytes[1] = codec::flow_flags(&self.flow);
        if self.purpose == Purpose::Dialog {
            bytes[1] |= DIALOG;
        }
        bytes[2..4].copy_from_slice(&self.time.to_be_bytes());
        let end = FIXED + codec::write_flow(&self.flow, &mut bytes[FIXED..]);
        let tag = tag(keys, &bytes[..end], self.purpose, call_id);
        bytes[end..end + TAG].copy_from_slice(&tag.to_be_bytes());
        codec::encode(&bytes[..end + TAG], out);
    }

    /// Reads the user part of a URI in a message of this Call-ID.
    pub(super) fn find(user: &[u8], keys: &Keys, call_id: &[u8]) -> Found {
        if user.len() < SHORTEST_TEXT {
            return Found::Nothing;
        }
        let mut buffer = [0; LONGEST];
        let Some([MARK, flags, t0, t1, rest @ ..]) = codec::decode(user, &mut buffer) else {
            return Found::Forged;
        };
        let (flags, time) = (*flags, Time::from_be_bytes([*t0, *t1]));
        Self::open(flags, time, rest, keys, call_id).map_or(Found::Forged, Found::Token)
    }

    fn open(flags: u8, time: Time, rest: &[u8], keys: &Keys, call_id: &[u8]) -> Option<Self> {
        let (flow, sealed) = rest.split_last_chunk::<TAG>()?;
        let purpose = match flags & !FLOW_FLAGS {
            DIALOG => Purpose::Dialog,
            0 => Purpose::Registration,
            _ => return None,
        };
        let mut body = [0; FIXED + LONGEST_FLOW];
        let length = FIXED + flow.len();
        body[..2].copy_from_slice(&[MARK, flags]);
        body[2..4].copy_from_slice(&time.to_be_bytes());
        body.get_mut(FIXED..length)?.copy_from_slice(flow);
        if tag(keys, &body[..length], purpose, call_id) != u64::from_be_bytes(*sealed) {
            return None;
        }
        Some(Self {
            purpose,
            time,
            flow: codec::read_flow(flow, flags)?,
        })
    }
}

fn tag(keys: &Keys, body: &[u8], purpose: Purpose, call_id: &[u8]) -> u64 {
    let call_id = match purpose {
        Purpose::Dialog => call_id,
        Purpose::Registration => b"",
    };
    let lane = |key| FieldHasher::new(key).field(body).field(call_id).finish();
    lane(keys.token[0]) ^ lane(keys.token[1])
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

    fn tokens() -> impl Strategy<Value = Token> {
        let purpose = prop_oneof![Just(Purpose::Dialog), Just(Purpose::Registration)];
        (purpose, any::<u16>(), flows()).prop_map(|(purpose, time, flow)| Token {
            purpose,
            time: Time::from_be_bytes(time.to_be_bytes()),
            flow,
        })
    }

    fn sealed(token: &Token, call_id: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        token.seal(&keys(), call_id, &mut text);
        text
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_found_again(token in tokens(), call_id: Vec<u8>) {
            let text = sealed(&token, &call_id);
            prop_assert_eq!(Token::find(&text, &keys(), &call_id), Found::Token(token));
        }

        #[test]
        fn a_change_anywhere_is_noticed(token in tokens(), at: proptest::sample::Index, to: u8) {
            let mut text = sealed(&token, b"x");
            let at = at.index(text.len());
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(!matches!(Token::find(&text, &keys(), b"x"), Found::Token(_)));
        }

        #[test]
        fn a_dialogs_token_is_good_for_its_call_and_every_token_for_one_service(
            token in tokens(), other: Vec<u8>,
        ) {
            prop_assume!(other != b"x");
            let text = sealed(&token, b"x");
            let found = Token::find(&text, &keys(), &other);
            match token.purpose {
                Purpose::Dialog => prop_assert_eq!(found, Found::Forged),
                Purpose::Registration => prop_assert_eq!(found, Found::Token(token)),
            }
            let neighbour = Keys::derive(KEY, "192.0.2.1:5061".parse().unwrap());
            prop_assert_eq!(Token::find(&text, &neighbour, b"x"), Found::Forged);
        }

        #[test]
        fn strangers_find_nothing_and_nothing_panics(text in "[A-Za-z0-9_=-]{0,80}", bytes: Vec<u8>) {
            prop_assert!(!matches!(Token::find(text.as_bytes(), &keys(), b"x"), Found::Token(_)));
            prop_assert!(!matches!(Token::find(&bytes, &keys(), b"x"), Found::Token(_)));
        }
    }

    #[test]
    fn names_of_people_are_no_tokens() {
        for user in ["", "alice", "bob", "8001", "sip", "lb"] {
            assert_eq!(
                Token::find(user.as_bytes(), &keys(), b"x"),
                Found::Nothing,
                "{user}"
            );
        }
    }
}
