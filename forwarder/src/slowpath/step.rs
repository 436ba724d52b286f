//! One datagram, from its bytes to what becomes of it; no I/O.

use std::net::SocketAddr;

use sip_forwarder_ebpf::{abi::ServiceId, rule::Role, scan::REFUSAL_TAG, verdict::Verdict};

use super::placement::{Message, Placed, Starting, Tables};
use crate::sip::{
    address,
    answer::{self, Answer},
    headers::StartLine,
    reader::{self, ReadError, Reading},
    stun::{self, Stun},
};

/// What to do with a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it on as it is.
    Forward {
        /// To whom.
        backend: SocketAddr,
        /// Whom the backend sees as its sender.
        source: SocketAddr,
    },
    /// Answer, with the VIP as the source.
    Reply(Answer),
    /// Nothing.
    Absorb,
}

/// Decides on a datagram that `client` sent to the VIP of `service`. The verdict is to be counted
/// when the step is done, or [`Verdict::DroppedSend`] if it cannot be.
#[must_use]
pub fn step(
    datagram: &[u8],
    client: SocketAddr,
    service: ServiceId,
    tables: &dyn Tables,
) -> (Step, Verdict) {
    match special(datagram, client, service, tables) {
        Special::Done(step, verdict) => (step, verdict),
        Special::Message(reading) => forward(&reading, client, service, tables),
    }
}

/// A datagram, once everything is dealt with that is no message for a backend.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack; a box would be an allocation for each message"
)]
pub(super) enum Special<'a> {
    /// It was: this is what becomes of it.
    Done(Step, Verdict),
    /// A message to be sent on.
    Message(Reading<'a>),
}

/// Deals with keep-alives, STUN, what is meant for the forwarder itself, and what is no SIP.
pub(super) fn special<'a>(
    datagram: &'a [u8],
    client: SocketAddr,
    service: ServiceId,
    tables: &dyn Tables,
) -> Special<'a> {
    if stun::is_keep_alive(datagram) {
        return Special::Done(Step::Absorb, Verdict::AnsweredKeepAlive);
    }
    match stun::read(datagram) {
        Some(Stun::Request(request)) => {
            let bytes = request.answer(client);
            let answer = Answer { to: client, bytes };
            return Special::Done(Step::Reply(answer), Verdict::AnsweredStun);
        }
        Some(Stun::Indication) => return Special::Done(Step::Absorb, Verdict::AnsweredKeepAlive),
        None => {}
    }
    match reader::read(datagram) {
        Ok(reading) if is_for_forwarder(&reading, service, tables) => {
            let (step, verdict) = answer_options(&reading, client, service, tables);
            Special::Done(step, verdict)
        }
        Ok(reading) if acknowledges_refusal(&reading, tables) => {
            Special::Done(Step::Absorb, Verdict::AnsweredRefusalAck)
        }
        Ok(reading) => Special::Message(reading),
        Err(ReadError::NotSip) => Special::Done(Step::Absorb, Verdict::DroppedNotSip),
        Err(ReadError::NoCallId) => Special::Done(Step::Absorb, Verdict::DroppedNoCallId),
    }
}

/// Is this an OPTIONS without To-tag whose Request-URI is the VIP, without a user part?
///
/// The fast path takes every `@` for the end of a user part, and so must this.
fn is_for_forwarder(reading: &Reading<'_>, service: ServiceId, tables: &dyn Tables) -> bool {
    let StartLine::Request { method, uri } = reading.sip.start else {
        return false;
    };
    if method != b"OPTIONS" || reading.role != Role::StartsNothing || uri.contains(&b'@') {
        return false;
    }
    address::uri_host(uri).is_some_and(|(host, port)| tables.is_own_name(service, &uri[host], port))
}

/// Is this the ACK of a refusal by this forwarder or another of its cluster?
fn acknowledges_refusal(reading: &Reading<'_>, tables: &dyn Tables) -> bool {
    let StartLine::Request { method: b"ACK", .. } = reading.sip.start else {
        return false;
    };
    address::tag(&reading.to).is_some_and(|tag| {
        tag.starts_with(&REFUSAL_TAG) && tag == tables.refusal_tag(&reading.call_id).as_bytes()
    })
}

/// Seconds after which to ask again a forwarder that takes no calls: long enough to matter, short
/// against the time a gate stays closed.
const OPTIONS_RETRY_AFTER: u16 = 5;

