//! Answers to what is meant for the forwarder itself, built with rsip.

use std::net::{IpAddr, SocketAddr};

use rsip::headers::{
    Accept, Allow, CSeq, CallId, ContentLength, From, Header, RetryAfter, To, UntypedHeader, Via,
};
use sip_forwarder_ebpf::hash::digest;

use super::{
    address,
    headers::{Name, Sip, trim},
};

/// An answer, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The client, at the port RFC 3261 section 18.2.2 or RFC 3581 says.
    pub to: SocketAddr,
    /// The message.
    pub bytes: Vec<u8>,
}

/// Answers an OPTIONS that `client` sent to the forwarder itself: 200. `None` if the request lacks a
/// header that every answer must repeat.
#[must_use]
pub fn options(sip: &Sip<'_>, client: SocketAddr) -> Option<Answer> {
    let mut headers = repeated(sip, client, None).complete()?;
    headers.push(Header::Allow(Allow::new("OPTIONS")));
    headers.push(Header::Accept(Accept::new("application/sdp")));
    finish(sip, client, headers, rsip::StatusCode::OK)
}

/// Refuses a request of `client`: 503, to be tried again after so many seconds. A `to_tag` makes the
/// ACK of the refusal known again. `None` if the request lacks a header that every answer must
/// repeat.
#[must_use]
pub fn unavailable(
    sip: &Sip<'_>,
    client: SocketAddr,
    retry_after: u16,
    to_tag: Option<&str>,
) -> Option<Answer> {
    let mut headers = repeated(sip, client, to_tag).complete()?;
    headers.push(Header::RetryAfter(RetryAfter::new(retry_after.to_string())));
    // rsip would write the reason as one word.
    let status = rsip::StatusCode::Other(503, "Service Unavailable".into());
    finish(sip, client, headers, status)
}

/// Refuses a request of `client` with any final status. What every answer must repeat is repeated as
/// far as it is there, for a request may be refused because it is not. `None` if the request has no
/// Via, by which alone the client would know the answer.
#[must_use]
pub fn refuse(
    sip: &Sip<'_>,
    client: SocketAddr,
    code: u16,
    reason: &str,
    to_tag: Option<&str>,
) -> Option<Answer> {
    let status = rsip::StatusCode::Other(code, reason.into());
    let headers = repeated(sip, client, to_tag).headers;
    finish(sip, client, headers, status)
}

fn finish(
    sip: &Sip<'_>,
    client: SocketAddr,
    mut headers: Vec<Header>,
    status_code: rsip::StatusCode,
) -> Option<Answer> {
    headers.push(Header::ContentLength(ContentLength::new("0")));
    let response = rsip::Response {
        status_code,
        headers: headers.into(),
        ..Default::default()
    };
    let top = sip.headers().find(|header| header.name == Name::Via)?;
    Some(Answer {
        to: destination(&top.value, client),
        bytes: response.into(),
    })
}

/// The headers that an answer repeats.
struct Repeated {
    headers: Vec<Header>,
    /// Are all of them there?
    complete: bool,
}

impl Repeated {
    fn complete(self) -> Option<Vec<Header>> {
        self.complete.then_some(self.headers)
    }
}

