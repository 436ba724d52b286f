//! The OPTIONS that asks, built with rsip, and the response to it.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    time::Duration,
};

use rsip::{
    Host, HostWithPort, Scheme, Uri,
    headers::{
        Accept, CSeq, CallId, ContentLength, From, Header, MaxForwards, To, UntypedHeader as _,
        UserAgent, Via,
    },
};

use super::Answer;
use crate::sip::{
    headers::{Name, Sip, StartLine},
    transport::Transport,
};

const CSEQ: &str = "1 OPTIONS";

/// One OPTIONS. No two have a Call-ID, tag or branch in common.
#[derive(Debug)]
pub(super) struct Options {
    call_id: String,
    bytes: Vec<u8>,
}

impl Options {
    /// From `local` to `backend`, over `transport`. The Request-URI has no user, so that a proxy answers itself (RFC
    /// 3261 section 11). Max-Forwards is the usual 70: at 0 some proxies answer 483 and some not at
    /// all.
    pub(super) fn new(transport: Transport, local: SocketAddr, backend: SocketAddr) -> Self {
        let (local, backend) = (unscoped(local), unscoped(backend));
        let call_id = format!("{:016x}{:016x}", random(), random());
        let via = format!(
            "SIP/2.0/{} {local};branch=z9hG4bK{:016x};rport",
            transport.name(),
            random()
        );
        let from = format!("<sip:sip-forwarder@{local}>;tag={:016x}", random());
        let headers: Vec<Header> = vec![
            Header::Via(Via::new(via)),
            Header::MaxForwards(MaxForwards::new("70")),
            Header::From(From::new(from)),
            Header::To(To::new(format!("<sip:{backend}>"))),
            Header::CallId(CallId::new(call_id.clone())),
            Header::CSeq(CSeq::new(CSEQ)),
            Header::Accept(Accept::new("application/sdp")),
            Header::UserAgent(UserAgent::new("sip-forwarder")),
            Header::ContentLength(ContentLength::new("0")),
        ];
        let request = rsip::Request {
            method: rsip::Method::Options,
            uri: uri(backend),
            version: rsip::Version::V2,
            headers: headers.into(),
            body: Vec::new(),
        };
        Self {
            call_id,
            bytes: request.into(),
        }
    }

    /// The message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a message answers to this OPTIONS; `None` if it is something else.
    pub(super) fn answer_in(&self, message: &[u8]) -> Option<Answer> {
        let sip = Sip::cut(message)?;
        let StartLine::Response { code: Some(code) } = sip.start else {
            return None;
        };
        let ours = *sip.first(Name::CallId)? == *self.call_id.as_bytes()
            && is_cseq(&sip.first(Name::CSeq)?);
        ours.then(|| match code {
            503 => Answer::Full {
                retry_after: sip
                    .first(Name::RetryAfter)
                    .and_then(|value| delta_seconds(&value)),
            },
            _ => Answer::Ok,
        })
    }
}

/// As a sent-by and in URIs: the zone of a link-local address has no place there.
fn unscoped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// rsip writes an IPv6 address without its brackets, so the host is given as text.
fn uri(address: SocketAddr) -> Uri {
    let host = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    Uri {
        scheme: Some(Scheme::Sip),
        host_with_port: HostWithPort {
            host: Host::Domain(host.into()),
            port: Some(address.port().into()),
        },
        ..Uri::default()
    }
}

/// Random words: the standard library seeds each hasher's keys from the operating system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Is this `CSeq` ours? Blanks may be many.
fn is_cseq(value: &[u8]) -> bool {
    let words = value
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words.eq(CSEQ.as_bytes().split(|&b| b == b' '))
}

