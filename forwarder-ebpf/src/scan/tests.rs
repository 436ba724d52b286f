//! What the scan answers, and what it leaves alone.

use super::{lines::line_feeds, *};
use crate::abi::SentByKey;
use crate::hash::digest;
use proptest::prelude::*;

const HASH_KEY: [u64; 2] = [1, 2];
const KEYS: Keys = Keys {
    hash_key: HASH_KEY,
    key: Key::CALL_ID,
    register_key: Key::CALL_ID,
};

fn scanned(message: &[u8]) -> Result<Scan, Verdict> {
    scan(message, &KEYS, &mut Lines::default())
}

/// A message of a start line and headers, `|` standing for the ends of lines.
fn message(start: &str, headers: &str) -> String {
    let headers = headers.trim_end_matches('|').replace('|', "\r\n");
    format!("{start}\r\n{headers}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n")
}

fn plain(text: &str, port: u16) -> Host {
    Host {
        key: SentByKey::new(digest(HASH_KEY, text.as_bytes()).0, port),
        form: HostForm::Plain,
    }
}

fn v6(text: &str, port: u16) -> Host {
    Host {
        form: HostForm::Ipv6,
        ..plain(text, port)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with results")]
fn ok(role: Role, call: &str, host: Host) -> Result<Scan, Verdict> {
    let call = digest(HASH_KEY, call.as_bytes());
    Ok(Scan { role, call, host })
}

const INVITE: &str = "INVITE sip:a@example.org SIP/2.0";
const BYE: &str = "BYE sip:a@example.org SIP/2.0";
const OK: &str = "SIP/2.0 200 OK";
const VIA: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1|";

#[test]
fn call_ids_are_found_however_they_are_written() {
    for headers in [
        "To: <sip:b@h>|Call-ID: x@y",
        "t: <sip:b@h>|i: x@y",
        "T:<sip:b@h>|I:x@y",
        "TO  :   <sip:b@h>|cALL-iD\t:\t x@y",
        "To: <sip:b@h>|Call-ID:x@y|Call-ID: other",
        "Call-ID: x@y|Via: SIP/2.0/UDP h|From: <sip:c@h>;tag=1|To: \"a>b;tag=1\" <sip:b@h>",
        "Call-Info: z|Idle: z|Topic: z|C: z|F: z|Call-ID : x@y|T : b <sip:b@h>",
    ] {
        let got = scanned(message(INVITE, headers).as_bytes());
        assert_eq!(
            got,
            ok(Role::StartsDialog, "x@y", Host::ABSENT),
            "{headers}"
        );
    }
}

#[test]
fn call_ids_of_every_length_are_read_also_at_the_end_of_the_message() {
    for length in 1..VALUE_LIMIT {
        let call = "0123456789".repeat(13)[..length].to_owned();
        let text = format!("{INVITE}\r\n{VIA}To: <sip:b@h>|Call-ID: {call}||").replace('|', "\r\n");
        let expected = ok(Role::StartsDialog, &call, Host::ABSENT);
        assert_eq!(scanned(text.as_bytes()), expected, "{length}");
    }
}

#[test]
fn the_ack_of_a_refusal_is_left_to_the_slow_path() {
    for to in [
        "<sip:b@h>;tag=sfw-503-0123456789abcdef",
        "<sip:b@h>;TAG=sfw-503-",
    ] {
        let text = format!("To: {to}|Call-ID: x@y");
        let got = scanned(message("ACK sip:a@example.org SIP/2.0", &text).as_bytes());
        assert_eq!(got, Err(Verdict::PassedRefusalAck), "{to}");
    }
}

#[test]
fn roles_follow_from_method_and_to_tag() {
    for (start, to, role) in [
        (INVITE, "<sip:b@h>", Role::StartsDialog),
        (INVITE, "b <sip:b@h>;tag=1", Role::InDialog),
        (
            INVITE,
            "\"b\" <sip:b@h;tag=x>;TAG=1;z=\"y\"x",
            Role::InDialog,
        ),
        (BYE, "<sip:b@h>", Role::InDialog),
        ("ACK sip:a@example.org SIP/2.0", "<sip:b@h>", Role::InDialog),
        (
            "ACK sip:a@example.org SIP/2.0",
            "<sip:b@h>;tag=sfw-504-",
            Role::InDialog,
        ),
        ("PRACK sip:a@example.org SIP/2.0", "sip:b@h", Role::InDialog),
        (
            "UPDATE sip:a@example.org SIP/2.0",
            "sip:b@h",
            Role::InDialog,
        ),
        ("INFO sip:a@example.org SIP/2.0", "sip:b@h", Role::InDialog),
        (
            "CANCEL sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::Follows,
        ),
        (
            "REGISTER sip:example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsNothing,
        ),
        (
            "OPTIONS sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsNothing,
        ),
        (
            "MESSAGE sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsNothing,
        ),
        (
            "PUBLISH sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsNothing,
        ),
        (
            "SUBSCRIBE sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsDialog,
        ),
        (
            "REFER sip:a@example.org SIP/2.0",
            "<sip:b@h>",
            Role::StartsDialog,
        ),
        (
            "NOTIFY sip:a@example.org SIP/2.0",
            "<sip:b@h>;tag=2",
            Role::InDialog,
        ),
    ] {
        let text = message(start, &format!("{VIA}To: {to}|Call-ID: x"));
        let quoted_tail = to.contains("z=\"y\"");
        if quoted_tail {
            // A quote behind the last bracket might hold that bracket.
            assert_eq!(
                scanned(text.as_bytes()),
                Err(Verdict::PassedTo),
                "{start} {to}"
            );
        } else {
            assert_eq!(
                scanned(text.as_bytes()),
                ok(role, "x", Host::ABSENT),
                "{start} {to}"
            );
        }
    }
}

#[test]
fn hosts_of_responses_come_from_the_top_via() {
    for (via, host) in [
        (
            "SIP/2.0/UDP 192.0.2.1:5070;branch=1",
            plain("192.0.2.1", 5070),
        ),
        ("SIP/2.0/UDP 192.0.2.1;branch=1", plain("192.0.2.1", 5060)),
        (
            "SIP/2.0/UDP \t Proxy.Example.ORG:1;branch=1",
            plain("proxy.example.org", 1),
        ),
        ("SIP/2.0/UDP h:65535,SIP/2.0/UDP other", plain("h", 65_535)),
        (
            "SIP/2.0/UDP [2001:DB8::1]:5070;branch=1",
            v6("[2001:db8::1]", 5070),
        ),
        ("SIP/2.0/UDP [::1];branch=1", v6("[::1]", 5060)),
    ] {
        for name in ["Via: ", "v:", "VIA :"] {
            let text = message(OK, &format!("{name}{via}|{VIA}To: <sip:b@h>|Call-ID: x"));
            assert_eq!(
                scanned(text.as_bytes()),
                ok(Role::Response, "x", host),
                "{name}{via}"
            );
        }
    }
}

#[test]
fn hosts_of_requests_in_a_dialog_come_from_the_top_route() {
    for (route, host) in [
        ("<sip:192.0.2.1;lr>", plain("192.0.2.1", 5060)),
        ("<SIP:Proxy:5080;lr>,<sip:other>", plain("proxy", 5080)),
        ("<sip:[2001:db8::1]:5070;lr>", v6("[2001:db8::1]", 5070)),
    ] {
        for (start, to) in [(BYE, "<sip:b@h>;tag=1"), (INVITE, "<sip:b@h>;tag=1")] {
            for headers in [
                format!("Route: {route}|To: {to}|Call-ID: x|Route: <sip:other>"),
                format!("To: {to}|Call-ID: x|ROUTE : {route}|Route: <sip:other>"),
            ] {
                let got = scanned(message(start, &headers).as_bytes());
                assert_eq!(got, ok(Role::InDialog, "x", host), "{headers}");
            }
        }
    }
}

#[test]
fn what_is_unusual_is_passed() {
    use Verdict::{
        PassedCallId, PassedFolded, PassedForwarder, PassedHeaderEnd, PassedRoute, PassedScanLimit,
        PassedStartLine, PassedTo, PassedVia,
    };
    let long = format!("To: <sip:b@h>|Call-ID: {}", "x".repeat(VALUE_LIMIT + 8));
    let far = format!("{}To: <sip:b@h>|Call-ID: x", VIA.repeat(50));
    for (start, headers, verdict) in [
        (INVITE, "To: <sip:b@h>|From: <sip:c@h>", PassedHeaderEnd),
        (INVITE, "From: <sip:b@h>|Call-ID: x", PassedHeaderEnd),
        (OK, "To: <sip:b@h>|Call-ID: x", PassedHeaderEnd),
        (
            INVITE,
            "From: a|\t;tag=1|To: <sip:b@h>|Call-ID: x",
            PassedFolded,
        ),
        (INVITE, "Call-ID: x|To: <sip:b@h>|\t;tag=1", PassedTo),
        (INVITE, "To: <sip:b@h>|Call-ID: x| y", PassedCallId),
        (INVITE, "To: <sip:b@h>|Call-ID:| x", PassedCallId),
        (INVITE, "To: <sip:b@h>|Call-ID: x y", PassedCallId),
        (INVITE, "To: <sip:b@h>|Call-ID:", PassedCallId),
        (INVITE, "To: <sip:b@h>|Call-ID          : x", PassedCallId),
        (INVITE, long.as_str(), PassedCallId),
        (INVITE, far.as_str(), PassedScanLimit),
        (INVITE, "To: sip:b@h|Call-ID: x", PassedTo),
        (INVITE, "To: sip:b@h;tag=1|Call-ID: x", PassedTo),
        (INVITE, "To: <sip:b@h>;x=1;tag=1|Call-ID: x", PassedTo),
        (INVITE, "To: <sip:b@h>;x=\">;tag=1\"|Call-ID: x", PassedTo),
        (INVITE, "To: <sip:b@h>;tag=|Call-ID: x", PassedTo),
        (INVITE, "To: <sip:b@h>;tag=;y|Call-ID: x", PassedTo),
        (INVITE, "To: <sip:b@h> ;tag=1|Call-ID: x", PassedTo),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h| :5070", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h :5070;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/TCP h;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP / 2.0 / UDP h;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h:;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h:0;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h:65536;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP h:123456;b", PassedVia),
        (OK, "Call-ID: x|Via: SIP/2.0/UDP ;b", PassedVia),
        (BYE, "Call-ID: x|Route: <sip:user@h;lr>", PassedRoute),
        (BYE, "Call-ID: x|Route: <sip:user:5070@h;lr>", PassedRoute),
        (BYE, "Call-ID: x|Route: <sips:h;lr>", PassedRoute),
        (BYE, "Call-ID: x|Route: \"n\" <sip:h;lr>", PassedRoute),
        (
            "OPTIONS sip:example.org SIP/2.0",
            "To: <sip:b@h>|Call-ID: x",
            PassedForwarder,
        ),
        (
            "invite sip:a@example.org SIP/2.0",
            "To: <sip:b@h>|Call-ID: x",
            PassedStartLine,
        ),
    ] {
        let got = scanned(message(start, headers).as_bytes());
        assert_eq!(got, Err(verdict), "{start}|{headers}");
    }
    let bare = message(INVITE, "To: <sip:b@h>|Call-ID: x").replace('\r', "");
    assert_eq!(scanned(bare.as_bytes()), Err(Verdict::PassedLineEnding));
    assert_eq!(
        scanned(b"INVITE sip:a@b SIP/2.0\r\n\r\n"),
        Err(Verdict::PassedShort)
    );
}

#[test]
fn a_truncated_message_is_passed_or_has_the_same_call_id() {
    for (start, headers) in [
        (
            INVITE,
            "Via: SIP/2.0/UDP h;b=1|To: <sip:b@h>|Call-ID: 0123456789abcdef@host|Subject: x",
        ),
        (
            INVITE,
            "Call-ID: 0123456789abcdef@host|To: <sip:b@h>;tag=1|Subject: x|Route: <sip:h;lr>",
        ),
        (
            OK,
            "Call-ID: 0123456789abcdef@host|Via: SIP/2.0/UDP [::1]:5070;b=1|To: <sip:b@h>",
        ),
        (
            BYE,
            "Subject: 0123456789012345678901234567890|Route: <sip:h:5070>|i: 0123456789abcdef",
        ),
    ] {
        let text = message(start, headers);
        let whole = scanned(text.as_bytes()).unwrap();
        for length in 0..text.len() {
            if let Ok(got) = scanned(&text.as_bytes()[..length]) {
                assert_eq!(got.call, whole.call, "{start} {length}");
            }
        }
    }
}

proptest! {
    #[test]
    fn never_panics(start in prop_oneof![Just(INVITE), Just(BYE), Just(OK)],
        rest in proptest::collection::vec(prop_oneof![
            Just("Call-ID: "), Just("To: "), Just("Via: SIP/2.0/UDP "), Just("Route: <sip:"), Just("\r\n"),
            Just("\n"), Just(" "), Just(":"), Just(">"), Just("["), Just(";tag="), Just("x"), Just("\u{ff}0123456789"),
        ], 0..300))
    {
        let _ = scanned(format!("{start}\r\n{}", rest.concat()).as_bytes());
    }

    /// A line feed anywhere in a block is found, and nothing else is.
    #[test]
    fn line_feeds_are_all_found(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(0x8a), any::<u8>()], 32)) {
        let expected = (0..32).filter(|&i| bytes[i] == b'\n').fold(0, |mask, i| mask | 1 << i);
        prop_assert_eq!(line_feeds(bytes[..].block_at(0).unwrap()), expected);
    }
}