fn answer_options(
    reading: &Reading<'_>,
    client: SocketAddr,
    service: ServiceId,
    tables: &dyn Tables,
) -> (Step, Verdict) {
    let answer = if tables.takes_calls(service) {
        answer::options(&reading.sip, client)
    } else {
        answer::unavailable(&reading.sip, client, OPTIONS_RETRY_AFTER, None)
    };
    match answer {
        Some(answer) => (Step::Reply(answer), Verdict::AnsweredOptions),
        None => (Step::Absorb, Verdict::DroppedNotSip),
    }
}

fn forward(
    reading: &Reading<'_>,
    client: SocketAddr,
    service: ServiceId,
    tables: &dyn Tables,
) -> (Step, Verdict) {
    let message = Message {
        role: reading.role,
        call_id: &reading.call_id,
        host: reading.host.as_ref().map(|(host, port)| (&**host, *port)),
        start: starting(reading),
    };
    match tables.place(service, &message) {
        Placed::To(placement) => (
            Step::Forward {
                backend: placement.backend,
                source: tables.spiral_source(client).unwrap_or(client),
            },
            placement.verdict,
        ),
        Placed::Refused { retry_after } => refuse(reading, client, retry_after, tables),
        Placed::Dropped(verdict) => (Step::Absorb, verdict),
    }
}

/// What else may matter of a request that starts something.
pub(super) fn starting<'a>(reading: &'a Reading<'_>) -> Option<Starting<'a>> {
    match reading.sip.start {
        StartLine::Request { method, uri } if reading.role.starts() => Some(Starting {
            method,
            uri,
            to: &reading.to,
            from: &reading.from,
        }),
        _ => None,
    }
}

