//! SIP messages built byte by byte, in the shape `SIPp` sends them.

use std::fmt::Write as _;

/// The Call-ID of a message for which nothing else was asked.
pub const CALL_ID: &str = "1-4711@10.210.0.2";

/// The body `SIPp` offers.
const SDP: &str = "v=0\r\n\
    o=user1 53655765 2353687637 IN IP4 10.210.0.2\r\n\
    s=-\r\n\
    c=IN IP4 10.210.0.2\r\n\
    t=0 0\r\n\
    m=audio 6000 RTP/AVP 0\r\n\
    a=rtpmap:0 PCMU/8000\r\n";

/// A message to be built. Headers come in `SIPp`'s order: Via, Route, From, To, Call-ID, `CSeq` …
#[derive(Clone, Debug)]
pub struct Message {
    start_line: String,
    cseq_method: String,
    vias: Vec<String>,
    routes: Vec<String>,
    record_routes: Vec<String>,
    from: String,
    to: String,
    to_tag: Option<String>,
    call_id: String,
    extra: Vec<(String, String)>,
    body: Vec<u8>,
    compact: bool,
}

impl Message {
    /// A request without a To-tag, from the lab's client to its VIP.
    #[must_use]
    pub fn request(method: &str) -> Self {
        Self::with_start_line(
            format!("{method} sip:service@10.210.255.1:5060 SIP/2.0"),
            method,
        )
    }

    /// A response with a To-tag to a request of this method.
    #[must_use]
    pub fn response(code: u16, reason: &str, cseq_method: &str) -> Self {
        Self::with_start_line(format!("SIP/2.0 {code} {reason}"), cseq_method)
            .to_tag("4712SIPpTag011")
    }

    /// An INVITE with `SIPp`'s body, about 530 bytes.
    #[must_use]
    pub fn invite() -> Self {
        Self::request("INVITE").body(SDP)
    }

    /// A BYE inside a dialog.
    #[must_use]
    pub fn bye() -> Self {
        Self::request("BYE").to_tag("4712SIPpTag011")
    }

    /// A 200 to an INVITE, with a body.
    #[must_use]
    pub fn ok() -> Self {
        Self::response(200, "OK", "INVITE").body(SDP)
    }

    /// An INVITE of 1,400 bytes that has come through nine proxies: ten Vias, Call-ID line near offset 970.
    #[must_use]
    pub fn long_invite() -> Vec<u8> {
        let vias = (1..10).map(|hop| {
            format!("SIP/2.0/UDP 192.0.2.{hop}:5060;branch=z9hG4bK-proxy-{hop}-0123456789abcdef0123456789abcd")
        });
        let mut message = Self::invite();
        message.vias.splice(0..0, vias);
        message.build_sized(1400)
    }

    fn with_start_line(start_line: String, cseq_method: &str) -> Self {
        Self {
            start_line,
            cseq_method: cseq_method.to_owned(),
            vias: vec!["SIP/2.0/UDP 10.210.0.2:5061;branch=z9hG4bK-4711-1-0".to_owned()],
            routes: Vec::new(),
            record_routes: Vec::new(),
            from: "sipp <sip:sipp@10.210.0.2:5061>;tag=4711SIPpTag001".to_owned(),
            to: "service <sip:service@10.210.255.1:5060>".to_owned(),
            to_tag: None,
            call_id: CALL_ID.to_owned(),
            extra: Vec::new(),
            body: Vec::new(),
            compact: false,
        }
    }