/// The seconds a Retry-After begins with; comment and parameters do not matter (RFC 3261 section
/// 20.33). More than fit count as the most that do.
fn delta_seconds(value: &[u8]) -> Option<Duration> {
    let digits = value
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(value.len());
    let ends = value.get(digits).is_none_or(|&b| b" \t(;".contains(&b));
    if digits == 0 || !ends {
        return None;
    }
    let seconds = value[..digits].iter().fold(0u32, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    });
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options() -> Options {
        Options::new(
            Transport::Udp,
            "192.0.2.1:40000".parse().unwrap(),
            "192.0.2.2:5060".parse().unwrap(),
        )
    }

    /// A response with these first words, `CSeq` and more headers.
    fn answer(status: &str, cseq: &str, more: &str) -> Option<Answer> {
        let options = options();
        let text = format!(
            "SIP/2.0 {status}\r\nVia: SIP/2.0/UDP x\r\ni: {}\r\nCSeq: {cseq}\r\n{more}\r\n",
            options.call_id
        );
        options.answer_in(text.as_bytes())
    }

    #[test]
    fn the_message_has_what_it_must() {
        let options = options();
        let text = std::str::from_utf8(options.bytes()).unwrap();
        let request = rsip::Request::try_from(text).unwrap();
        assert_eq!(request.uri.to_string(), "sip:192.0.2.2:5060");
        assert!(
            text.starts_with(
                "OPTIONS sip:192.0.2.2:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:40000;branch=z9hG4bK"
            ),
            "{text}"
        );
        assert!(text.contains(";rport\r\nMax-Forwards: 70\r\n"), "{text}");
        assert!(text.contains("\r\nTo: <sip:192.0.2.2:5060>\r\n"), "{text}");
        assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
    }

    #[test]
    fn ipv6_stands_in_brackets_and_without_its_zone() {
        let options = Options::new(
            Transport::Tls,
            "[fe80::1%7]:40000".parse().unwrap(),
            "[2001:db8::2]:5062".parse().unwrap(),
        );
        let text = std::str::from_utf8(options.bytes()).unwrap();
        assert!(
            text.starts_with(
                "OPTIONS sip:[2001:db8::2]:5062 SIP/2.0\r\nVia: SIP/2.0/TLS [fe80::1]:40000;"
            ),
            "{text}"
        );
    }

    #[test]
    fn no_two_are_alike() {
        let (a, b) = (options(), options());
        assert_ne!(a.call_id, b.call_id);
        assert_ne!(a.bytes, b.bytes);
        assert_eq!(
            b.answer_in(
                format!(
                    "SIP/2.0 200 OK\r\ni: {}\r\nCSeq: 1 OPTIONS\r\n\r\n",
                    a.call_id
                )
                .as_bytes()
            ),
            None
        );
    }

    #[test]
    fn every_status_but_503_is_life() {
        for status in [
            "100 Trying",
            "200 OK",
            "404 Not Found",
            "483 Hops",
            "500 x",
            "603",
        ] {
            assert_eq!(answer(status, CSEQ, ""), Some(Answer::Ok), "{status}");
        }
        for (header, seconds) in [
            ("", None),
            ("Retry-After: 7\r\n", Some(7)),
            ("RETRY-AFTER:\r\n 18000;duration=3600\r\n", Some(18_000)),
            ("Retry-After: 120 (I'm in a meeting)\r\n", Some(120)),
            ("Retry-After: 99999999999999\r\n", Some(u64::from(u32::MAX))),
            ("Retry-After: -1\r\n", None),
            ("Retry-After: 3s\r\n", None),
            ("Retry-After: Fri, 01 Jan\r\n", None),
            ("Retry-After:\r\n", None),
        ] {
            let retry_after = seconds.map(Duration::from_secs);
            assert_eq!(
                answer("503 Full", CSEQ, header),
                Some(Answer::Full { retry_after }),
                "{header}"
            );
        }
    }

    #[test]
    fn what_answers_something_else_is_nothing() {
        assert_eq!(answer("200 OK", "1  \t OPTIONS", ""), Some(Answer::Ok));
        for (status, cseq) in [
            ("200 OK", "2 OPTIONS"),
            ("200 OK", "1 INVITE"),
            ("200 OK", ""),
            ("99 No", CSEQ),
            ("OK", CSEQ),
        ] {
            assert_eq!(answer(status, cseq, ""), None, "{status}, {cseq}");
        }
        let options = options();
        assert_eq!(options.answer_in(options.bytes()), None, "its own echo");
        assert_eq!(options.answer_in(b"SIP/2.0 200 OK\r\n\r\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "SIP/2.0 503[ \r\n:;a-zA-Z0-9-]{0,100}") {
            let options = options();
            prop_assert_eq!(options.answer_in(&bytes), None);
            prop_assert_eq!(options.answer_in(text.as_bytes()), None);
            delta_seconds(&bytes);
            is_cseq(&bytes);
        }
    }
}