/// Gathers the headers that an answer repeats (RFC 3261 section 8.2.6.2).
fn repeated(sip: &Sip<'_>, client: SocketAddr, to_tag: Option<&str>) -> Repeated {
    let mut vias = Vec::new();
    let (mut from, mut to, mut call_id, mut cseq) = (None, None, None, None);
    for header in sip.headers() {
        let text = || String::from_utf8_lossy(&header.value).into_owned();
        match header.name {
            Name::Via if vias.is_empty() => vias.push(top_via(&text(), client)),
            Name::Via => vias.push(text()),
            Name::From => drop(from.get_or_insert_with(text)),
            Name::To => drop(to.get_or_insert_with(text)),
            Name::CallId => drop(call_id.get_or_insert_with(text)),
            Name::CSeq => drop(cseq.get_or_insert_with(text)),
            _ => {}
        }
    }
    let to = to.map(|to| {
        if address::has_tag(to.as_bytes()) {
            return to;
        }
        // A repeated request gets the same tag (section 8.2.7).
        let tag = to_tag.map_or_else(
            || {
                let call_id = call_id.as_deref().unwrap_or_default();
                format!("{:016x}", digest([0, 0], call_id.as_bytes()).0)
            },
            str::to_owned,
        );
        format!("{to};tag={tag}")
    });
    let complete = !vias.is_empty()
        && [&from, &to, &call_id, &cseq]
            .iter()
            .all(|value| value.is_some());
    let mut headers: Vec<Header> = vias.into_iter().map(|v| Header::Via(Via::new(v))).collect();
    headers.extend(from.map(|from| Header::From(From::new(from))));
    headers.extend(to.map(|to| Header::To(To::new(to))));
    headers.extend(call_id.map(|call_id| Header::CallId(CallId::new(call_id))));
    headers.extend(cseq.map(|cseq| Header::CSeq(CSeq::new(cseq))));
    Repeated { headers, complete }
}

/// The top Via as the server transport marks it: `received` where the sent-by is not the source
/// (RFC 3261 section 18.2.1) or `rport` is asked for, which is filled in (RFC 3581 section 4).
fn top_via(value: &str, client: SocketAddr) -> String {
    let bytes = value.as_bytes();
    let end = first_element(bytes);
    let (first, others) = bytes.split_at(end);
    let head = address::unquoted(first)
        .find(|&(_, byte)| byte == b';')
        .map_or(end, |(at, _)| at);
    let mut parts = vec![String::from_utf8_lossy(trim(&first[..head])).into_owned()];
    for parameter in address::parameters(first) {
        let name = address::parameter_name(parameter);
        if name.eq_ignore_ascii_case(b"rport") {
            parts.push(format!("rport={}", client.port()));
        } else if !name.eq_ignore_ascii_case(b"received") && !parameter.is_empty() {
            parts.push(String::from_utf8_lossy(parameter).into_owned());
        }
    }
    if asks_for_rport(first) || sent_by_address(first) != Some(client.ip()) {
        parts.push(format!("received={}", client.ip()));
    }
    parts.join(";") + &String::from_utf8_lossy(others)
}

/// Where an answer goes: to the source's port if the client asks for it by `rport`, else to the
/// port of its sent-by.
fn destination(via: &[u8], client: SocketAddr) -> SocketAddr {
    let first = &via[..first_element(via)];
    match address::sent_by(first) {
        Some((_, port)) if !asks_for_rport(first) => {
            let mut to = client;
            to.set_port(port);
            to
        }
        _ => client,
    }
}

/// Length of the first element of a comma list.
fn first_element(value: &[u8]) -> usize {
    address::unquoted(value)
        .find(|&(_, byte)| byte == b',')
        .map_or(value.len(), |(at, _)| at)
}

fn asks_for_rport(via: &[u8]) -> bool {
    address::parameters(via).any(|p| address::parameter_name(p).eq_ignore_ascii_case(b"rport"))
}

