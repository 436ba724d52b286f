//! A worker's whole step in mode `proxy`, over tables in memory, and the way back of what it sends on.

use std::{net::SocketAddr, sync::OnceLock};

use sip_forwarder::{
    sip::{
        headers::{Name, Sip, StartLine},
        proxy::{Patch, Proxy, Settings},
        reader,
        transport::Flow,
    },
    slowpath::{
        flows::{Next, Sender, Unconnected},
        proxying::{Proxied, ProxyStep},
    },
};
use sip_forwarder_ebpf::{
    rule::Role,
    verdict::{Outcome, Verdict},
};

use super::{
    CLIENT,
    step::{BACKEND, Memory, Mood, SERVICE, VIP},
};
use crate::patches;

const NOW: u64 = 1_800_000_000;
const OTHER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 77)),
    5060,
);

/// Whatever comes from a client goes to a backend or nowhere; what comes from a backend goes where it
/// says; a response to it comes back to who asked, from who was asked alone; and what was not asked goes
/// nowhere.
///
/// # Panics
/// If it is not so.
pub fn proxy(data: &[u8]) {
    for record_route in [false, true] {
        for mood in [Mood::Open, Mood::Closed, Mood::Dead] {
            for sender in [CLIENT, BACKEND] {
                one(data, sender, mood, record_route);
            }
        }
    }
}

/// What a client's datagram comes to while every backend is open; the VIP is 192.0.2.1.
pub fn proxied(data: &[u8], patch: &mut Patch) -> (ProxyStep, Verdict) {
    step(data, CLIENT, Mood::Open, true, patch)
}

fn one(data: &[u8], sender: SocketAddr, mood: Mood, record_route: bool) {
    let mut patch = Patch::default();
    let (what, verdict) = step(data, sender, mood, record_route, &mut patch);
    let outcome = verdict.entry().outcome;
    let to = match what {
        ProxyStep::Forward(next) => address(next),
        ProxyStep::Reply(answer) => {
            assert_eq!(outcome, Outcome::Answered, "{verdict:?}");
            assert_eq!(answer.to.ip(), sender.ip(), "answered somebody else");
            return;
        }
        ProxyStep::Absorb => {
            assert!(
                matches!(outcome, Outcome::Answered | Outcome::Dropped),
                "{verdict:?} is not the end of what is absorbed"
            );
            return;
        }
    };
    let reading = reader::read(data).expect("what is sent on can be read");
    assert_ne!(reading.role, Role::Response, "a response came through");
    if verdict == Verdict::ReturnedRequest {
        assert_eq!(sender, BACKEND, "an open relay");
        // Else it would come back at once.
        assert_ne!(to, VIP);
    } else {
        assert_eq!((outcome, to), (Outcome::Forwarded, BACKEND), "{verdict:?}");
    }
    let sent =
        patches::checked(data, &patch, "192.0.2.1").unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(sent.len(), patch.length());
    way_back(&sent, to, sender, record_route);
}

fn step(
    data: &[u8],
    sender: SocketAddr,
    mood: Mood,
    record_route: bool,
    patch: &mut Patch,
) -> (ProxyStep, Verdict) {
    static PROXIES: OnceLock<[Proxy; 2]> = OnceLock::new();
    let proxies = PROXIES.get_or_init(|| {
        [false, true].map(|record_route| {
            Proxy::new(Settings {
                record_route,
                ..Settings::new(VIP, [0x5eed, 0xf0_0d])
            })
        })
    });
    Proxied {
        service: SERVICE,
        proxy: &proxies[usize::from(record_route)],
        tables: &Memory(mood),
        flows: &Unconnected,
        now: NOW,
    }
    .step(data, by_datagram(sender), patch)
}

fn by_datagram(sender: SocketAddr) -> Sender {
    Sender {
        flow: Flow::udp(sender),
        is_backend: sender == BACKEND,
    }
}

/// Where a message goes for which there are no connections.
fn address(next: Next) -> SocketAddr {
    next.by_datagram().expect("there are no connections")
}

