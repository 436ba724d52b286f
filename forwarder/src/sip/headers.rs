//! Start line and headers: long and compact names in any case, folded lines, any line ending.

use std::{borrow::Cow, ops::Range};

/// The line a message starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine<'a> {
    /// A request.
    Request {
        /// The method, as written.
        method: &'a [u8],
        /// The Request-URI, as written; empty if there is none.
        uri: &'a [u8],
    },
    /// A response.
    Response {
        /// Its status code; `None` if it has none of 100 to 699.
        code: Option<u16>,
    },
}

/// A message cut into its start line and its headers.
#[derive(Clone, Debug)]
pub struct Sip<'a> {
    /// The start line.
    pub start: StartLine<'a>,
    bytes: &'a [u8],
    /// Offset of the first header.
    headers: usize,
    index: Index,
}

/// Where the headers lie that somebody here asks for, found in one pass.
#[derive(Clone, Debug)]
pub struct Index {
    named: [Named; Name::COUNT],
    /// Offset of what stands behind the last header.
    end: u32,
    /// Goes one of them over more than one line?
    folded: bool,
}

/// The headers of one name in a message. Offsets in half the usual size: a message is moved about.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    count: u32,
    begin: u32,
    value: (u32, u32),
    folded: bool,
}

impl Index {
    fn of(mut lines: Lines<'_>) -> Self {
        let mut index = Self {
            named: [Named::NONE; Name::COUNT],
            end: 0,
            folded: false,
        };
        for line in lines.by_ref() {
            if let Some(named) = index.named.get_mut(line.name as usize) {
                index.folded |= line.folded;
                named.note(&line);
            }
        }
        index.end = lines.offset() as u32;
        index
    }

    /// The headers of a name other than [`Name::Other`].
    #[must_use]
    pub fn named(&self, name: Name) -> &Named {
        self.named.get(name as usize).unwrap_or(&Named::NONE)
    }

    /// Offset of what stands behind the last header: of the empty line.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.end as usize
    }

    /// Goes one of them over more than one line?
    #[must_use]
    pub const fn is_folded(&self) -> bool {
        self.folded
    }
}

impl Named {
    const NONE: Self = Self {
        count: 0,
        begin: 0,
        value: (0, 0),
        folded: false,
    };

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Offset of the first one, 0 if there is none.
    #[must_use]
    pub const fn begin(&self) -> usize {
        self.begin as usize
    }

    /// What stands behind the first one's colon, without the last line ending. Folds are still in it.
    #[must_use]
    pub fn value(&self) -> Option<Range<usize>> {
        let (begin, end) = self.value;
        (self.count > 0).then_some(begin as usize..end as usize)
    }

    const fn note(&mut self, line: &Line) {
        if self.count == 0 {
            self.begin = line.whole.start as u32;
            self.value = (line.value.start as u32, line.value.end as u32);
            self.folded = line.folded;
        }
        self.count += 1;
    }
}

/// Methods by which a datagram is known for SIP, whatever else its start line holds: the fast path
/// tells SIP by the method alone, and the backend will answer 400 if there is reason to.
const METHODS: [&[u8]; 14] = [
    b"INVITE",
    b"ACK",
    b"BYE",
    b"CANCEL",
    b"REGISTER",
    b"OPTIONS",
    b"PRACK",
    b"UPDATE",
    b"INFO",
    b"REFER",
    b"NOTIFY",
    b"SUBSCRIBE",
    b"MESSAGE",
    b"PUBLISH",
];

const VERSION: &[u8] = b"SIP/2.0";

impl<'a> Sip<'a> {
    /// Cuts a message; `None` if it does not start as SIP does, or is longer than 4 GiB. Line ends
    /// before the start line are skipped (RFC 3261 section 7.5).
    #[must_use]
    pub fn cut(datagram: &'a [u8]) -> Option<Self> {
        u32::try_from(datagram.len()).ok()?;
        let begin = datagram.iter().position(|&b| !matches!(b, b'\r' | b'\n'))?;
        let (line, mut headers) = cut_line(&datagram[begin..]);
        let start = start_line(line)?;
        // A folded start line is no header.
        while headers.first().copied().is_some_and(is_blank) {
            headers = cut_line(headers).1;
        }
        let headers = datagram.len() - headers.len();
        Some(Self {
            start,
            bytes: datagram,
            headers,
            index: Index::of(Lines::starting(datagram, headers)),
        })
    }

