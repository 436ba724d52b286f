//! Messages too large for one packet: the same backend, the client's address, and back from the VIP.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Family, Host},
    messages::Message,
};

use crate::support::{
    CLIENT_PORT, arrival, as_root, forwarding_lab, proxy_sockets, socket, verdict, vip_socket,
};

const LARGE: usize = 3_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        trials.push(as_root(
            &format!("fragments::large_request_{name}"),
            move || large_request(family),
        ));
        trials.push(as_root(
            &format!("fragments::large_response_{name}"),
            move || large_response(family),
        ));
    }
    trials
}

fn large_request(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(3, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    for n in 0..6 {
        let call_id = format!("large-{n}@client");
        let large = Message::request("INVITE")
            .call_id(&call_id)
            .build_sized(LARGE);
        client.send_to(&large, vip_socket(family))?;
        let first = arrival(&proxies).with_context(|| format!("the large INVITE of {call_id}"))?;
        ensure!(first.payload == large, "the large message arrived changed");
        ensure!(
            first.from == client.local_addr()?,
            "it came from {}, not from the client",
            first.from
        );
        client.send_to(
            &Message::bye().call_id(&call_id).build(),
            vip_socket(family),
        )?;
        let second = arrival(&proxies)?;
        ensure!(
            second.proxy == first.proxy,
            "INVITE at proxy {}, BYE at proxy {}",
            first.proxy,
            second.proxy
        );
    }
    let (passed, _) = verdict(&daemon, "fragment")?;
    ensure!(
        passed >= 6,
        "the large messages did not arrive in fragments"
    );
    Ok(())
}

fn large_response(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    client.send_to(&Message::invite().build(), vip_socket(family))?;
    let invite = arrival(&proxies)?;
    let large = Message::response(200, "OK", "INVITE").build_sized(LARGE);
    proxies[0].send_to(&large, invite.from)?;
    let mut buffer = vec![0; 65_536];
    let (length, from) = client
        .recv_from(&mut buffer)
        .context("the large 200 did not come back")?;
    ensure!(
        buffer[..length] == large[..],
        "the large 200 came back changed"
    );
    ensure!(
        from == vip_socket(family),
        "it came from {from}, not from the VIP"
    );
    let (fragments, _) = verdict(&daemon, "returned-fragment")?;
    ensure!(fragments >= 1, "the large 200 did not come in fragments");
    Ok(())
}