/// Refuses what nobody takes.
pub(super) fn refuse(
    reading: &Reading<'_>,
    client: SocketAddr,
    retry_after: u16,
    tables: &dyn Tables,
) -> (Step, Verdict) {
    let tag = tables.refusal_tag(&reading.call_id);
    match answer::unavailable(&reading.sip, client, retry_after, Some(&tag)) {
        Some(answer) => (Step::Reply(answer), Verdict::AnsweredRefusal),
        // Without the headers an answer needs, silence is all there is.
        None => (Step::Absorb, Verdict::DroppedNoBackend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slowpath::placement::Placement;

    const SERVICE: ServiceId = ServiceId(3);
    const CLIENT: &str = "192.0.2.9:40000";
    const SPIRALS: &str = "10.0.0.2:5060";
    const VIP: &str = "192.0.2.1:5060";
    const BACKEND: &str = "10.0.0.1:5060";

    /// Places what names `here` at the backend, and nothing else.
    struct Fake {
        open: bool,
    }

    impl Tables for Fake {
        fn place(&self, service: ServiceId, message: &Message<'_>) -> Placed {
            assert_eq!(service, SERVICE);
            let verdict = match message.host {
                Some((b"here", 5070)) => Verdict::ForwardedNamed,
                _ if message.role == Role::StartsDialog && !self.open => {
                    assert_eq!(message.start.map(|s| s.method), Some(&b"INVITE"[..]));
                    return Placed::Refused { retry_after: 9 };
                }
                _ => Verdict::ForwardedHome,
            };
            Placed::To(Placement {
                backend: address(BACKEND),
                verdict,
            })
        }

        fn refusal_tag(&self, call_id: &[u8]) -> String {
            assert_eq!(call_id, b"x");
            "sfw-503-own".to_owned()
        }

        fn is_backend(&self, _: ServiceId, source: SocketAddr) -> bool {
            source == address(BACKEND)
        }

        fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr> {
            (source == address(SPIRALS)).then(|| address(VIP))
        }

        fn takes_calls(&self, _: ServiceId) -> bool {
            self.open
        }

        fn is_own_name(&self, _: ServiceId, host: &[u8], port: u16) -> bool {
            host == b"192.0.2.1" && port == 5060
        }

        fn unreachable(&self, _: ServiceId, _: SocketAddr) {}

        fn count(&self, verdict: Verdict) {
            panic!("a step counts nothing, not even {verdict:?}");
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn request(start: &str, to_tag: &str) -> String {
        format!(
            "{start} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:7\r\nFrom: <sip:a>;tag=1\r\n\
            To: <sip:b>{to_tag}\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )
    }

    fn run(datagram: impl AsRef<[u8]>, open: bool) -> (Step, Verdict) {
        step(datagram.as_ref(), address(CLIENT), SERVICE, &Fake { open })
    }

    fn to_backend() -> Step {
        Step::Forward {
            backend: address(BACKEND),
            source: address(CLIENT),
        }
    }

    #[test]
    fn messages_go_where_the_tables_say_with_the_clients_address() {
        assert_eq!(
            run(request("INVITE sip:b", ""), true),
            (to_backend(), Verdict::ForwardedHome)
        );
        let response = "SIP/2.0 200 OK\r\nv: SIP/2.0/UDP here\r\n :5070;x\r\ni: x\r\n\r\n";
        assert_eq!(run(response, true), (to_backend(), Verdict::ForwardedNamed));
    }

    #[test]
    fn a_backends_own_message_has_the_vip_for_a_source() {
        let invite = request("INVITE sip:b", "");
        let (step, _) = step(
            invite.as_bytes(),
            address(SPIRALS),
            SERVICE,
            &Fake { open: true },
        );
        let (backend, source) = (address(BACKEND), address(VIP));
        assert_eq!(step, Step::Forward { backend, source });
    }

    #[test]
    fn a_new_call_that_nobody_takes_is_refused_and_the_ack_absorbed() {
        let (Step::Reply(answer), Verdict::AnsweredRefusal) =
            run(request("INVITE sip:b", ""), false)
        else {
            panic!("no refusal");
        };
        let text = String::from_utf8(answer.bytes).unwrap();
        assert!(text.starts_with("SIP/2.0 503 "), "{text}");
        assert!(text.contains("\r\nRetry-After: 9\r\n"), "{text}");
        assert!(text.contains("To: <sip:b>;tag=sfw-503-own\r\n"), "{text}");
        assert_eq!(
            run(request("ACK sip:b", ";tag=sfw-503-own"), false),
            (Step::Absorb, Verdict::AnsweredRefusalAck)
        );
    }

    #[test]
    fn what_only_looks_like_the_ack_of_a_refusal_goes_on() {
        for (start, tag) in [
            ("ACK sip:b", ";tag=sfw-503-other"),
            ("BYE sip:b", ";tag=sfw-503-own"),
            ("ACK sip:b", ""),
        ] {
            assert_eq!(
                run(request(start, tag), false),
                (to_backend(), Verdict::ForwardedHome),
                "{start}{tag}"
            );
        }
    }

    #[test]
    fn messages_of_calls_that_are_up_pass_while_nobody_takes_new_ones() {
        assert_eq!(
            run(request("INVITE sip:b", ";tag=2"), false),
            (to_backend(), Verdict::ForwardedHome)
        );
    }

    #[test]
    fn options_for_the_forwarder_are_answered() {
        for (uri, tag, own) in [
            ("sip:192.0.2.1", "", true),
            ("sips:192.0.2.1:5060;x=y", "", true),
            ("sip:192.0.2.1", ";tag=2", false),
            ("sip:u@192.0.2.1", "", false),
            ("sip:192.0.2.1:5061", "", false),
            ("sip:example.com", "", false),
            ("sip:192.0.2.1;x=y@z", "", false),
        ] {
            let (_, verdict) = run(request(&format!("OPTIONS {uri}"), tag), true);
            assert_eq!(verdict == Verdict::AnsweredOptions, own, "{uri}{tag}");
        }
        for (open, status) in [(true, "SIP/2.0 200 "), (false, "SIP/2.0 503 ")] {
            let (Step::Reply(answer), _) = run(request("OPTIONS sip:192.0.2.1", ""), open) else {
                panic!("no reply");
            };
            assert!(answer.bytes.starts_with(status.as_bytes()));
            assert_eq!(answer.to, address("192.0.2.9:7"));
        }
        let (_, verdict) = run("OPTIONS sip:192.0.2.1 SIP/2.0\r\nCall-ID: x\r\n\r\n", true);
        assert_eq!(verdict, Verdict::DroppedNotSip);
    }

    #[test]
    fn stun_is_answered_and_keep_alives_are_absorbed() {
        let binding = b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl";
        let (Step::Reply(answer), Verdict::AnsweredStun) = run(binding, true) else {
            panic!("no reply");
        };
        assert_eq!(answer.to, address(CLIENT));
        for quiet in [
            &b""[..],
            b"\r\n\r\n",
            b"\0\x11\0\0\x21\x12\xa4\x42abcdefghijkl",
        ] {
            assert_eq!(run(quiet, true), (Step::Absorb, Verdict::AnsweredKeepAlive));
        }
    }

    #[test]
    fn what_is_not_sip_or_has_no_call_id_is_dropped() {
        assert_eq!(run("hello", true), (Step::Absorb, Verdict::DroppedNotSip));
        assert_eq!(
            run("BYE sip:a SIP/2.0\r\n\r\n", true),
            (Step::Absorb, Verdict::DroppedNoCallId)
        );
    }
}
