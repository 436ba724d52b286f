//! Where messages begin and end in a stream of bytes (RFC 3261 section 18.3), however the stream arrives
//! in pieces.
//!
//! The headers end where the full reader ([`super::headers`]) sees them end. What other readers may see
//! elsewhere, because a line ends in CR or LF alone, is refused: streams to backends carry messages of
//! many senders, and nobody may write one that the backend takes for two.

mod first_line;

use super::headers::{self, Line, Lines};
use first_line::{FirstLine, Progress};

/// Largest sizes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of start line and headers, with the empty line behind them.
    pub headers: usize,
    /// Of a whole message.
    pub message: usize,
}

/// Longest first line, in bytes with its ending; a longer one is no SIP.
pub const FIRST_LINE: usize = 8 * 1024;

/// What a stream goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Message {
        /// Its bytes, headers and body.
        length: usize,
    },
    /// The second of two line ends in a row: a keep-alive, to be answered with one CRLF (RFC 5626
    /// section 4.4.1). The first was [`Frame::Blank`].
    Ping {
        /// Its bytes.
        length: usize,
    },
    /// A line end before a message, to be skipped (RFC 3261 section 7.5), or the answer to a keep-alive.
    Blank {
        /// Its bytes.
        length: usize,
    },
    /// Nothing whole yet: more bytes are needed.
    Incomplete,
}

/// Why nothing more can be read from a stream: where the next message would begin is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// What begins is no message.
    #[error("the stream does not go on with a SIP request or status line; look at what sends it")]
    NotSip,
    /// The headers do not end within the limit.
    #[error(
        "the headers are longer than {limit} bytes; raise connections.max_headers if they must be"
    )]
    HeadersTooLong {
        /// The limit.
        limit: usize,
        /// Up to here there are whole headers.
        headers: usize,
    },
    /// Headers and body are longer than the limit together.
    #[error(
        "the message is {length} bytes long, more than {limit}; raise connections.max_message if it must be"
    )]
    MessageTooLong {
        /// The limit.
        limit: usize,
        /// The length that the message would have.
        length: u64,
        /// The length of its headers.
        headers: usize,
    },
    /// There is no Content-Length, which a stream cannot do without (RFC 3261 section 18.3).
    #[error("the message has no Content-Length, which streams need; its sender must add it")]
    NoContentLength {
        /// The length of the headers.
        headers: usize,
    },
    /// Content-Length is no number.
    #[error("the message's Content-Length is not a number; its sender must correct it")]
    BadContentLength {
        /// The length of the headers.
        headers: usize,
    },
    /// Two Content-Lengths contradict each other.
    #[error("the message has two different Content-Lengths; its sender must leave one out")]
    TwoContentLengths {
        /// The length of the headers.
        headers: usize,
    },
    /// CR or LF stands alone.
    #[error("a header line ends in CR or LF alone; the sender must end lines by CR and LF")]
    BareLineEnd {
        /// The length of the headers.
        headers: usize,
    },
}

/// How to answer what could not be framed, before the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code: 400 or 513.
    pub status: u16,
    /// So many bytes of the stream hold whole headers, from which an answer can be made if it was a
    /// request.
    pub headers: usize,
}

impl FramingError {
    /// How to answer; `None` if there is nothing to answer to.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        let (status, headers) = match *self {
            Self::NotSip => return None,
            Self::HeadersTooLong { headers, .. } | Self::MessageTooLong { headers, .. } => {
                (513, headers)
            }
            Self::NoContentLength { headers }
            | Self::BadContentLength { headers }
            | Self::TwoContentLengths { headers }
            | Self::BareLineEnd { headers } => (400, headers),
        };
        Some(Refusal { status, headers })
    }
}

/// Finds one message after the other in a stream. Remembers how far it has looked, so that each byte is
/// looked at a fixed number of times however the stream arrives.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    stage: Stage,
    /// Was the last frame a line end that may be the first half of a keep-alive?
    half_ping: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    FirstLine(FirstLine),
    Headers(Section),
    /// The message ends here.
    Body(usize),
}

impl Default for Stage {
    fn default() -> Self {
        Self::FirstLine(FirstLine::default())
    }
}

impl Framer {
    /// What the stream goes on with. `pending` begins at the first byte that was not consumed; the caller
    /// consumes the length of a frame, and asks again. After an error the stream is of no more use.
    ///
    /// Between two frames, `pending` must hold what it held before, with more behind it.
    pub fn next(&mut self, pending: &[u8], limits: &Limits) -> Result<Frame, FramingError> {
        loop {
            match &mut self.stage {
                Stage::FirstLine(line) => {
                    if line.is_new()
                        && let Some(frame) = line_end(pending, &mut self.half_ping)
                    {
                        return Ok(frame);
                    }
                    let longest = limits.headers.min(FIRST_LINE);
                    match line.advance(pending, longest) {
                        Progress::NotSip => return Err(FramingError::NotSip),
                        Progress::Incomplete => return Ok(Frame::Incomplete),
                        Progress::Ends(end) => self.stage = Stage::Headers(Section::behind(end)),
                    }
                }
                Stage::Headers(section) => match section.advance(pending, limits)? {
                    Some(length) => self.stage = Stage::Body(length),
                    None => return Ok(Frame::Incomplete),
                },
                Stage::Body(length) => {
                    let length = *length;
                    if pending.len() < length {
                        return Ok(Frame::Incomplete);
                    }
                    *self = Self::default();
                    return Ok(Frame::Message { length });
                }
            }
        }
    }

