//! The packets that are timed alone, each again and again.

use std::net::SocketAddr;

use anyhow::bail;
use sip_forwarder_ebpf::verdict::Verdict;
use sip_forwarder_tests::{
    frames::UdpFrame,
    lab::{Family, Host, vip},
    messages::{self, Message},
    program::{Action, Program},
};

use super::{CLIENT_PORT, SIP_PORT};

/// A packet to be timed alone.
pub(super) struct Packet {
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
    /// What the program must say to it.
    expected: Expected,
}

/// What becomes of a packet.
#[derive(Clone, Copy)]
enum Expected {
    /// It goes to a backend.
    Forwarded,
    /// It goes back to the client, with this verdict.
    Returned(Verdict),
}

impl Packet {
    /// Tells whether it goes back to the client, and not to a backend.
    pub(super) const fn is_returned(&self) -> bool {
        matches!(self.expected, Expected::Returned(_))
    }

    /// Fails if the fast path does not take it.
    pub(super) fn check(&self, program: &Program) -> anyhow::Result<()> {
        let ran = program.run(&self.frame)?;
        let good = match self.expected {
            Expected::Forwarded => ran.action == Action::Tx,
            Expected::Returned(verdict) => (ran.action, ran.verdict) == (Action::Redirect, verdict),
        };
        if !good {
            bail!(
                "{}: the fast path did not take it ({:?} {:?})",
                self.name,
                ran.action,
                ran.verdict
            );
        }
        Ok(())
    }
}

/// What is put behind the names of cases.
pub(super) const fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "-v6",
    }
}

pub(super) fn client(family: Family) -> SocketAddr {
    Host::Client.socket(family, CLIENT_PORT)
}

pub(super) fn service(family: Family) -> SocketAddr {
    SocketAddr::new(vip(family), SIP_PORT)
}

/// A packet each of what is promised.
pub(super) fn single(family: Family) -> Vec<Packet> {
    let (client, vip) = (client(family), service(family));
    let packet = |name: &str, from, to, message: Vec<u8>, expected| Packet {
        name: format!("{name}{}", suffix(family)),
        frame: UdpFrame::new(from, to, message).hop_limit(255).build(),
        expected,
    };
    let forwarded = |name, message| packet(name, client, vip, message, Expected::Forwarded);
    let returned =
        |name, message, verdict| packet(name, vip, client, message, Expected::Returned(verdict));
    vec![
        forwarded("invite", messages::sipp_invite()),
        forwarded("bye", messages::sipp_bye()),
        forwarded("ok", messages::sipp_ok()),
        forwarded("invite-long", Message::long_invite()),
        returned("return", messages::sipp_ok(), Verdict::ReturnedResponse),
        returned(
            "return-request",
            messages::sipp_invite(),
            Verdict::ReturnedRequest,
        ),
    ]
}
