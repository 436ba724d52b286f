//! Messages out of a stream (RFC 3261 section 18.3): the head ends with an empty line, Content-Length says how much
//! follows. A CRLF before a message is a keep-alive or an answer to one (RFC 5626 section 3.5.1).

use anyhow::{Context, Result, ensure};

/// What stands in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A message, body included.
    Message(Vec<u8>),
    /// An empty line between messages.
    Crlf,
}

/// Collects bytes, and gives units once they are whole.
#[derive(Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// What stands before was given.
    start: usize,
}

impl Framer {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.behind().extend_from_slice(bytes);
    }

    /// What was read is put behind what this holds.
    pub fn behind(&mut self) -> &mut Vec<u8> {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        &mut self.bytes
    }

    /// The next unit, if it is there whole.
    pub fn next_unit(&mut self) -> Result<Option<Unit>> {
        let left = &self.bytes[self.start..];
        if left.starts_with(b"\r\n") {
            self.start += 2;
            return Ok(Some(Unit::Crlf));
        }
        let Some(head) = left.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let length = head + 4 + content_length(&left[..head])?;
        if left.len() < length {
            return Ok(None);
        }
        let message = left[..length].to_vec();
        self.start += length;
        Ok(Some(Unit::Message(message)))
    }
}

fn content_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head).context("a message's head is no text")?;
    let value = head.split("\r\n").skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim_end();
        (name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("l"))
            .then(|| value.trim())
    });
    let value = value.with_context(|| format!("no Content-Length in a stream:\n{head}"))?;
    let length = value
        .parse()
        .with_context(|| format!("Content-Length {value}"))?;
    ensure!(length < 1 << 26, "Content-Length {length}");
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Message;

    #[test]
    fn units_come_whole_however_the_bytes_come() {
        let (first, second) = (Message::invite().build(), Message::bye().compact().build());
        let stream = [b"\r\n\r\n", &first[..], b"\r\n", &second[..]].concat();
        let expected = [
            Unit::Crlf,
            Unit::Crlf,
            Unit::Message(first),
            Unit::Crlf,
            Unit::Message(second),
        ];
        for size in [1, 7, 100, stream.len()] {
            let mut framer = Framer::default();
            let mut units = Vec::new();
            for piece in stream.chunks(size) {
                framer.push(piece);
                while let Some(unit) = framer.next_unit().unwrap() {
                    units.push(unit);
                }
            }
            assert_eq!(units, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_without_an_end_is_a_fault() {
        let mut framer = Framer::default();
        framer.push(b"SIP/2.0 200 OK\r\nTo: a\r\n\r\n");
        framer.next_unit().unwrap_err();
    }
}
