//! A message for a stream, whose end must be known from its Content-Length (RFC 3261 section 18.3).
//! One that came as a datagram or over WebSocket need not have one.

use bytes::Bytes;

use crate::sip::framing::{Frame, Framer, FramingError, Limits};

/// The message as a stream may carry it: with a Content-Length, and without what stands behind the
/// body. `None` if its body is shorter than it says, or it says two things.
pub(super) fn for_stream(message: &Bytes) -> Option<Bytes> {
    let limits = Limits {
        headers: message.len(),
        message: usize::MAX,
    };
    match Framer::default().next(message, &limits) {
        Ok(Frame::Message { length }) => Some(message.slice(..length)),
        Err(FramingError::NoContentLength { headers }) => with_length(message, headers),
        _ => None,
    }
}

/// Adds the header, before the empty line.
fn with_length(message: &[u8], headers: usize) -> Option<Bytes> {
    let empty_line = headers.checked_sub(2)?;
    let body = &message[headers..];
    let mut whole = Vec::with_capacity(message.len() + 24);
    whole.extend_from_slice(&message[..empty_line]);
    whole.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    whole.extend_from_slice(body);
    Some(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_leaves_with_its_length() {
        let of = |headers: &str, body: &str| {
            Bytes::from(format!("BYE sip:a SIP/2.0\r\nTo: b\r\n{headers}\r\n{body}"))
        };
        for (given, left) in [
            (of("l: 3\r\n", "abc"), Some(of("l: 3\r\n", "abc"))),
            (of("l: 3\r\n", "abcdef"), Some(of("l: 3\r\n", "abc"))),
            (of("l: 3\r\n", "ab"), None),
            (of("l: 3\r\nl: 2\r\n", "abc"), None),
            (of("", "abc"), Some(of("Content-Length: 3\r\n", "abc"))),
            (of("", ""), Some(of("Content-Length: 0\r\n", ""))),
            (Bytes::from_static(b"hello"), None),
        ] {
            assert_eq!(for_stream(&given), left, "{given:?}");
        }
    }
}
