//! The way to a backend may change while calls are up: the fast path follows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Daemon, Family, Host, Lab},
    messages::Message,
};

use crate::support::{
    CLIENT_PORT, arrival, as_root, forwarding_lab, proxy_sockets, socket, verdict, vip_socket,
};

const NEW_MAC: &str = "02:00:00:00:77:01";
const FOLLOWED: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "next_hops::another_mac_is_followed",
            another_mac_is_followed,
        ),
        as_root(
            "next_hops::a_forgotten_neighbour_is_found_again",
            forgotten_neighbour,
        ),
    ]
}

fn ip(lab: &Lab, host: Host, arguments: &[&str]) -> Result<()> {
    let status = lab.command(host, "ip")?.args(arguments).status()?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

/// Sends INVITEs, each of a call of its own, until one goes by the fast path and arrives.
fn until_fast(lab: &Lab, daemon: &Daemon, call: &str) -> Result<()> {
    let proxies = proxy_sockets(lab, Family::V4)?;
    let client = socket(lab, Host::Client, Family::V4, CLIENT_PORT)?;
    let deadline = Instant::now() + FOLLOWED;
    for n in 0.. {
        let call_id = format!("{call}-{n}@client");
        let (before, _) = verdict(daemon, "home")?;
        client.send_to(
            &Message::invite().call_id(&call_id).build(),
            vip_socket(Family::V4),
        )?;
        let arrived = arrival(&proxies).is_ok();
        let (after, _) = verdict(daemon, "home")?;
        if arrived && after > before {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "not followed within {FOLLOWED:?}: {:#}",
            daemon.status()?
        );
    }
    Ok(())
}

/// A proxy whose interface was replaced.
fn another_mac_is_followed() -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, Family::V4)?;
    until_fast(&lab, &daemon, "before")?;
    ip(
        &lab,
        Host::Proxy(1),
        &["link", "set", "dev", "p1", "address", NEW_MAC],
    )?;
    let address = Host::Proxy(1).address(Family::V4).to_string();
    let replace = [
        "neigh",
        "replace",
        &address,
        "lladdr",
        NEW_MAC,
        "dev",
        "to-p1",
        "nud",
        "permanent",
    ];
    ip(&lab, Host::Forwarder, &replace)?;
    until_fast(&lab, &daemon, "after")
}

/// Without a neighbour entry the slow path has the messages, until the kernel has asked.
fn forgotten_neighbour() -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, Family::V4)?;
    let address = Host::Proxy(1).address(Family::V4).to_string();
    ip(
        &lab,
        Host::Forwarder,
        &["neigh", "del", &address, "dev", "to-p1"],
    )?;
    until_fast(&lab, &daemon, "after")
}