    /// Another start line, as it is.
    #[must_use]
    pub fn start_line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.start_line);
        self
    }

    /// Another Call-ID.
    #[must_use]
    pub fn call_id(mut self, call_id: &str) -> Self {
        call_id.clone_into(&mut self.call_id);
        self
    }

    /// Another From value, tag included.
    #[must_use]
    pub fn from(mut self, value: &str) -> Self {
        value.clone_into(&mut self.from);
        self
    }

    /// Another To value, without its tag.
    #[must_use]
    pub fn to(mut self, value: &str) -> Self {
        value.clone_into(&mut self.to);
        self
    }

    /// A To-tag: the message is inside a dialog.
    #[must_use]
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.to_tag = Some(tag.to_owned());
        self
    }

    /// No To-tag.
    #[must_use]
    pub fn without_to_tag(mut self) -> Self {
        self.to_tag = None;
        self
    }

    /// One more Route below those there are, in full: `<sip:10.210.1.2;lr>`.
    #[must_use]
    pub fn route(mut self, value: &str) -> Self {
        self.routes.push(value.to_owned());
        self
    }

    /// One more Record-Route below those there are.
    #[must_use]
    pub fn record_route(mut self, value: &str) -> Self {
        self.record_routes.push(value.to_owned());
        self
    }

    /// A Via on top: `SIP/2.0/UDP 10.210.1.2:5060;branch=z9hG4bK…`.
    #[must_use]
    pub fn top_via(mut self, value: &str) -> Self {
        self.vias.insert(0, value.to_owned());
        self
    }

    /// Exactly these Vias.
    #[must_use]
    pub fn vias(mut self, values: &[&str]) -> Self {
        self.vias = values.iter().map(|&value| value.to_owned()).collect();
        self
    }

    /// One more header, after Max-Forwards.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// A body of this size.
    #[must_use]
    pub fn body_size(mut self, size: usize) -> Self {
        self.body = vec![b'x'; size];
        self
    }

    /// Header names in their short form (`v`, `f`, `t`, `i`, `m`, `c`, `l`).
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.compact = true;
        self
    }

    /// The message.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start_line);
        for (name, value) in self.headers() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}: {value}\r\n", self.name(&name));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The message with as much put at the end of its body (or, without one, into a last header) as makes it
    /// `size` bytes long.
    ///
    /// # Panics
    /// If it is longer already, or so close below that no filling fits.
    #[must_use]
    pub fn build_sized(&self, size: usize) -> Vec<u8> {
        (0..=size)
            .map(|filling| self.filled(filling).build())
            .find(|bytes| bytes.len() >= size)
            .filter(|bytes| bytes.len() == size)
            .unwrap_or_else(|| {
                panic!(
                    "a message of {} bytes cannot be made {size}",
                    self.build().len()
                )
            })
    }

    fn filled(&self, filling: usize) -> Self {
        let mut message = self.clone();
        if filling == 0 {
            return message;
        }
        if self.body.is_empty() {
            return message.header("X-Filling", &"x".repeat(filling - 1));
        }
        message.body.resize(self.body.len() + filling, b'x');
        message
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut push = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        self.vias.iter().for_each(|value| push("Via", value));
        self.record_routes
            .iter()
            .for_each(|value| push("Record-Route", value));
        self.routes.iter().for_each(|value| push("Route", value));
        push("From", &self.from);
        let tag = self.to_tag.as_ref().map(|tag| format!(";tag={tag}"));
        push("To", &format!("{}{}", self.to, tag.unwrap_or_default()));
        push("Call-ID", &self.call_id);
        push("CSeq", &format!("1 {}", self.cseq_method));
        push("Contact", "<sip:sipp@10.210.0.2:5061>");
        push("Max-Forwards", "70");
        self.extra
            .iter()
            .for_each(|(name, value)| push(name, value));
        if !self.body.is_empty() {
            push("Content-Type", "application/sdp");
        }
        push("Content-Length", &self.body.len().to_string());
        headers
    }

    fn name<'a>(&self, long: &'a str) -> &'a str {
        if !self.compact {
            return long;
        }
        match long {
            "Via" => "v",
            "From" => "f",
            "To" => "t",
            "Call-ID" => "i",
            "Contact" => "m",
            "Content-Type" => "c",
            "Content-Length" => "l",
            other => other,
        }
    }
}

/// `SIPp`'s INVITE of 528 bytes, Call-ID line near offset 200.
#[must_use]
pub fn sipp_invite() -> Vec<u8> {
    Message::invite()
        .header("Subject", "Performance")
        .build_sized(528)
}

