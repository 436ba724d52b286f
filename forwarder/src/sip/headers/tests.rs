use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_byte_is_found_where_it_is_first(bytes in proptest::collection::vec(8u8..13, 0..40), wanted in 8u8..13) {
        prop_assert_eq!(find(&bytes, wanted), bytes.iter().position(|&b| b == wanted));
        let high: Vec<u8> = bytes.iter().map(|b| b ^ 0x80).collect();
        prop_assert_eq!(find(&high, wanted), None);
        prop_assert_eq!(find(&high, wanted ^ 0x80), bytes.iter().position(|&b| b == wanted));
    }
}

fn all(datagram: &[u8]) -> Vec<(Name, String)> {
    Sip::cut(datagram)
        .unwrap()
        .headers()
        .map(|h| (h.name, String::from_utf8(h.value.into_owned()).unwrap()))
        .collect()
}

#[test]
fn names_may_be_long_or_compact_in_any_case_with_blanks_before_the_colon() {
    let text =
        b"BYE sip:a SIP/2.0\r\nCALL-id \t:  a  \r\nI:b\r\nt : c\r\nVIA:d\r\nx-y: e\r\n\r\nTo: body";
    assert_eq!(
        all(text),
        [
            (Name::CallId, "a".into()),
            (Name::CallId, "b".into()),
            (Name::To, "c".into()),
            (Name::Via, "d".into()),
            (Name::Other, "e".into())
        ]
    );
}

#[test]
fn folded_lines_are_joined_by_one_blank() {
    let text = b"BYE sip:a SIP/2.0\r\nTo:\r\n <sip:a>  \r\n\t ;tag=1\r\n  \r\nFrom: x\n y\n\n";
    assert_eq!(
        all(text),
        [
            (Name::To, "<sip:a> ;tag=1".into()),
            (Name::From, "x y".into())
        ]
    );
}

#[test]
fn line_feeds_alone_end_lines_and_leading_line_ends_are_skipped() {
    let text = b"\r\n\n\r\nBYE sip:a SIP/2.0\nTo: a\nno colon\nFrom: b\n\nVia: body";
    assert_eq!(
        all(text),
        [(Name::To, "a".into()), (Name::From, "b".into())]
    );
}

#[test]
fn a_folded_start_line_is_no_header() {
    assert_eq!(
        all(b"BYE sip:a SIP/2.0\r\n To: a\r\nTo: b\r\n\r\n"),
        [(Name::To, "b".into())]
    );
}

#[test]
fn start_lines_are_told() {
    let start = |bytes| Sip::cut(bytes).map(|sip| sip.start);
    let response = |code| Some(StartLine::Response { code });
    assert_eq!(start(b"SIP/2.0 200 OK\r\n"), response(Some(200)));
    assert_eq!(start(b"sip/2.0 699"), response(Some(699)));
    for odd in [
        &b"SIP/2.0 "[..],
        b"SIP/2.0 2000 OK",
        b"SIP/2.0 +20 OK",
        b"SIP/2.0 700 No",
        b"SIP/2.0 20\xff",
    ] {
        assert_eq!(start(odd), response(None), "{odd:?}");
    }
    let request = |method, uri| Some(StartLine::Request { method, uri });
    assert_eq!(start(b"FOO  sip:a  SIP/2.0\n"), request(b"FOO", b"sip:a"));
    assert_eq!(start(b"INVITE sip:a\r\n"), request(b"INVITE", b"sip:a"));
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"",
        b"\r\n",
        b"SIP/2.0",
        b"F(O sip:a SIP/2.0",
        b"\x00\x01\x00\x00 SIP/2.0",
        b" SIP/2.0 200 OK",
    ] {
        assert_eq!(start(other), None, "{other:?}");
    }
}
