//! The full reader: what the rule must know of a message, whatever liberties its sender took.
//!
//! Where the fast scan ([`sip_forwarder_ebpf::scan`]) answers, this reader gives the same answer;
//! `parity` tests hold the two together.

use std::{borrow::Cow, ops::Range};

use sip_forwarder_ebpf::rule::Role;

use super::{
    address::{self, HostPort},
    headers::{Name, Sip, StartLine},
};

/// Why a datagram cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not start as a SIP message does.
    #[error("the datagram does not start with a SIP request or status line; look at what sends it")]
    NotSip,
    /// It has no Call-ID.
    #[error("the SIP message has no Call-ID, so it belongs to no call; its sender must add one")]
    NoCallId,
}

/// A message that was read.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// The message, for whoever wants more of it.
    pub sip: Sip<'a>,
    /// What the message is to the rule.
    pub role: Role,
    /// The first Call-ID, without blanks around it.
    pub call_id: Cow<'a, [u8]>,
    /// Host (as written, brackets included) and port of the top Route of a request in a dialog, or
    /// of the top Via of a response.
    pub host: Option<(Cow<'a, [u8]>, u16)>,
    /// The value of the first To; empty if there is none.
    pub to: Cow<'a, [u8]>,
    /// The value of the first From; empty if there is none.
    pub from: Cow<'a, [u8]>,
}

/// Reads a datagram.
pub fn read(datagram: &[u8]) -> Result<Reading<'_>, ReadError> {
    let sip = Sip::cut(datagram).ok_or(ReadError::NotSip)?;
    let call_id = sip
        .first(Name::CallId)
        .filter(|id| !id.is_empty())
        .ok_or(ReadError::NoCallId)?;
    let to = sip.first(Name::To);
    let role = role(sip.start, to.as_deref());
    let host = match role {
        Role::Response => within(sip.first(Name::Via), address::sent_by),
        Role::InDialog => within(sip.first(Name::Route), address::route_host),
        _ => None,
    };
    Ok(Reading {
        role,
        call_id,
        host,
        to: to.unwrap_or_default(),
        from: sip.first(Name::From).unwrap_or_default(),
        sip,
    })
}

fn role(start: StartLine<'_>, to: Option<&[u8]>) -> Role {
    let StartLine::Request { method, .. } = start else {
        return Role::Response;
    };
    match method {
        b"CANCEL" => Role::Follows,
        b"ACK" | b"BYE" | b"PRACK" | b"UPDATE" | b"INFO" => Role::InDialog,
        _ if to.is_some_and(address::has_tag) => Role::InDialog,
        b"REGISTER" | b"OPTIONS" | b"PUBLISH" | b"MESSAGE" => Role::StartsNothing,
        _ => Role::StartsDialog,
    }
}

/// The host that `find` finds in a value, cut out of it.
fn within(
    value: Option<Cow<'_, [u8]>>,
    find: impl Fn(&[u8]) -> Option<HostPort>,
) -> Option<(Cow<'_, [u8]>, u16)> {
    let value = value?;
    let (host, port) = find(&value)?;
    Some((cut(value, host), port))
}

/// A part of a value; copied only if the value is a copy itself.
#[must_use]
pub fn cut(value: Cow<'_, [u8]>, range: Range<usize>) -> Cow<'_, [u8]> {
    match value {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
        Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Expected<'a> = Result<(Role, &'a str, Option<(&'a str, u16)>), ReadError>;

    fn check(message: &str, expected: &Expected<'_>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let got = read(message.as_bytes()).map(|r| {
            let host = r.host.map(|(host, port)| (text(&host), port));
            (r.role, text(&r.call_id), host)
        });
        let expected = expected.map(|(role, id, host)| {
            (
                role,
                id.to_owned(),
                host.map(|(h, port)| (h.to_owned(), port)),
            )
        });
        assert_eq!(got, expected, "{message}");
    }

    #[test]
    fn roles_follow_method_and_to_tag() {
        for (method, bare, tagged) in [
            ("INVITE", Role::StartsDialog, Role::InDialog),
            ("SUBSCRIBE", Role::StartsDialog, Role::InDialog),
            ("NOTIFY", Role::StartsDialog, Role::InDialog),
            ("FOO", Role::StartsDialog, Role::InDialog),
            ("invite", Role::StartsDialog, Role::InDialog),
            ("REGISTER", Role::StartsNothing, Role::InDialog),
            ("OPTIONS", Role::StartsNothing, Role::InDialog),
            ("PUBLISH", Role::StartsNothing, Role::InDialog),
            ("MESSAGE", Role::StartsNothing, Role::InDialog),
            ("CANCEL", Role::Follows, Role::Follows),
            ("ACK", Role::InDialog, Role::InDialog),
            ("BYE", Role::InDialog, Role::InDialog),
            ("PRACK", Role::InDialog, Role::InDialog),
            ("UPDATE", Role::InDialog, Role::InDialog),
            ("INFO", Role::InDialog, Role::InDialog),
        ] {
            for (tag, role) in [("", bare), (";tag=7", tagged)] {
                let message =
                    format!("{method} sip:a SIP/2.0\r\nTo: <sip:a>{tag}\r\nCall-ID: x\r\n\r\n");
                check(&message, &Ok((role, "x", None)));
            }
        }
    }

    #[test]
    fn the_host_is_that_of_the_top_route_in_a_dialog_and_the_top_via_of_a_response() {
        let headers = "v : SIP/2.0/UDP v1;branch=z, SIP/2.0/UDP v2\r\nVia: SIP/2.0/UDP v3\r\n\
            Route: <sip:u@R1:7;lr>,<sip:r2>\r\nRoute: <sip:r3>\r\ni: x\r\n\r\n";
        for (start, role, host) in [
            ("SIP/2.0 200 OK", Role::Response, Some(("v1", 5060))),
            ("BYE sip:a SIP/2.0", Role::InDialog, Some(("R1", 7))),
            ("INVITE sip:a SIP/2.0", Role::StartsDialog, None),
            ("CANCEL sip:a SIP/2.0", Role::Follows, None),
        ] {
            check(&format!("{start}\r\n{headers}"), &Ok((role, "x", host)));
        }
    }

    #[test]
    fn folded_values_are_read_whole() {
        check(
            "SIP/2.0 200 OK\r\nCall-ID:\r\n\ta@b\r\nVia: SIP/2.0/UDP\r\n  host\r\n :5070\r\n\r\n",
            &Ok((Role::Response, "a@b", Some(("host", 5070)))),
        );
        check(
            "INVITE sip:a SIP/2.0\nTo: <sip:a>\n ;tag=1\nCall-ID: a@b\n",
            &Ok((Role::InDialog, "a@b", None)),
        );
    }

    #[test]
    fn what_cannot_be_placed_is_told_apart() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &Err(ReadError::NotSip));
        for call_id in ["", "Call-ID:\r\n", "\r\nCall-ID: in-the-body\r\n"] {
            let message = format!("BYE sip:a SIP/2.0\r\nTo: <sip:a>\r\n{call_id}\r\n");
            check(&message, &Err(ReadError::NoCallId));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = read(&[b"BYE sip:a SIP/2.0\r\n", &bytes[..]].concat());
        }
    }
}