/// A response to what was sent on.
fn way_back(sent: &[u8], from: SocketAddr, asked: SocketAddr, record_route: bool) {
    let response = respond(sent);
    let mut patch = Patch::default();
    let mut back = |bytes: &[u8], from| step(bytes, from, Mood::Open, record_route, &mut patch);
    let nowhere = |what: ProxyStep, why: &str| assert_eq!(what, ProxyStep::Absorb, "{why}");
    let text = || response.escape_ascii();

    // What is not for us to send on, or from somebody else, or of another call, or changed.
    nowhere(back(&response, OTHER).0, "a stranger's response");
    let cookie = position(&response, b";sfw=").expect("no cookie") + 5;
    let mut changed = response.clone();
    let at = cookie + sent.len() % 35;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    nowhere(back(&changed, from).0, "a changed cookie");
    let again = [&response[..response.len() - 2], b"Call-ID: other\r\n\r\n"].concat();
    nowhere(back(&again, from).0, "two calls in one response");
    let foreign = Proxied {
        service: SERVICE,
        proxy: &Proxy::new(Settings {
            record_route,
            ..Settings::new(VIP, [1, 2])
        }),
        tables: &Memory(Mood::Open),
        flows: &Unconnected,
        now: NOW,
    }
    .step(&response, by_datagram(from), &mut Patch::default());
    nowhere(foreign.0, "another cluster's cookie");

    let (what, verdict) = back(&response, from);
    let ProxyStep::Forward(next) = what else {
        panic!("the response came to {verdict:?}: {}", text());
    };
    let to = address(next);
    assert_eq!(verdict, Verdict::ReturnedResponse);
    assert_eq!(to.ip(), asked.ip(), "the response went elsewhere");
    let mut left = Vec::new();
    patch.write_to(&response, &mut left);
    // Our Via is a line of its own, the first header.
    let begin = STATUS.len();
    let end = begin + position(&response[begin..], b"\n").expect("no line") + 1;
    let expected = [&response[..begin], &response[end..]].concat();
    assert_eq!(left, expected, "not just our Via is gone: {}", text());
}

const STATUS: &[u8] = b"SIP/2.0 200 OK\r\n";

/// What a backend makes of a request: the headers that every response repeats, as they are.
fn respond(request: &[u8]) -> Vec<u8> {
    let sip = Sip::cut(request).expect("what is sent on can be read");
    assert!(matches!(sip.start, StartLine::Request { .. }));
    let mut response = STATUS.to_vec();
    for line in sip.lines() {
        if matches!(
            line.name,
            Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq
        ) {
            response.extend_from_slice(&request[line.whole]);
            if response.last() != Some(&b'\n') {
                response.extend_from_slice(b"\r\n");
            }
        }
    }
    response.extend_from_slice(b"\r\n");
    response
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_backends_come_where_they_are_to() {
        let outward = &include_bytes!("../../fuzz/seeds/proxy/outward")[..];
        let spiral = &include_bytes!("../../fuzz/seeds/proxy/spiral")[..];
        let route = "198.51.100.8:5070".parse().unwrap();
        for (seed, sender, to, verdict) in [
            (outward, BACKEND, route, Verdict::ReturnedRequest),
            (outward, CLIENT, BACKEND, Verdict::ForwardedHome),
            (spiral, BACKEND, BACKEND, Verdict::ForwardedHome),
        ] {
            let done = step(seed, sender, Mood::Open, true, &mut Patch::default());
            let ProxyStep::Forward(next) = done.0 else {
                panic!("{sender}: {done:?}");
            };
            assert_eq!((address(next), done.1), (to, verdict), "{sender}");
        }
    }

    #[test]
    fn a_forged_cookie_is_known_for_one() {
        let forged = include_bytes!("../../fuzz/seeds/proxy/forged");
        let (what, verdict) = step(forged, BACKEND, Mood::Open, true, &mut Patch::default());
        assert_eq!(
            (what, verdict),
            (ProxyStep::Absorb, Verdict::DroppedResponseForged)
        );
    }
}
