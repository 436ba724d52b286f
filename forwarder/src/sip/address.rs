//! What lies inside the values of To, Via, Route and URIs: tags, hosts, ports.

use std::ops::Range;

use sip_forwarder_ebpf::scan::DEFAULT_PORT;
use smallvec::SmallVec;

use super::headers::{find, is_blank, trim};

/// Where a host lies in the bytes it was found in, and the port that belongs to it.
pub type HostPort = (Range<usize>, u16);

/// A short text that is made for a message. Nothing is allocated for one of usual length: the longest
/// name a host can have is 253 bytes (RFC 1035 section 2.3.4).
pub type Text = SmallVec<[u8; 256]>;

/// The bytes of a value that lie outside quoted strings, with their offsets. A quote that is never
/// closed is a byte like any other, and so is every quote behind it.
#[must_use]
pub fn unquoted(value: &[u8]) -> Unquoted<'_> {
    Unquoted {
        value,
        at: 0,
        quote: quote_from(value, 0),
    }
}

/// See [`unquoted`].
#[derive(Clone, Debug)]
pub struct Unquoted<'a> {
    value: &'a [u8],
    at: usize,
    /// Offset of the next quote that opens something; none is left behind one that is never closed,
    /// which also keeps the walk linear.
    quote: Option<usize>,
}

impl Iterator for Unquoted<'_> {
    type Item = (usize, u8);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.quote == Some(self.at) {
            self.quote = match closing_quote(self.value, self.at) {
                Some(close) => {
                    self.at = close + 1;
                    quote_from(self.value, self.at)
                }
                None => None,
            };
        }
        let at = self.at;
        self.at += 1;
        self.value.get(at).map(|&byte| (at, byte))
    }
}

/// Offset of the first quote from `at` on.
fn quote_from(value: &[u8], at: usize) -> Option<usize> {
    find(&value[at..], b'"').map(|length| at + length)
}

/// Offset of the quote that closes the one at `open`.
fn closing_quote(value: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match value.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The parameters of a list like `;a=b;c`, each without the blanks around it. What stands before the
/// first semicolon is not one.
pub fn parameters(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    parameter_ranges(text).map(|range| &text[range])
}

/// Where the [`parameters`] lie.
pub fn parameter_ranges(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut ends = unquoted_semicolons(text).chain([text.len()]);
    let mut begin = ends.next().unwrap_or(text.len());
    ends.map(move |end| {
        let parameter = trim_range(text, begin + 1..end);
        begin = end;
        parameter
    })
}

fn unquoted_semicolons(text: &[u8]) -> impl Iterator<Item = usize> {
    let mut bytes = unquoted(text);
    std::iter::from_fn(move || {
        // Without a quote ahead, as nearly always, there is nothing to skip.
        if bytes.quote.is_some() {
            return bytes.find(|&(_, byte)| byte == b';').map(|(at, _)| at);
        }
        let at = bytes.at + find(text.get(bytes.at..)?, b';')?;
        bytes.at = at + 1;
        Some(at)
    })
}

/// A range of `text` without blanks around it.
#[must_use]
pub fn trim_range(text: &[u8], range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let Some(begin) = part.iter().position(|&b| !is_blank(b)) else {
        return range.start..range.start;
    };
    let blanks = part.iter().rev().take_while(|&&b| is_blank(b)).count();
    range.start + begin..range.end - blanks
}

/// The name of a parameter.
#[must_use]
pub fn parameter_name(parameter: &[u8]) -> &[u8] {
    let end = parameter
        .iter()
        .position(|&b| b == b'=')
        .unwrap_or(parameter.len());
    trim(&parameter[..end])
}

/// Does the value of a To or From carry a tag?
///
/// The header's own parameters stand behind the last `>`, or behind the first `;` where the address
/// has no brackets (RFC 3261 section 20).
#[must_use]
pub fn has_tag(value: &[u8]) -> bool {
    tag(value).is_some()
}

/// The tag of a To or From; empty if it has a tag without a value.
#[must_use]
pub fn tag(value: &[u8]) -> Option<&[u8]> {
    let bracket = if find(value, b'"').is_some() {
        unquoted(value).filter(|&(_, byte)| byte == b'>').last()
    } else {
        // The usual case, in a quarter of the time.
        value.iter().rposition(|&b| b == b'>').map(|at| (at, b'>'))
    };
    let own = bracket.map_or(value, |(at, _)| &value[at + 1..]);
    let parameter = parameters(own).find(|p| parameter_name(p).eq_ignore_ascii_case(b"tag"))?;
    let equals = parameter.iter().position(|&b| b == b'=');
    Some(equals.map_or(&[], |at| trim(&parameter[at + 1..])))
}

/// What stands for the address of record in the value of a To or From, or in a Request-URI: user and
/// host of a SIP URI, with the host in lower case and without port and parameters; of any other URI
/// all before its parameters, in lower case.
#[must_use]
pub fn address_of_record(value: &[u8]) -> Text {
    let uri = match unquoted(value).find(|&(_, byte)| byte == b'<') {
        Some((open, _)) => {
            let rest = &value[open + 1..];
            &rest[..rest.iter().position(|&b| b == b'>').unwrap_or(rest.len())]
        }
        None => value,
    };
    let Some((host, _)) = uri_host(uri) else {
        let end = uri.iter().position(|&b| b == b';').unwrap_or(uri.len());
        return lower_case(trim(&uri[..end]));
    };
    let mut record = Text::from_slice(user(uri));
    record.push(b'@');
    record.extend_from_slice(&lower_case(&uri[host]));
    record
}

/// A copy in lower case.
#[must_use]
pub fn lower_case(text: &[u8]) -> Text {
    let mut copy = Text::from_slice(text);
    copy.make_ascii_lowercase();
    copy
}

/// The user part of a URI, without password and without the parameters a telephone number may have.
#[must_use]
pub fn user(uri: &[u8]) -> &[u8] {
    let scheme = uri.iter().position(|&b| b == b':').map_or(0, |at| at + 1);
    let rest = &uri[scheme..];
    let Some(at) = rest.iter().position(|&b| b == b'@') else {
        return &[];
    };
    let end = rest[..at]
        .iter()
        .position(|&b| matches!(b, b':' | b';'))
        .unwrap_or(at);
    &rest[..end]
}

/// Is a Request-URI an emergency call's: `urn:service:sos` and what is below it (RFC 5031 section
/// 4.2), or a SIP or telephone URI to one of `numbers`?
#[must_use]
pub fn is_emergency(uri: &[u8], numbers: &[String]) -> bool {
    const SOS: &[u8] = b"urn:service:sos";
    let uri = trim(uri);
    if uri.len() >= SOS.len() && uri[..SOS.len()].eq_ignore_ascii_case(SOS) {
        return matches!(uri.get(SOS.len()), None | Some(b'.' | b';'));
    }
    let called = match uri.get(..4) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"tel:") => {
            let end = uri.iter().position(|&b| b == b';').unwrap_or(uri.len());
            &uri[4..end]
        }
        _ => user(uri),
    };
    !called.is_empty() && numbers.iter().any(|number| number.as_bytes() == called)
}

