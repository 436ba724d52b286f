//! The fast scan and the full reader give one answer, wherever the fast scan gives any.

use proptest::{prelude::*, sample::select};
use sip_forwarder_ebpf::{
    abi::{Key, SentByKey},
    hash::digest,
    rule::Role,
    scan::{HostForm, Keys, Lines, Scan, scan},
};

use super::reader::read;

const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_beef_dead_cafe];
const FILL: &str =
    "Subject: what follows makes the message longer than the shortest the scan reads\r\n";

fn fast(message: &[u8]) -> Option<Scan> {
    let keys = Keys {
        hash_key: HASH_KEY,
        key: Key::CALL_ID,
        register_key: Key::CALL_ID,
    };
    scan(message, &keys, &mut Lines::default()).ok()
}

/// Did the fast scan answer? And if so, as the reader does?
fn agree(message: &[u8]) -> Result<bool, TestCaseError> {
    let Some(scan) = fast(message) else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(message);
    let reading = match read(message) {
        Ok(reading) => reading,
        Err(error) => return Err(TestCaseError::fail(format!("{error}: {text:?}"))),
    };
    let host = reading.host.as_ref().map(|(host, port)| {
        let host = digest(HASH_KEY, &host.to_ascii_lowercase());
        SentByKey::new(host.0, *port)
    });
    let scanned = (scan.host.form != HostForm::Absent).then_some(scan.host.key);
    prop_assert_eq!(reading.role, scan.role, "role of {:?}", text);
    prop_assert_eq!(
        digest(HASH_KEY, &reading.call_id),
        scan.call,
        "Call-ID of {:?}",
        text
    );
    prop_assert_eq!(host, scanned, "host of {:?}: {:?}", text, reading.host);
    Ok(true)
}

fn message(start: &str, headers: &[&str]) -> Vec<u8> {
    format!("{start}\r\n{}\r\n{FILL}\r\nbody", headers.join("\r\n")).into_bytes()
}

#[test]
fn ordinary_messages_are_read_alike_by_both() {
    const VIA: &str = "Via: SIP/2.0/UDP Proxy.Example:5070;branch=z9hG4bK1";
    const TO: &str = "To: \"Bob\" <sip:bob@example.com>";
    const TAGGED: &str = "t: Bob <sip:bob@example.com>;tag=1";
    const ID: &str = "Call-ID: 1-4711@192.0.2.1";
    const ROUTE: &str = "Route: <sip:[2001:DB8::1]:5080;lr>, <sip:other>";
    let all = [VIA, ROUTE, TO, ID];
    for (start, headers, role) in [
        ("INVITE sip:b SIP/2.0", &all[..], Role::StartsDialog),
        ("INVITE sip:b SIP/2.0", &[VIA, ID, TAGGED], Role::InDialog),
        ("INVITE sip:b SIP/2.0", &[TAGGED, ID, ROUTE], Role::InDialog),
        ("REGISTER sip:b SIP/2.0", &all, Role::StartsNothing),
        ("OPTIONS sip:a@b SIP/2.0", &all, Role::StartsNothing),
        ("SUBSCRIBE sip:b SIP/2.0", &all, Role::StartsDialog),
        ("BYE sip:b SIP/2.0", &all, Role::InDialog),
        ("ACK sip:b SIP/2.0", &[VIA, TO, ID], Role::InDialog),
        ("CANCEL sip:b SIP/2.0", &all, Role::Follows),
        ("SIP/2.0 200 OK", &all, Role::Response),
        (
            "SIP/2.0 200 OK",
            &["i : x", "v:SIP/2.0/UDP  [::1]:7;x"],
            Role::Response,
        ),
    ] {
        let message = message(start, headers);
        let scan = fast(&message).unwrap_or_else(|| panic!("{start} {headers:?} was passed on"));
        assert_eq!(scan.role, role, "{start} {headers:?}");
        agree(&message).unwrap();
    }
}

