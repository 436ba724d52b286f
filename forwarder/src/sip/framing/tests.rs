use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const LIMITS: Limits = Limits {
    headers: 2_000,
    message: 4_000,
};

type Outcome = (Vec<Frame>, Option<FramingError>);

/// The frames of a stream that arrives up to each of `ends`, one after the other.
fn frames(stream: &[u8], ends: impl IntoIterator<Item = usize>) -> Outcome {
    let (mut framer, mut found, mut begin) = (Framer::default(), Vec::new(), 0);
    for end in ends {
        loop {
            match framer.next(&stream[begin..end], &LIMITS) {
                Ok(Frame::Incomplete) => break,
                Ok(frame) => {
                    let (Frame::Message { length }
                    | Frame::Ping { length }
                    | Frame::Blank { length }) = frame
                    else {
                        unreachable!("Incomplete ends the loop")
                    };
                    begin += length;
                    found.push(frame);
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn whole(stream: &[u8]) -> Outcome {
    frames(stream, [stream.len()])
}

/// The one frame of a stream, or the error that it begins with.
fn one(stream: &[u8]) -> Result<Frame, FramingError> {
    Framer::default().next(stream, &LIMITS)
}

fn message(headers: &str, body: &str) -> String {
    format!("BYE sip:a SIP/2.0\r\n{headers}\r\n{body}")
}

#[test]
fn content_length_is_found_however_it_is_written() {
    for header in [
        "Content-Length: 4\r\n",
        "CONTENT-LENGTH:4\r\n",
        "l: 4\r\n",
        "L \t:  4 \t\r\n",
        "content-length:\r\n\t4\r\n",
        "l: 4\r\n \r\n",
        "l: 0004\r\n",
        "l: 4\r\nTo: x\r\nContent-Length: 04\r\n",
        "no colon\r\nl: 4\r\n",
        " To: folded\r\nl: 4\r\n",
    ] {
        let text = message(header, "1234");
        let length = text.len();
        assert_eq!(
            one(format!("{text}more").as_bytes()),
            Ok(Frame::Message { length }),
            "{header:?}"
        );
        assert_eq!(
            one(&text.as_bytes()[..length - 1]),
            Ok(Frame::Incomplete),
            "{header:?}"
        );
    }
}

#[test]
fn what_content_length_may_not_be_is_refused_with_400() {
    let no = |headers| FramingError::NoContentLength { headers };
    let bad = |headers| FramingError::BadContentLength { headers };
    let two = |headers| FramingError::TwoContentLengths { headers };
    let bare = |headers| FramingError::BareLineEnd { headers };
    for (header, fault) in [
        ("To: x\r\n", &no as &dyn Fn(_) -> _),
        (" l: 4\r\n", &no),
        ("To: x\r\n l: 4\r\n", &no),
        ("Content-Lengths: 4\r\n", &no),
        ("l:\r\n", &bad),
        ("l: -4\r\n", &bad),
        ("l: +4\r\n", &bad),
        ("l: 0x4\r\n", &bad),
        ("l: 4, 4\r\n", &bad),
        ("l: 4;x\r\n", &bad),
        ("l: 1\r\n 2\r\n", &bad),
        ("l: 4\r\nContent-Length: 5\r\n", &two),
        ("l: 4\n", &bare),
        ("l: 4\r\nTo: a\rb\r\n", &bare),
    ] {
        let text = message(header, "");
        let error = fault(text.len());
        assert_eq!(one(text.as_bytes()), Err(error), "{header:?}");
        let refusal = Refusal {
            status: 400,
            headers: text.len(),
        };
        assert_eq!(error.refusal(), Some(refusal));
    }
}

#[test]
fn headers_end_where_the_reader_sees_them_end() {
    for end in ["\n\n", "\n\r\n", "\r\n\n"] {
        let text = format!("BYE sip:a SIP/2.0\r\nl: 0{end}");
        let headers = text.len();
        assert_eq!(
            one(format!("{text}l: 9\r\n\r\n").as_bytes()),
            Err(FramingError::BareLineEnd { headers }),
            "{end:?}"
        );
    }
}

#[test]
fn a_message_too_long_is_known_by_its_headers() {
    for (length, whole) in [
        ("1073741824", 1_073_741_824),
        ("3971", 3_971),
        ("99999999999999999999999999", u64::MAX),
    ] {
        let text = message(&format!("l: {length}\r\n"), "");
        let headers = text.len();
        let error = FramingError::MessageTooLong {
            limit: LIMITS.message,
            length: (headers as u64).saturating_add(whole),
            headers,
        };
        assert_eq!(one(text.as_bytes()), Err(error));
        let refusal = Refusal {
            status: 513,
            headers,
        };
        assert_eq!(error.refusal(), Some(refusal));
    }
    let text = message("l: 3970\r\n", "");
    assert_eq!(text.len() + 3_970, LIMITS.message);
    assert_eq!(one(text.as_bytes()), Ok(Frame::Incomplete));
}

#[test]
fn headers_too_long_are_answered_from_those_that_are_whole() {
    let known = "BYE sip:a SIP/2.0\r\nVia: x\r\n y\r\n";
    let folded = format!("{known}To: {}\r\n z", "y\r\n ".repeat(LIMITS.headers));
    let error = FramingError::HeadersTooLong {
        limit: LIMITS.headers,
        headers: known.len(),
    };
    assert_eq!(one(folded.as_bytes()), Err(error));
    assert_eq!(error.refusal().map(|r| r.status), Some(513));

    let padding = |length| {
        let rest = length - "BYE sip:a SIP/2.0\r\nl: 0\r\nX: \r\n\r\n".len();
        message(&format!("l: 0\r\nX: {}\r\n", "x".repeat(rest)), "")
    };
    let longest = padding(LIMITS.headers);
    assert_eq!(longest.len(), LIMITS.headers);
    assert!(matches!(one(longest.as_bytes()), Ok(Frame::Message { .. })));
    assert!(matches!(
        one(padding(LIMITS.headers + 1).as_bytes()),
        Err(FramingError::HeadersTooLong { .. })
    ));
}

/// So many bytes are looked at before it is known that something is no SIP.
fn refused_after(stream: &[u8]) -> usize {
    (0..=stream.len())
        .find(|&length| one(&stream[..length]) == Err(FramingError::NotSip))
        .unwrap_or_else(|| panic!("taken for SIP: {}", stream.escape_ascii()))
}

#[test]
fn what_is_no_sip_is_known_by_its_first_bytes() {
    for (stream, after) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], 1),
        (b"\x80\x2e\x01", 1),
        (b"\0\0\0\0", 1),
        (b"<?xml", 1),
        (b" INVITE sip:a SIP/2.0\r\n", 1),
        (b"GET / HTTP/1.1\r\n", 5),
        (b"OPTIONS * HTTP/1.1\r\n", 9),
        (b"HTTP/1.1 200 OK\r\n", 5),
        (b"SIPS/2.0 200 OK\r\n", 5),
        (b"SIP/x.0 200 OK\r\n", 5),
        (b"SIP/2 200 OK\r\n", 6),
        (b"INV\x07ITE", 4),
        (b"INVITE sip:\x00", 12),
        (b"INVITE sip:a\rb", 14),
        (b"CONNECT host:80 HTTP/1.1\r\n", 26),
        (b"EHLO mail\r\n", 11),
        (b"INVITE SIP/2.0\r\n", 16),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 20),
        (b"SIP/2.0\r\n", 8),
    ] {
        assert_eq!(refused_after(stream), after, "{}", stream.escape_ascii());
    }
    let endless = vec![b'A'; FIRST_LINE + 1];
    let wide = Limits {
        headers: 2 * FIRST_LINE,
        message: 2 * FIRST_LINE,
    };
    let mut framer = Framer::default();
    let before = framer.next(&endless[..FIRST_LINE - 1], &wide);
    assert_eq!(before, Ok(Frame::Incomplete));
    let error = framer.next(&endless[..FIRST_LINE], &wide).unwrap_err();
    assert_eq!(error, FramingError::NotSip);
    assert_eq!(error.refusal(), None);
}

#[test]
fn first_lines_that_the_reader_takes_or_answers_are_taken() {
    for line in [
        "SIP/2.0 200 OK",
        "sip/2.0 200",
        "SIP/2.0 200 n\u{e9}",
        "SIP/3.14 100 Trying",
        "INVITE  sip:a  SIP/2.0 \t",
        "OPTIONS sip:a SIP/7.0",
        "!odd%~ <sip:a; b> sip/2.0",
    ] {
        let text = format!("{line}\r\nl: 0\r\n\r\n");
        let length = text.len();
        assert_eq!(
            one(text.as_bytes()),
            Ok(Frame::Message { length }),
            "{line}"
        );
    }
}

#[test]
fn every_second_line_end_in_a_row_is_a_ping() {
    let bye = message("l: 2\r\n", "\r\n");
    let length = bye.len();
    let stream = format!("\r\n\r\n\r\n{bye}\r\n\n\r\n\r\r\n\r\n{bye}");
    let (blank, ping, one_byte) = (
        Frame::Blank { length: 2 },
        Frame::Ping { length: 2 },
        Frame::Blank { length: 1 },
    );
    let bye = Frame::Message { length };
    let expected = [
        blank, ping, blank, bye, blank, one_byte, blank, one_byte, blank, ping, bye,
    ];
    assert_eq!(whole(stream.as_bytes()), (expected.to_vec(), None));
}

#[test]
fn line_ends_between_messages_begin_no_message() {
    let mut framer = Framer::default();
    assert!(!framer.is_within_message());
    for (pending, frame, within) in [
        (&b"\r"[..], Frame::Incomplete, false),
        (b"\r\n", Frame::Blank { length: 2 }, false),
        (b"B", Frame::Incomplete, true),
        (b"BYE sip:a SIP/2.0\r\nl:1", Frame::Incomplete, true),
        (b"BYE sip:a SIP/2.0\r\nl:1\r\n\r\n", Frame::Incomplete, true),
        (
            b"BYE sip:a SIP/2.0\r\nl:1\r\n\r\n.",
            Frame::Message { length: 27 },
            false,
        ),
    ] {
        assert_eq!(framer.next(pending, &LIMITS), Ok(frame));
        assert_eq!(framer.is_within_message(), within, "{pending:?}");
    }
}

/// The torture messages that are not one message of a stream, and what they are.
fn torture(name: &str, stream: &[u8]) -> Result<Frame, FramingError> {
    let headers = stream
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an empty line")
        + 4;
    match name {
        // Content-Lengths beyond the end, and before it.
        "clerr" | "ipv6-in-sdp" => Ok(Frame::Incomplete),
        "ipv4-mapped-ipv6" => Ok(Frame::Message { length: 648 }),
        "mult-ip-in-sdp" => Ok(Frame::Message { length: 522 }),
        // Two requests.
        "dblreq" => Ok(Frame::Message { length: headers }),
        "inv2543" => Err(FramingError::NoContentLength { headers }),
        "mcl01" => Err(FramingError::TwoContentLengths { headers }),
        "ncl" => Err(FramingError::BadContentLength { headers }),
        _ => Ok(Frame::Message {
            length: stream.len(),
        }),
    }
}

#[test]
fn torture_messages_are_framed_whole_and_byte_by_byte() {
    let wide = Limits {
        headers: 16_384,
        message: 65_536,
    };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let mut seen = 0;
    for folder in ["rfc4475", "rfc5118"] {
        for entry in fs::read_dir(corpus.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let stream = fs::read(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let expected = torture(name, &stream);
            assert_eq!(Framer::default().next(&stream, &wide), expected, "{name}");
            let mut framer = Framer::default();
            let bytewise = (0..=stream.len())
                .map(|length| framer.next(&stream[..length], &wide))
                .find(|frame| *frame != Ok(Frame::Incomplete));
            assert_eq!(
                bytewise.unwrap_or(Ok(Frame::Incomplete)),
                expected,
                "{name}"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 61);
}

/// Messages, line ends, and now and then something else.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let header = select(vec![
        "To: x\r\n",
        "Via: a\r\n b\r\n",
        "X:\r\n\t\r\n",
        "odd\r\n",
    ]);
    let length = select(vec!["l", "Content-Length", "CONTENT-length \t", "L "]);
    let start = select(vec![
        "BYE sip:a SIP/2.0",
        "SIP/2.0 200 OK",
        "FOO tel:1  SIP/7.1 ",
    ]);
    let message = (start, vec(header, 0..4), length, vec(any::<u8>(), 0..40)).prop_map(
        |(start, headers, name, body)| {
            let headers = headers.concat();
            let head = format!("{start}\r\n{headers}{name}: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        },
    );
    let ends = select(vec!["\r\n", "\r\n\r\n", "\n", "\r", "\r\n\n\r\n"]);
    let odd = select(vec![
        "BYE sip:a SIP/2.0\r\nl: 3\r\nl: 4\r\n\r\n",
        "BYE sip:a SIP/2.0\r\nl: 99999\r\n\r\n",
        "BYE sip:a SIP/2.0\nl: 3\n\nabc",
        "\x16\x03",
        "GET / HTTP/1.1\r\n\r\n",
    ]);
    prop_oneof![
        12 => message,
        6 => ends.prop_map(|text| text.as_bytes().to_vec()),
        1 => odd.prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
    ]
}

/// A whole message that `stream` begins with is one that the reader reads alike.
fn reads_alike(stream: &[u8]) -> bool {
    use crate::sip::headers::Sip;
    let Ok(Frame::Message { length }) = one(stream) else {
        return true;
    };
    let Some(sip) = Sip::cut(&stream[..length]) else {
        // Another version of SIP.
        return true;
    };
    let mut lines = sip.lines();
    let values: Vec<&[u8]> = lines
        .by_ref()
        .filter(|line| is_content_length(line, stream))
        .map(|line| &stream[line.value])
        .collect();
    let body = stream[lines.offset()..length]
        .strip_prefix(b"\r\n")
        .unwrap();
    values
        .iter()
        .all(|value| number(value) == Some(body.len() as u64))
        && !values.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_a_stream_is_split_its_frames_are_the_same(
        pieces in vec(piece(), 0..8),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = pieces.concat();
        let whole = whole(&stream);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(stream.len());
        prop_assert_eq!(&frames(&stream, ends), &whole);
        prop_assert_eq!(&frames(&stream, 0..=stream.len()), &whole);
    }

    #[test]
    fn a_message_is_one_to_the_reader_too(piece in piece()) {
        prop_assert!(reads_alike(&piece));
    }
}

#[test]
fn generated_messages_are_framed_as_they_were_made() {
    let bodies = ["", "x", "\r\n\r\n", "BYE sip:a SIP/2.0\r\nl: 0\r\n\r\n"];
    let messages = bodies.map(|body| message(&format!("l: {}\r\n", body.len()), body));
    let stream = messages.concat();
    let expected = messages
        .each_ref()
        .map(|text| Frame::Message { length: text.len() });
    assert_eq!(whole(stream.as_bytes()), (expected.to_vec(), None));
    assert_eq!(
        frames(stream.as_bytes(), 0..=stream.len()),
        (expected.to_vec(), None)
    );
}