/// The sent-by of the first element of a Via. Blanks may stand around slashes and the colon.
#[must_use]
pub fn sent_by(via: &[u8]) -> Option<HostPort> {
    let mut at = 0;
    for _ in 0..2 {
        at += via[at..].iter().position(|&b| b == b'/')? + 1;
    }
    at = skip_blanks(via, at);
    at += via[at..].iter().position(|&b| is_blank(b))?;
    host_port(via, skip_blanks(via, at))
}

/// The host and port of the first element of a Route, in any form.
#[must_use]
pub fn route_host(route: &[u8]) -> Option<HostPort> {
    let uri = route_uri(route);
    let (host, port) = uri_host(&route[uri.clone()])?;
    Some((uri.start + host.start..uri.start + host.end, port))
}

/// Where the URI of the first element of a Route lies, in any form.
#[must_use]
pub fn route_uri(route: &[u8]) -> Range<usize> {
    match unquoted(route).find(|(_, byte)| matches!(byte, b'<' | b',')) {
        Some((open, b'<')) => {
            let length = route[open..].iter().position(|&b| b == b'>');
            open + 1..length.map_or(route.len(), |length| open + length)
        }
        Some((comma, _)) => 0..comma,
        None => 0..route.len(),
    }
}

/// The host and port of a SIP or SIPS URI.
#[must_use]
pub fn uri_host(uri: &[u8]) -> Option<HostPort> {
    let begin = skip_blanks(uri, 0);
    let scheme = begin + uri[begin..].iter().position(|&b| b == b':')?;
    let name = &uri[begin..scheme];
    if !name.eq_ignore_ascii_case(b"sip") && !name.eq_ignore_ascii_case(b"sips") {
        return None;
    }
    let user = uri[scheme..].iter().position(|&b| b == b'@').unwrap_or(0);
    host_port(uri, scheme + user + 1)
}

/// The host at `start` and the port behind it, or the default port.
fn host_port(text: &[u8], start: usize) -> Option<HostPort> {
    let rest = text.get(start..)?;
    let length = if rest.first() == Some(&b'[') {
        let end = rest.iter().position(|&b| b == b']' || b <= b' ')?;
        (rest[end] == b']').then_some(end + 1)?
    } else {
        rest.iter()
            .position(|&b| ends_host(b))
            .unwrap_or(rest.len())
    };
    if length == 0 {
        return None;
    }
    let end = start + length;
    let colon = skip_blanks(text, end);
    let port = if text.get(colon) == Some(&b':') {
        number(&text[skip_blanks(text, colon + 1)..])?
    } else {
        DEFAULT_PORT
    };
    Some((start..end, port))
}

const fn ends_host(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | b':' | b';' | b',' | b'>' | b'?' | b'@')
}

/// The port that `text` begins with.
fn number(text: &[u8]) -> Option<u16> {
    let mut port = 0u32;
    for digit in text.iter().take_while(|b| b.is_ascii_digit()) {
        port = port
            .saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'));
    }
    u16::try_from(port).ok().filter(|&port| port != 0)
}

fn skip_blanks(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest
        .iter()
        .position(|&b| !is_blank(b))
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;