/// `SIPp`'s BYE of 382 bytes.
#[must_use]
pub fn sipp_bye() -> Vec<u8> {
    Message::bye().build_sized(382)
}

/// A 200 to `SIPp`'s INVITE, of 488 bytes.
#[must_use]
pub fn sipp_ok() -> Vec<u8> {
    let mut message = Message::ok();
    message.body.truncate(100);
    message.build_sized(488)
}

/// An answer to a request, with this status and reason: what every answer repeats (RFC 3261 section 8.2.6.2), as it
/// stands, and more headers, each with its line end.
#[must_use]
pub fn answer_to(request: &[u8], status: &str, more: &str) -> Vec<u8> {
    let request = String::from_utf8_lossy(request);
    let repeated: Vec<&str> = request
        .lines()
        .filter(|line| {
            ["Via:", "From:", "To:", "Call-ID:", "CSeq:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .collect();
    let repeated = repeated.join("\r\n");
    format!("SIP/2.0 {status}\r\n{repeated}\r\n{more}Content-Length: 0\r\n\r\n").into_bytes()
}

/// The first value of a header, written in full, of a message as text.
#[must_use]
pub fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    headers(message, name).first().copied()
}

/// All values of a header, from the top; several in one line come apart at their commas if each is in angle brackets.
#[must_use]
pub fn headers<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap_or(message);
    head.lines()
        .skip(1)
        .filter_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .trim_end()
                .eq_ignore_ascii_case(name)
                .then(|| value.trim())
        })
        .flat_map(split_addresses)
        .collect()
}

/// `<sip:a>, <sip:b;lr>;x=y` → both. A comma within angle brackets or before them stays.
fn split_addresses(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.match_indices(',').find_map(|(at, _)| {
        let (before, after) = (&rest[..at], rest[at + 1..].trim_start());
        (before.contains('>') && after.starts_with('<')).then_some(at)
    }) {
        parts.push(rest[..at].trim());
        rest = rest[at + 1..].trim_start();
    }
    parts.push(rest);
    parts
}

/// Where the line begins that holds `needle`, a header's name for instance.
#[must_use]
pub fn line_offset(message: &[u8], needle: &str) -> Option<usize> {
    let wanted = [b"\n", needle.as_bytes()].concat();
    message
        .windows(wanted.len())
        .position(|window| window == wanted)
        .map(|position| position + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_offsets_are_those_of_real_traffic() {
        for (message, size, call_id) in [
            (sipp_invite(), 528, 180..230),
            (sipp_bye(), 382, 180..230),
            (sipp_ok(), 488, 180..230),
            (Message::long_invite(), 1400, 930..1010),
        ] {
            let text = String::from_utf8_lossy(&message).into_owned();
            assert_eq!(message.len(), size, "{text}");
            let offset = line_offset(&message, "Call-ID:").unwrap();
            assert!(call_id.contains(&offset), "Call-ID at {offset} in\n{text}");
        }
    }

    #[test]
    fn content_length_is_that_of_the_body() {
        let text = String::from_utf8(Message::long_invite()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        assert_eq!(head.matches("Via:").count(), 10);
    }

    #[test]
    fn headers_come_apart_at_addresses_only() {
        let text = "X\r\nRecord-Route: <sip:a;lr>, <sip:b;lr>\r\nrecord-route : <sip:c>\r\n\
                    Subject: one, two\r\n\r\nRecord-Route: <sip:body>\r\n";
        let routes = ["<sip:a;lr>", "<sip:b;lr>", "<sip:c>"];
        assert_eq!(headers(text, "Record-Route"), routes);
        assert_eq!(header(text, "Subject"), Some("one, two"));
        assert_eq!(header(text, "Via"), None);
    }

    #[test]
    fn compact_names() {
        let text = String::from_utf8(Message::bye().compact().call_id("a@b").build()).unwrap();
        assert!(text.contains("\r\ni: a@b\r\n"), "{text}");
    }
}
