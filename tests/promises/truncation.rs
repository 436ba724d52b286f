//! A packet truncated at any byte, at any layer, is never forwarded wrongly.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    frames::{UdpFrame, parse},
    lab::Family,
    messages::Message,
    program::Action,
};

use crate::{
    packets::{Bench, in_lab},
    support::as_root,
};

/// Shortest frame a test run takes, in bytes: an Ethernet header.
const SHORTEST: usize = 14;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("truncation::frames_v4", || in_lab(Family::V4, frames)),
        as_root("truncation::frames_v6", || in_lab(Family::V6, frames)),
        as_root("truncation::messages_v4", || in_lab(Family::V4, messages)),
        as_root("truncation::messages_v6", || in_lab(Family::V6, messages)),
    ]
}

/// The frame ends early and its lengths tell otherwise: never sent on, never changed.
fn frames(bench: &Bench) -> Result<()> {
    let plain = bench.to_vip(Message::invite().build());
    let tagged = plain.clone().vlan(10).vlan(20);
    for frame in [plain, tagged] {
        let whole = frame.build();
        for length in SHORTEST..whole.len() {
            let ran = bench.program.run(&whole[..length])?;
            ensure!(
                ran.action == Action::Pass,
                "cut at {length} it was {:?} ({:?})",
                ran.action,
                ran.verdict
            );
            ensure!(
                ran.frame == whole[..length],
                "cut at {length} it was changed"
            );
        }
    }
    Ok(())
}

/// The message ends early and all lengths agree: it goes where the whole one goes, or is passed on.
fn messages(bench: &Bench) -> Result<()> {
    let requests = [
        Message::invite().build(),
        Message::bye().build(),
        Message::ok().build(),
        Message::bye().compact().build(),
    ];
    for message in requests {
        let home = destination(bench, &bench.to_vip(message.clone()))?;
        ensure!(home.is_some(), "the whole message was not sent on");
        for length in 0..message.len() {
            let got = destination(bench, &bench.to_vip(&message[..length]))?;
            ensure!(
                got.is_none() || got == home,
                "cut at {length} it went to {got:?}, not to {home:?}"
            );
        }
    }
    Ok(())
}

fn destination(bench: &Bench, frame: &UdpFrame) -> Result<Option<std::net::SocketAddr>> {
    let ran = bench.run(frame)?;
    Ok(match ran.action {
        Action::Tx => parse(&ran.frame)?
            .datagram()
            .map(|(_, destination, _)| destination),
        _ => None,
    })
}
