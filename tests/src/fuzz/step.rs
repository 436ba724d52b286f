//! The whole step of a worker, over tables in memory.

use std::net::SocketAddr;

use sip_forwarder::slowpath::{
    placement::{Message, Placed, Placement, Tables},
    step::{self, Step},
};
use sip_forwarder_ebpf::{
    abi::ServiceId,
    rule::Role,
    verdict::{Outcome, Verdict},
};

use super::CLIENT;

pub(super) const SERVICE: ServiceId = ServiceId(0);
pub(super) const BACKEND: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    5060,
);
pub(super) const VIP: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    5060,
);

/// How the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Everybody is open.
    Open,
    /// Nobody takes new calls.
    Closed,
    /// Nobody lives.
    Dead,
    /// Everybody is open, and the sender is itself a backend.
    Spiral,
}

/// Whatever comes ends in one verdict that fits what is done, and no answer is larger than it may be.
///
/// # Panics
/// If it does not.
pub fn step(data: &[u8]) {
    for mood in [Mood::Open, Mood::Closed, Mood::Dead, Mood::Spiral] {
        let (what, verdict) = step::step(data, CLIENT, SERVICE, &Memory(mood));
        check(data, mood, &what, verdict);
    }
}

fn check(data: &[u8], mood: Mood, what: &Step, verdict: Verdict) {
    let outcome = verdict.entry().outcome;
    match what {
        Step::Forward { backend, source } => {
            assert_eq!((outcome, *backend), (Outcome::Forwarded, BACKEND));
            let seen = if mood == Mood::Spiral { VIP } else { CLIENT };
            assert_eq!(*source, seen, "{mood:?}");
        }
        Step::Reply(answer) => {
            assert_eq!(outcome, Outcome::Answered);
            assert_eq!(answer.to.ip(), CLIENT.ip(), "answered somebody else");
            let limit = 3 * data.len() + OWN_WORDS;
            let length = answer.bytes.len();
            assert!(length <= limit, "{} bytes made {length}", data.len());
        }
        Step::Absorb => assert!(
            matches!(outcome, Outcome::Answered | Outcome::Dropped),
            "{verdict:?} is not the end of what is absorbed"
        ),
    }
}

/// What an answer holds that the request did not. A byte that is no UTF-8 becomes three.
const OWN_WORDS: usize = 400;

pub(super) struct Memory(pub(super) Mood);

impl Tables for Memory {
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Placed {
        assert_eq!(service, SERVICE);
        assert!(!message.call_id.is_empty());
        assert_eq!(message.start.is_some(), message.role.starts());
        match self.0 {
            Mood::Dead => Placed::Dropped(Verdict::DroppedNoBackend),
            Mood::Closed if message.role.starts() => Placed::Refused { retry_after: 5 },
            _ => Placed::To(Placement {
                backend: BACKEND,
                verdict: match message.role {
                    Role::Response => Verdict::ForwardedNamed,
                    _ => Verdict::ForwardedHome,
                },
            }),
        }
    }

    fn refusal_tag(&self, _: &[u8]) -> String {
        "sfw-503-0123456789abcdef".to_owned()
    }

    fn is_backend(&self, _: ServiceId, source: SocketAddr) -> bool {
        source == BACKEND || self.spiral_source(source).is_some()
    }

    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr> {
        (self.0 == Mood::Spiral && source == CLIENT).then_some(VIP)
    }

    fn takes_calls(&self, _: ServiceId) -> bool {
        self.0 == Mood::Open
    }

    fn is_own_name(&self, _: ServiceId, host: &[u8], port: u16) -> bool {
        host == b"192.0.2.1" && port == VIP.port()
    }

    fn unreachable(&self, _: ServiceId, _: SocketAddr) {}

    fn count(&self, verdict: Verdict) {
        panic!("a step counts nothing, not even {verdict:?}");
    }
}