/// The sent-by's host, if it is an address.
fn sent_by_address(via: &[u8]) -> Option<IpAddr> {
    let (host, _) = address::sent_by(via)?;
    let host = std::str::from_utf8(&via[host]).ok()?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: &str = "192.0.2.9:40000";

    fn ask(via: &str, takes_calls: bool) -> (String, SocketAddr) {
        let request = format!(
            "OPTIONS sip:vip SIP/2.0\r\n{via}\r\nf: <sip:a@b>;tag=1\r\nT: <sip:vip>\r\n\
            i: x@y\r\nCSEQ: 7\r\n  OPTIONS\r\nMax-Forwards: 70\r\n\r\n"
        );
        let sip = Sip::cut(request.as_bytes()).unwrap();
        let client = CLIENT.parse().unwrap();
        let answer = if takes_calls {
            options(&sip, client)
        } else {
            unavailable(&sip, client, 7, Some("own"))
        };
        let answer = answer.unwrap();
        (String::from_utf8(answer.bytes).unwrap(), answer.to)
    }

    #[test]
    fn an_answer_repeats_what_it_must() {
        let (text, to) = ask(
            "v: SIP/2.0/UDP 192.0.2.9:5080;branch=z\r\nVia: SIP/2.0/UDP b",
            true,
        );
        let tag = digest([0, 0], b"x@y").0;
        assert_eq!(
            text,
            format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.9:5080;branch=z\r\nVia: SIP/2.0/UDP b\r\n\
                From: <sip:a@b>;tag=1\r\nTo: <sip:vip>;tag={tag:016x}\r\nCall-ID: x@y\r\n\
                CSeq: 7 OPTIONS\r\nAllow: OPTIONS\r\nAccept: application/sdp\r\n\
                Content-Length: 0\r\n\r\n"
            )
        );
        assert_eq!(to, "192.0.2.9:5080".parse().unwrap());
    }

    #[test]
    fn who_takes_no_calls_says_503_and_when_to_ask_again() {
        let (text, _) = ask("Via: SIP/2.0/UDP a;branch=z", false);
        assert!(
            text.starts_with("SIP/2.0 503 Service Unavailable\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nRetry-After: 7\r\n"), "{text}");
        assert!(text.contains(";tag=own\r\n"), "{text}");
    }

    #[test]
    fn the_top_via_is_marked_and_obeyed() {
        for (via, marked, port) in [
            (
                "SIP/2.0/UDP a;branch=z",
                "SIP/2.0/UDP a;branch=z;received=192.0.2.9",
                5060,
            ),
            (
                "SIP/2.0/UDP 192.0.2.9:1;rport;branch=z",
                "SIP/2.0/UDP 192.0.2.9:1;rport=40000;branch=z;received=192.0.2.9",
                40000,
            ),
            (
                "SIP / 2.0 / UDP a : 7 ; RPORT ; received=192.0.2.1, SIP/2.0/UDP b;rport",
                "SIP / 2.0 / UDP a : 7;rport=40000;received=192.0.2.9, SIP/2.0/UDP b;rport",
                40000,
            ),
        ] {
            let (text, to) = ask(&format!("Via: {via}"), true);
            assert!(text.contains(&format!("\r\nVia: {marked}\r\n")), "{text}");
            assert_eq!(to.port(), port, "{via}");
        }
    }

    #[test]
    fn an_ipv6_sent_by_is_compared_without_its_brackets() {
        let client = "[2001:db8::1]:5060".parse().unwrap();
        let via = "SIP/2.0/UDP [2001:DB8:0::1];branch=z";
        assert_eq!(top_via(via, client), via);
    }

    #[test]
    fn a_refusal_repeats_what_there_is() {
        let client = CLIENT.parse().unwrap();
        let request = b"INVITE sip:b SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nTo: <sip:b>\r\n\r\n";
        let sip = Sip::cut(request).unwrap();
        let answer = refuse(&sip, client, 400, "Missing Header", Some("own")).unwrap();
        assert_eq!(
            String::from_utf8(answer.bytes).unwrap(),
            "SIP/2.0 400 Missing Header\r\nVia: SIP/2.0/UDP a;received=192.0.2.9\r\n\
            To: <sip:b>;tag=own\r\nContent-Length: 0\r\n\r\n"
        );
        let sip = Sip::cut(b"INVITE sip:b SIP/2.0\r\nTo: <sip:b>\r\n\r\n").unwrap();
        assert_eq!(refuse(&sip, client, 400, "Bad Via", None), None);
    }

    #[test]
    fn what_lacks_a_header_is_not_answered() {
        let sip =
            Sip::cut(b"OPTIONS sip:vip SIP/2.0\r\nTo: <sip:vip>\r\nCall-ID: x\r\n\r\n").unwrap();
        assert_eq!(options(&sip, CLIENT.parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(via in ".{0,60}", list in "[;,\"= a:/]{0,40}") {
            let client = CLIENT.parse().unwrap();
            top_via(&via, client);
            top_via(&list, client);
            destination(list.as_bytes(), client);
        }
    }
}
