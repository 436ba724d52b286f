//! A stream of messages, in any pieces.

use sip_forwarder::sip::{
    framing::{Frame, Framer, FramingError, Limits},
    headers::Sip,
};

/// As configured by default, and so small that what is fed reaches them.
const LIMITS: [Limits; 2] = [
    Limits {
        headers: 16_384,
        message: 65_536,
    },
    Limits {
        headers: 300,
        message: 400,
    },
];

/// A stream has the same frames whether it comes whole, byte by byte or in other pieces; they follow each
/// other without a gap, are within their limits, and end where the reader sees messages end.
///
/// # Panics
/// If it is not so.
pub fn framing(data: &[u8]) {
    for limits in &LIMITS {
        let whole = frames(data, [data.len()], limits);
        let bytewise = frames(data, 0..=data.len(), limits);
        assert_eq!(bytewise, whole, "byte by byte: {}", data.escape_ascii());
        let pieces = frames(data, ends(data), limits);
        assert_eq!(pieces, whole, "in pieces: {}", data.escape_ascii());
        follow_each_other(data, &whole, limits);
    }
}

/// What a stream holds.
#[derive(Debug, PartialEq, Eq)]
struct Frames {
    frames: Vec<Frame>,
    end: Option<FramingError>,
}

/// The frames of a stream that arrives up to each of `ends`, one after the other.
fn frames(stream: &[u8], ends: impl IntoIterator<Item = usize>, limits: &Limits) -> Frames {
    let (mut framer, mut found, mut begin) = (Framer::default(), Vec::new(), 0);
    for end in ends {
        loop {
            match framer.next(&stream[begin..end], limits) {
                Ok(Frame::Incomplete) => break,
                Ok(frame) => {
                    let length = length(frame);
                    assert!(length > 0, "no progress");
                    assert!(length <= end - begin, "a frame of bytes to come");
                    begin += length;
                    found.push(frame);
                }
                Err(error) => {
                    return Frames {
                        frames: found,
                        end: Some(error),
                    };
                }
            }
        }
    }
    Frames {
        frames: found,
        end: None,
    }
}

const fn length(frame: Frame) -> usize {
    match frame {
        Frame::Message { length } | Frame::Ping { length } | Frame::Blank { length } => length,
        Frame::Incomplete => 0,
    }
}

/// Ends of pieces, chosen by the bytes themselves.
fn ends(stream: &[u8]) -> Vec<usize> {
    let mut ends: Vec<usize> = (1..stream.len())
        .filter(|&at| stream[at].wrapping_mul(31) ^ (at as u8) < 40)
        .collect();
    ends.push(stream.len());
    ends
}

fn follow_each_other(stream: &[u8], whole: &Frames, limits: &Limits) {
    let mut rest = stream;
    for frame in &whole.frames {
        let bytes;
        (bytes, rest) = rest.split_at(length(*frame));
        match frame {
            Frame::Message { .. } => is_message(bytes, limits),
            Frame::Ping { .. } => assert_eq!(bytes, b"\r\n"),
            Frame::Blank { .. } => assert!(matches!(bytes, b"\r\n" | b"\r" | b"\n")),
            Frame::Incomplete => unreachable!("not kept"),
        }
    }
    if let Some(refusal) = whole.end.and_then(|error| error.refusal()) {
        assert!(matches!(refusal.status, 400 | 513), "{refusal:?}");
        assert!(refusal.headers <= rest.len().min(limits.headers));
    }
}

fn is_message(bytes: &[u8], limits: &Limits) {
    assert!(bytes.len() <= limits.message, "too long");
    // The reader takes no other version of SIP.
    let Some(sip) = Sip::cut(bytes) else { return };
    let mut lines = sip.lines();
    let lengths: Vec<&[u8]> = lines
        .by_ref()
        .filter(|line| {
            let name = line.written(bytes).to_ascii_lowercase();
            name == b"l" || name == b"content-length"
        })
        .map(|line| bytes[line.value].trim_ascii())
        .collect();
    let end = lines.offset();
    assert_eq!(bytes.get(end..end + 2), Some(&b"\r\n"[..]), "no empty line");
    assert!(end + 2 <= limits.headers, "headers too long");
    assert!(!lengths.is_empty(), "no Content-Length");
    let body = bytes.len() - end - 2;
    for length in lengths {
        let text = std::str::from_utf8(length).expect("a number");
        assert_eq!(text.parse(), Ok(body), "another length than it says");
    }
}