    /// The whole message, as it was received.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the headers lie that somebody here asks for.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The value of the first header of a name, unfolded, without blanks around it.
    #[must_use]
    pub fn first(&self, name: Name) -> Option<Cow<'a, [u8]>> {
        let named = self.index.named(name);
        Some(value(&self.bytes[named.value()?], named.folded))
    }

    /// The values of all headers of a name, in order, each as [`Sip::first`] has it.
    pub fn all(&self, name: Name) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let named = self.index.named(name);
        let bytes = self.bytes;
        Lines::starting(bytes, named.begin())
            .filter(move |line| line.name == name)
            .take(named.count())
            .map(|line| value(&bytes[line.value], line.folded))
    }

    /// The headers, in order.
    #[must_use]
    pub const fn headers(&self) -> Headers<'a> {
        Headers {
            lines: self.lines(),
        }
    }

    /// Where the headers lie, in order.
    #[must_use]
    pub const fn lines(&self) -> Lines<'a> {
        Lines {
            bytes: self.bytes,
            at: self.headers,
        }
    }
}

fn start_line(line: &[u8]) -> Option<StartLine<'_>> {
    let space = line.iter().position(|&b| is_blank(b))?;
    let (method, rest) = (&line[..space], trim(&line[space..]));
    if method.eq_ignore_ascii_case(VERSION) {
        return Some(StartLine::Response {
            code: status_code(rest),
        });
    }
    let uri_end = rest.iter().position(|&b| b <= b' ').unwrap_or(rest.len());
    let is_sip = METHODS.contains(&method)
        || is_token(method) && trim(&rest[uri_end..]).eq_ignore_ascii_case(VERSION);
    is_sip.then_some(StartLine::Request {
        method,
        uri: &rest[..uri_end],
    })
}

/// The status code that `text` begins with (RFC 3261 section 7.2).
fn status_code(text: &[u8]) -> Option<u16> {
    let end = text.iter().position(|&b| is_blank(b)).unwrap_or(text.len());
    let code = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    (end == 3 && (100..700).contains(&code)).then_some(code)
}

/// Is this a token (RFC 3261 section 25.1)?
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// May `byte` stand in a token (RFC 3261 section 25.1)?
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// Is `byte` a blank (SP or HT)?
#[must_use]
pub const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Offset of the first `wanted`. Eight bytes at a time: finding line ends is most of what reading a
/// message costs.
#[must_use]
#[inline]
pub fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let pattern = LOW * u64::from(wanted);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte that is 0 here is a hit. The lowest one set is right; those above it may not be.
        let difference = u64::from_le_bytes(*word) ^ pattern;
        let hits = difference.wrapping_sub(LOW) & !difference & (LOW << 7);
        if hits != 0 {
            return Some(8 * index + hits.trailing_zeros() as usize / 8);
        }
    }
    let rest = rest.iter().position(|&b| b == wanted)?;
    Some(8 * words.len() + rest)
}

/// `bytes` without blanks around them.
#[must_use]
pub fn trim(bytes: &[u8]) -> &[u8] {
    let Some(begin) = bytes.iter().position(|&b| !is_blank(b)) else {
        return &[];
    };
    let end = bytes
        .iter()
        .rposition(|&b| !is_blank(b))
        .map_or(begin, |last| last + 1);
    &bytes[begin..end]
}

/// The first line without its ending (CRLF or LF alone), and what follows it.
#[inline]
fn cut_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match find(bytes, b'\n') {
        Some(feed) => (&bytes[..feed], &bytes[feed + 1..]),
        None => (bytes, &bytes[bytes.len()..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}

/// The headers of a message, up to the empty line or the end of the datagram. Lines without a colon
/// are skipped.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    lines: Lines<'a>,
}

/// See [`Sip::lines`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// The headers of `bytes` from offset `at` on, where a line must begin.
    #[must_use]
    pub const fn starting(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Offset of what comes next; behind the last header, of the empty line.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }
}