/// Messages at which a scan that reads a byte too few guesses.
#[test]
fn unusual_messages_are_read_alike_or_passed_on() {
    let id = "Call-ID: x@y";
    let mut failures = Vec::new();
    for (start, headers) in [
        // Folded after the last line the scan looks for.
        (
            "INVITE sip:b SIP/2.0",
            &["To: <sip:b>", "Call-ID: x", " y"][..],
        ),
        ("INVITE sip:b SIP/2.0", &[id, "To: <sip:b>", " ;tag=1"]),
        (
            "INVITE sip:b SIP/2.0",
            &[id, "To: <sip:b>;tag=1", "\t\">\" >"],
        ),
        ("SIP/2.0 200 OK", &[id, "Via: SIP/2.0/UDP host", " :5070"]),
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:u;x", " @host;lr>"]),
        // The last bracket is within a quoted string.
        ("INVITE sip:b SIP/2.0", &[id, "To: <sip:b>;x=\">;tag=1\""]),
        ("INVITE sip:b SIP/2.0", &[id, "To: <sip:b>;tag=1;x=\">\""]),
        ("INVITE sip:b SIP/2.0", &[id, "To: \">;tag=1\""]),
        // A user part may hold what else ends a host.
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:user;x=y@host;lr>"]),
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:user?x@host;lr>"]),
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:user:7;x@host;lr>"]),
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:user:7?x@host;lr>"]),
        // Methods that begin with another's name.
        ("REGISTERS sip:b SIP/2.0", &[id, "To: <sip:b>"]),
        ("SUBSCRIB/ sip:b SIP/2.0", &[id, "To: <sip:b>"]),
        // A bracket that is closed by another header, or by none.
        (
            "SIP/2.0 200 OK",
            &[id, "Via: SIP/2.0/UDP [::1", "X: ]:5060;"],
        ),
        ("SIP/2.0 200 OK", &[id, "Via: SIP/2.0/UDP [ ]:5060;"]),
        ("SIP/2.0 200 OK", &[id, "Via: SIP/2.0/UDP [];x"]),
        // Line ends and empty lines that are none.
        ("INVITE sip:b SIP/2.0", &[id, "\r", "To: <sip:b>"]),
        ("INVITE sip:b SIP/2.0", &[id, "\n", "To: <sip:b>"]),
        ("SIP/2.0 200 OK", &[id, "Via: SIP/2.0/UDP host\r:7;x"]),
        ("INVITE sip:b SIP/2.0", &["Call-ID: x\r y", "To: <sip:b>"]),
        (
            "INVITE sip:b SIP/2.0",
            &[id, "To: <sip:b>;tag=1\nX: <sip:c>"],
        ),
        ("BYE sip:b SIP/2.0", &[id, "Route: <sip:[>:1]:6;lr>"]),
        // Names that are almost ours.
        (
            "INVITE sip:b SIP/2.0",
            &["Call-ID x: z", id, "To x", "To: <sip:b>"],
        ),
        (
            "INVITE sip:b SIP/2.0",
            &["c: x", "r: y", id, "To: <sip:b>;tag=1"],
        ),
        ("INVITE sip:b SIP/2.0", &["To : <sip:b>;TAG=", "i\t: q"]),
        ("OPTIONS sip:b SIP/2.0", &[id, "To: <sip:b>"]),
        ("OPTIONS  sip:a@b SIP/2.0", &[id, "To: <sip:b>"]),
    ] {
        let message = message(start, headers);
        failures.extend(agree(&message).err().map(|error| error.to_string()));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn start_lines() -> impl Strategy<Value = &'static str> {
    select(vec![
        "INVITE sip:b SIP/2.0",
        "INVITE sip:b SIP/2.0",
        "REGISTER sip:b SIP/2.0",
        "REGISTERX sip:b SIP/2.0",
        "OPTIONS sip:u@b SIP/2.0",
        "SUBSCRIBE sip:b SIP/2.0",
        "SUBSCRIBX sip:b SIP/2.0",
        "BYE sip:b SIP/2.0",
        "ACK sip:b SIP/2.0",
        "CANCEL sip:b SIP/2.0",
        "MESSAGE sip:b SIP/2.0",
        "SIP/2.0 200 OK",
        "SIP/2.0 180 Ringing",
    ])
}

/// Headers out of pieces that fit together, and such that do not.
fn headers() -> impl Strategy<Value = String> {
    let names = select(vec![
        "Call-ID",
        "i",
        "To",
        "t",
        "Via",
        "v",
        "Route",
        "From",
        "CALL-ID",
        "TO",
        "vIA",
        "rOUTE",
        "c",
        "r",
        "Record-Route",
        "X",
    ]);
    let colons = select(vec![
        ":", ": ", ": ", " : ", ":  \t", "\t:", " ", ":\r\n ", ":\r",
    ]);
    let pieces = select(vec![
        "<sip:",
        "<sip:",
        "SIP/2.0/UDP ",
        "SIP/2.0/UDP ",
        "SIP/2.0/TCP ",
        "host",
        "host",
        "192.0.2.1",
        "[::1]",
        "[",
        "]",
        ">",
        ">",
        ";tag=1",
        ";tag=1",
        ";lr",
        ";TAG=",
        ":5070",
        ":",
        ":0",
        ":99999",
        "user@",
        "\"",
        "\\",
        "\"a\"",
        ",",
        ", ",
        " ",
        "\t",
        "\r\n ",
        "\r\n\t",
        "\r",
        "\n",
        "?x=y",
        ";x",
        "@",
        "AbCdEfGh",
        "\u{e9}",
        "\0",
        "sips:",
        "<",
    ]);
    let well_formed = select(vec![
        "Call-ID: 1-4711@192.0.2.1",
        "i: a",
        "Call-ID : 12345678",
        "To: <sip:b>",
        "To: \"B\" <sip:b>",
        "To: <sip:b>;tag=1",
        "t: b <sip:b>;tag=2;x=y",
        "Via: SIP/2.0/UDP host:5070;branch=z",
        "Via: SIP/2.0/UDP HOST;branch=z",
        "v: SIP/2.0/UDP [2001:db8::A]:5070;branch=z",
        "Route: <sip:host;lr>",
        "Route: <sip:[::1]:6;lr>,<sip:b>",
        "Route: <sip:u@host;lr>",
    ]);
    prop_oneof![
        3 => well_formed.prop_map(str::to_owned),
        1 => (names, colons, prop::collection::vec(pieces, 0..7))
            .prop_map(|(name, colon, value)| format!("{name}{colon}{}", value.concat())),
    ]
}

/// Bytes that mean something to a scanner.
const TELLING: &[u8] = b"\r\n \t:;<>[]@\",?=\\/aTt\0\x80";

fn messages() -> impl Strategy<Value = Vec<u8>> {
    let headers = prop::collection::vec(headers(), 1..7);
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), select(TELLING), any::<bool>()),
        0..4,
    );
    (start_lines(), headers, any::<bool>(), edits).prop_map(|(start, mut headers, fill, edits)| {
        // Without them the scan would answer few.
        headers.extend(["Via: SIP/2.0/UDP a;x", "To: <sip:b>", "Call-ID: y"].map(str::to_owned));
        let fill = if fill { FILL } else { "" };
        let mut bytes = format!("{start}\r\n{}\r\n{fill}\r\n", headers.join("\r\n")).into_bytes();
        for (at, byte, insert) in edits {
            let at = at.index(bytes.len());
            if insert {
                bytes.insert(at, byte);
            } else {
                bytes[at] = byte;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_scan_answers_the_reader_answers(message in messages()) {
        agree(&message)?;
    }
}
