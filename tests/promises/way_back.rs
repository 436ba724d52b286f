//! What a backend sends to a client always leaves with the VIP as its source, also where the kernel
//! must send it because XDP cannot.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Family, Host, Lab},
    messages::Message,
};

use crate::support::{
    CLIENT_PORT, arrival, as_root, forwarding_lab, proxy_sockets, socket, verdict, vip_socket,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("way_back::unknown_neighbour_v4", || {
            unknown_neighbour(Family::V4)
        }),
        as_root("way_back::unknown_neighbour_v6", || {
            unknown_neighbour(Family::V6)
        }),
        as_root("way_back::another_mac_is_followed_v4", || {
            another_mac(Family::V4)
        }),
        as_root("way_back::another_mac_is_followed_v6", || {
            another_mac(Family::V6)
        }),
    ]
}

/// XDP sends a client's messages on without the kernel seeing them, so the kernel need not know the
/// client's MAC address when the answer comes.
fn unknown_neighbour(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    client.send_to(&Message::invite().build(), vip_socket(family))?;
    let invite = arrival(&proxies)?;
    let address = Host::Client.address(family).to_string();
    let forgotten = lab
        .command(Host::Forwarder, "ip")?
        .args(["neigh", "del", &address, "dev", "to-client"])
        .status()?;
    ensure!(
        forgotten.success(),
        "cannot forget the client's neighbour entry"
    );
    let mut buffer = vec![0; 65_536];
    for code in ["first", "second"] {
        proxies[0].send_to(&Message::ok().header("X-Answer", code).build(), invite.from)?;
        let (_, from) = client
            .recv_from(&mut buffer)
            .with_context(|| format!("the {code} answer is lost"))?;
        ensure!(
            from == vip_socket(family),
            "the {code} answer came from {from}, not from the VIP"
        );
    }
    let (by_kernel, _) = verdict(&daemon, "returned-by-kernel")?;
    ensure!(
        by_kernel >= 1,
        "the kernel did not send it: {:#}",
        daemon.status()?["verdicts"]
    );
    Ok(())
}

/// How long the old next hop may be used after the client moved: with a daemon, which hears of it, and
/// without one, as long as the program keeps what the kernel told.
const WITH_DAEMON: Duration = Duration::from_millis(500);
const WITHOUT_DAEMON: Duration = Duration::from_millis(1_500);

/// The client's interface is replaced while answers go to it by the fast path.
fn another_mac(family: Family) -> Result<()> {
    let (lab, mut daemon) = forwarding_lab(1, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    client.send_to(&Message::invite().build(), vip_socket(family))?;
    let caller = arrival(&proxies)?.from;
    let answer = |within: Duration| -> Result<()> {
        let start = Instant::now();
        client.set_read_timeout(Some(Duration::from_millis(20)))?;
        loop {
            proxies[0].send_to(&Message::ok().build(), caller)?;
            if heard(&client)? {
                return Ok(());
            }
            ensure!(
                start.elapsed() < within,
                "no answer reached the client within {within:?}"
            );
        }
    };
    answer(WITH_DAEMON)?;
    answer(WITH_DAEMON)?;
    let (fast, _) = verdict(&daemon, "returned-response")?;
    ensure!(fast >= 2, "the answers did not go by the fast path");
    move_client(&lab, family, "02:00:00:00:77:01")?;
    answer(WITH_DAEMON).context("with a daemon")?;
    daemon.kill()?;
    answer(WITH_DAEMON)?;
    move_client(&lab, family, "02:00:00:00:77:02")?;
    answer(WITHOUT_DAEMON).context("without a daemon")
}

/// Has an answer come?
fn heard(client: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 2_048];
    match client.recv_from(&mut buffer) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("the client cannot receive"),
    }
}

/// Gives the client another MAC address, and tells the forwarder's kernel.
fn move_client(lab: &Lab, family: Family, mac: &str) -> Result<()> {
    let address = Host::Client.address(family).to_string();
    let ip = |host, arguments: &[&str]| -> Result<()> {
        let status = lab.command(host, "ip")?.args(arguments).status()?;
        ensure!(status.success(), "ip {} failed", arguments.join(" "));
        Ok(())
    };
    ip(
        Host::Client,
        &["link", "set", "dev", "client", "address", mac],
    )?;
    ip(
        Host::Forwarder,
        &[
            "neigh",
            "replace",
            &address,
            "lladdr",
            mac,
            "dev",
            "to-client",
            "nud",
            "permanent",
        ],
    )
}