/// Where a header lies in its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which it is.
    pub name: Name,
    /// All of it: its lines with their endings.
    pub whole: Range<usize>,
    /// What stands behind the colon, without the last line ending. Folds are still in it.
    pub value: Range<usize>,
    /// Does it go over more than one line?
    pub folded: bool,
}

impl Line {
    /// Its name as it is written in `bytes`, the message, without blanks around it.
    #[must_use]
    pub fn written<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        trim(&bytes[self.whole.start..self.value.start - 1])
    }
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Which it is.
    pub name: Name,
    /// Its value, unfolded, without blanks around it. Owned only if it was folded.
    pub value: Cow<'a, [u8]>,
}

/// The headers somebody here asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `Call-ID`, `i`.
    CallId,
    /// `To`, `t`.
    To,
    /// `From`, `f`.
    From,
    /// `Via`, `v`.
    Via,
    /// `Route`.
    Route,
    /// `CSeq`.
    CSeq,
    /// `Retry-After`.
    RetryAfter,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Proxy-Require`.
    ProxyRequire,
    /// Any other. Stands last: the others are counted.
    Other,
}

impl Name {
    /// How many there are but [`Name::Other`].
    const COUNT: usize = Self::Other as usize;

    fn of(text: &[u8]) -> Self {
        let is = |name: &[u8]| text.eq_ignore_ascii_case(name);
        match text.len() {
            1 if is(b"i") => Self::CallId,
            1 if is(b"t") => Self::To,
            1 if is(b"f") => Self::From,
            1 if is(b"v") => Self::Via,
            2 if is(b"To") => Self::To,
            3 if is(b"Via") => Self::Via,
            4 if is(b"From") => Self::From,
            4 if is(b"CSeq") => Self::CSeq,
            5 if is(b"Route") => Self::Route,
            7 if is(b"Call-ID") => Self::CallId,
            11 if is(b"Retry-After") => Self::RetryAfter,
            12 if is(b"Max-Forwards") => Self::MaxForwards,
            13 if is(b"Proxy-Require") => Self::ProxyRequire,
            _ => Self::Other,
        }
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let begin = self.at;
            let (line, mut rest) = cut_line(self.bytes.get(begin..)?);
            if line.is_empty() {
                return None;
            }
            let mut end = begin + line.len();
            let mut folded = false;
            while rest.first().copied().is_some_and(is_blank) {
                let (more, behind) = cut_line(rest);
                end = self.bytes.len() - rest.len() + more.len();
                rest = behind;
                folded = true;
            }
            self.at = self.bytes.len() - rest.len();
            if let Some(colon) = find(line, b':') {
                return Some(Line {
                    name: Name::of(trim(&line[..colon])),
                    whole: begin..self.at,
                    value: begin + colon + 1..end,
                    folded,
                });
            }
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let Line {
            name,
            value,
            folded,
            ..
        } = self.lines.next()?;
        let value = self::value(&self.lines.bytes[value], folded);
        Some(Header { name, value })
    }
}

/// What a header says: `text` unfolded, without blanks around it.
fn value(text: &[u8], folded: bool) -> Cow<'_, [u8]> {
    if folded {
        unfold(text)
    } else {
        Cow::Borrowed(trim(text))
    }
}

/// A folded value as one line.
fn unfold(text: &[u8]) -> Cow<'_, [u8]> {
    let (first, mut rest) = cut_line(text);
    let mut value = Cow::Borrowed(trim(first));
    while let Some(feed) = rest.iter().position(|&b| b == b'\n') {
        let line = &rest[..feed];
        append(&mut value, trim(line.strip_suffix(b"\r").unwrap_or(line)));
        rest = &rest[feed + 1..];
    }
    // The last line has lost its ending already.
    append(&mut value, trim(rest));
    value
}

/// Adds a folded line to a value: the fold and the blanks around it mean one blank.
fn append(value: &mut Cow<'_, [u8]>, more: &[u8]) {
    if more.is_empty() {
        return;
    }
    let value = value.to_mut();
    if !value.is_empty() {
        value.push(b' ');
    }
    value.extend_from_slice(more);
}

#[cfg(test)]
mod tests;
