//! What a backend sends to a client always leaves with the VIP as its source, also where the kernel
//! must send it because XDP cannot.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Family, Host},
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