    /// Has a message begun that is not complete? Line ends between messages do not begin one.
    #[must_use]
    pub const fn is_within_message(&self) -> bool {
        match &self.stage {
            Stage::FirstLine(line) => !line.is_new(),
            Stage::Headers(_) | Stage::Body(_) => true,
        }
    }
}

/// The line end that `pending` begins with, as a frame: CRLF, or CR or LF alone, which the full reader
/// skips as well. `None` if something else comes, or `Incomplete` if that cannot be told yet.
fn line_end(pending: &[u8], half_ping: &mut bool) -> Option<Frame> {
    let length = match pending {
        [] | [b'\r'] => return Some(Frame::Incomplete),
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => return None,
    };
    let second = length == 2 && *half_ping;
    *half_ping = length == 2 && !second;
    Some(if second {
        Frame::Ping { length }
    } else {
        Frame::Blank { length }
    })
}

/// The headers, as far as they were looked at.
#[derive(Clone, Copy, Debug)]
struct Section {
    /// Behind the first line.
    begin: usize,
    /// Behind the last whole line.
    line: usize,
    /// Up to here there is no line end that is not known.
    looked: usize,
}

impl Section {
    const fn behind(first_line: usize) -> Self {
        Self {
            begin: first_line,
            line: first_line,
            looked: first_line,
        }
    }

    /// The length of the message, once the headers are complete.
    fn advance(&mut self, pending: &[u8], limits: &Limits) -> Result<Option<usize>, FramingError> {
        let within = &pending[..pending.len().min(limits.headers)];
        if let Some(end) = self.end(within) {
            return message_length(&pending[..end], self.begin, limits).map(Some);
        }
        if within.len() < limits.headers {
            return Ok(None);
        }
        Err(FramingError::HeadersTooLong {
            limit: limits.headers,
            headers: whole_headers(within),
        })
    }

    /// Offset behind the empty line.
    fn end(&mut self, within: &[u8]) -> Option<usize> {
        while let Some(distance) = headers::find(&within[self.looked..], b'\n') {
            let feed = self.looked + distance;
            let line = &within[self.line..feed];
            self.line = feed + 1;
            self.looked = feed + 1;
            if matches!(line, b"" | b"\r") {
                return Some(feed + 1);
            }
        }
        self.looked = within.len();
        None
    }
}

/// Where the last header begins of which the end is not known. Lines that go on a header belong to it.
fn whole_headers(within: &[u8]) -> usize {
    within
        .windows(2)
        .rposition(|pair| pair[0] == b'\n' && !headers::is_blank(pair[1]))
        .map_or(0, |feed| feed + 1)
}

/// The length of the message that begins with `section`, which ends with the empty line.
fn message_length(
    section: &[u8],
    first_header: usize,
    limits: &Limits,
) -> Result<usize, FramingError> {
    let headers = section.len();
    if has_bare_line_end(section) {
        return Err(FramingError::BareLineEnd { headers });
    }
    let body = content_length(section, first_header)?;
    let length = body.saturating_add(headers as u64);
    let limit = limits.message;
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or(FramingError::MessageTooLong {
            limit,
            length,
            headers,
        })
}

/// Does CR stand without LF, or LF without CR?
fn has_bare_line_end(section: &[u8]) -> bool {
    section.first() == Some(&b'\n')
        || section.last() == Some(&b'\r')
        || section
            .windows(2)
            .any(|pair| (pair[0] == b'\r') != (pair[1] == b'\n'))
}

fn content_length(section: &[u8], first_header: usize) -> Result<u64, FramingError> {
    let headers = section.len();
    let mut found = None;
    for line in Lines::starting(section, unfolded(section, first_header)) {
        if !is_content_length(&line, section) {
            continue;
        }
        let length =
            number(&section[line.value]).ok_or(FramingError::BadContentLength { headers })?;
        if found.is_some_and(|before| before != length) {
            return Err(FramingError::TwoContentLengths { headers });
        }
        found = Some(length);
    }
    found.ok_or(FramingError::NoContentLength { headers })
}

/// The first header at or behind `at`: lines that go on the first line are none.
fn unfolded(section: &[u8], mut at: usize) -> usize {
    while section.get(at).copied().is_some_and(headers::is_blank) {
        let feed = headers::find(&section[at..], b'\n');
        at = feed.map_or(section.len(), |distance| at + distance + 1);
    }
    at
}

fn is_content_length(line: &Line, section: &[u8]) -> bool {
    let name = line.written(section);
    name.eq_ignore_ascii_case(b"l") || name.eq_ignore_ascii_case(b"Content-Length")
}

/// The number that a value is, blanks and folds around it aside; the largest there is, if it is larger
/// than that.
fn number(value: &[u8]) -> Option<u64> {
    let around = |byte: &u8| headers::is_blank(*byte) || matches!(byte, b'\r' | b'\n');
    let begin = value.iter().position(|byte| !around(byte))?;
    let end = value.iter().rposition(|byte| !around(byte))?;
    value[begin..=end].iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests;
