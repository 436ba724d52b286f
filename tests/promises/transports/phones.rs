//! Phones register through the forwarder, call and are called, over each transport and from behind a NAT. Registrars
//! are Kamailios, which know a phone by the Path that the forwarder wrote.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    baresip::{Baresip, Line},
    kamailio::Kamailio,
    lab::{Host, Lab},
    messages::headers,
    phone::{Call, Phone},
    sipsak,
    stream::Transport,
};

use super::room::{CONNECTED, Room, edge, registrars};
use crate::support::as_root;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in CONNECTED {
        trials.push(as_root(
            &format!("transports::a_phone_is_called_over_{transport}"),
            move || called(Place::Street, transport, Transport::Udp),
        ));
        trials.push(as_root(
            &format!("transports::a_phone_at_home_is_called_over_{transport}"),
            move || called(Place::Home, transport, Transport::Udp),
        ));
    }
    trials.push(as_root(
        "transports::a_phone_at_home_is_called_over_udp",
        || called(Place::Home, Transport::Udp, Transport::Udp),
    ));
    for inside in [Transport::Tcp, Transport::Tls] {
        trials.push(as_root(
            &format!("transports::a_phone_is_called_by_proxies_behind_{inside}"),
            move || called(Place::Street, Transport::Ws, inside),
        ));
    }
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        trials.push(as_root(
            &format!("transports::baresip_calls_over_{transport}"),
            move || baresip(transport),
        ));
    }
    trials.push(as_root(
        "transports::sipsak_registers_over_tcp",
        sipsak_registers,
    ));
    trials
}

/// Where a phone is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the same network as the forwarder.
    Street,
    /// Behind a router that translates its address.
    Home,
}

impl Place {
    const fn host(self) -> Host {
        match self {
            Self::Street => Host::Client,
            Self::Home => Host::Phone,
        }
    }
}

/// A forwarder as an edge, and registrars behind it.
struct Edge {
    registrars: Vec<Kamailio>,
    room: Room,
}

impl Edge {
    fn start(inside: Transport) -> Result<Self> {
        let room = Room::in_lab(Lab::with_phone(2)?, inside, edge)?;
        let registrars = registrars(&room.lab, &room.trust)?;
        Ok(Self { registrars, room })
    }

    fn phone(&self, place: Place, user: &str, transport: Transport) -> Result<Phone> {
        let target = self.room.target(transport);
        Phone::new(&self.room.lab, place.host(), user, &target)
    }

    /// No call was seen by more than one registrar.
    fn each_call_is_whole(&self, calls: &[&Call]) -> Result<()> {
        let seen = self
            .registrars
            .iter()
            .map(|registrar| Ok(registrar.call_log().read()?.touched))
            .collect::<Result<Vec<_>>>()?;
        for call in calls {
            let places = seen.iter().filter(|calls| calls.contains(&call.call_id));
            ensure!(places.count() == 1, "{} is torn: {seen:?}", call.call_id);
        }
        Ok(())
    }
}

/// Alice calls by UDP from the street, as any phone does; Bob is the one whose connection matters. Each calls once
/// and each hangs up once in every direction.
fn called(place: Place, transport: Transport, inside: Transport) -> Result<()> {
    let edge = Edge::start(inside)?;
    let alice = edge.phone(Place::Street, "alice", Transport::Udp)?;
    let bob = edge.phone(place, "bob", transport)?;
    alice.register()?;
    let registered = bob.register()?;
    let paths = headers(&registered, "Path").len();
    ensure!(
        paths == 1,
        "the registrar knows {paths} Paths:\n{registered}"
    );
    for (caller, called, user) in [(&alice, &bob, "bob"), (&bob, &alice, "alice")] {
        for caller_ends in [true, false] {
            call(&edge, caller, called, user, caller_ends)
                .with_context(|| format!("{user} is called, the caller ends it: {caller_ends}"))?;
        }
    }
    Ok(())
}

fn call(
    edge: &Edge,
    caller: &Phone,
    answerer: &Phone,
    user: &str,
    caller_ends: bool,
) -> Result<()> {
    let (calling, taken) = std::thread::scope(|scope| {
        let taking = scope.spawn(|| answerer.answer());
        (caller.call(user), taking.join())
    });
    let taken = taken.map_err(|_| anyhow::anyhow!("the called phone panicked"))?;
    let (calling, taken) = (
        calling.context("the caller")?,
        taken.context("the called phone")?,
    );
    let ((first, one), (second, other)) = if caller_ends {
        ((caller, &calling), (answerer, &taken))
    } else {
        ((answerer, &taken), (caller, &calling))
    };
    let (ended, seen) = std::thread::scope(|scope| {
        let seeing = scope.spawn(|| second.expect_hang_up(other));
        (first.hang_up(one), seeing.join())
    });
    ended.context("who hangs up")?;
    seen.map_err(|_| anyhow::anyhow!("the other phone panicked"))?
        .context("who is hung up on")?;
    edge.each_call_is_whole(&[&calling])
}

/// A phone that others wrote, on both ends, and once at home.
fn baresip(transport: Transport) -> Result<()> {
    let edge = Edge::start(Transport::Udp)?;
    let authority = edge.room.trust.authority.file().to_owned();
    for (host, caller_ends) in [(Host::Client, true), (Host::Phone, false)] {
        let line = Line {
            transport,
            authority: Some(&authority),
            ..Line::default()
        };
        let bob = Line {
            user: "bob",
            port: 5080,
            host,
            ..line
        };
        let alice = Line {
            user: "alice",
            port: 5090,
            calls: Some("bob"),
            ..line
        };
        let mut bob = Baresip::start(&edge.room.lab, &bob)?;
        let mut alice = Baresip::start(&edge.room.lab, &alice)?;
        alice.wait_established()?;
        bob.wait_established()?;
        let (first, second) = if caller_ends {
            (&mut alice, &mut bob)
        } else {
            (&mut bob, &mut alice)
        };
        first.hang_up()?;
        second.wait_closed()?;
        second.hang_up()?;
    }
    Ok(())
}

fn sipsak_registers() -> Result<()> {
    let edge = Edge::start(Transport::Udp)?;
    for n in 0..6 {
        sipsak::register_by_tcp(&edge.room.lab, &format!("user{n}"))?;
    }
    let seen: usize = edge
        .registrars
        .iter()
        .map(|registrar| Ok(registrar.call_log().read()?.touched.len()))
        .sum::<Result<usize>>()?;
    ensure!(seen == 6, "{seen} registrations arrived");
    Ok(())
}
