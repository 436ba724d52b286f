//! A backend is asked by the transport that leads to it: it may be dead by TCP and well by UDP.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use sip_forwarder_tests::{
    agent::MasterKey,
    lab::{DaemonSpec, Host, Lab, process::poll},
    messages::Message,
    proxy::ScriptedProxy,
    sipp::Uas,
    stream::{Transport, proxy::StreamProxy},
};

use super::room::{FAMILY, Room};
use crate::{
    cluster::{NOTICE, Watched, member},
    support::{ARRIVAL, CLIENT_PORT, as_root, daemon_file, socket, vip_socket},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "transports::dead_by_tcp_and_well_by_udp_is_dead",
            by_options,
        ),
        as_root(
            "transports::an_agent_does_not_vouch_for_tcp",
            beside_an_agent,
        ),
        as_root(
            "transports::a_backend_with_anothers_certificate_is_dead",
            certificate,
        ),
        as_root(
            "transports::large_messages_go_by_tcp_while_it_answers",
            large,
        ),
    ]
}

const FAST_PROBES: &str = "[service.probe]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n";

fn asked_fast(spec: &mut DaemonSpec) {
    spec.services[0].health = "options";
}

/// Probes are a table of their own, which must come behind all keys of the service.
fn hurry(room: &mut Room) -> Result<()> {
    room.spec.services[0].extra.push_str(FAST_PROBES);
    room.daemon.configure(&room.spec)?;
    room.daemon.run(&["reload"]).map(drop)
}

fn tcp_proxy(lab: &Lab, proxy: u8) -> Result<StreamProxy> {
    let host = Host::Proxy(proxy);
    StreamProxy::start(lab, host, host.socket(FAMILY, 5060))
}

fn wait_state(room: &Room, proxy: u8, state: &str) -> Result<serde_json::Value> {
    let what = format!("had proxy {proxy} {state}");
    let status = room.daemon.wait_for(&what, NOTICE, |status| {
        member(status, proxy)["state"] == state
    })?;
    Ok(member(&status, proxy))
}

fn is_down(backend: &serde_json::Value) -> Result<()> {
    ensure!(
        backend["transport"] == "tcp"
            && backend["transports_down"] == json!(["tcp"])
            && backend["why"]
                .as_str()
                .is_some_and(|why| why.contains("by tcp")),
        "{backend:#}"
    );
    Ok(())
}

fn client(room: &Room) -> Result<UdpSocket> {
    socket(&room.lab, Host::Client, FAMILY, CLIENT_PORT)
}

/// So many new calls; all of them must come to this proxy.
fn all_at(client: &UdpSocket, proxy: &StreamProxy, name: &str, calls: usize) -> Result<()> {
    for n in 0..calls {
        let invite = Message::invite().call_id(&format!("{name}-{n}@client"));
        client.send_to(&invite.build(), vip_socket(FAMILY))?;
    }
    let mut came = 0;
    let all = poll(ARRIVAL, || {
        came += proxy.take().len();
        Ok((came >= calls).then_some(()))
    })?;
    ensure!(
        all.is_some(),
        "{came} of {calls} calls are where all are to be"
    );
    Ok(())
}

fn by_options() -> Result<()> {
    let mut room = Room::start(2, Transport::Tcp, asked_fast)?;
    // By UDP, both are well.
    let _by_udp = ScriptedProxy::start_all(&room.lab, FAMILY)?;
    let first = tcp_proxy(&room.lab, 1)?;
    let second = tcp_proxy(&room.lab, 2)?;
    hurry(&mut room)?;
    let client = client(&room)?;
    wait_state(&room, 1, "alive")?;
    wait_state(&room, 2, "alive")?;
    drop(first);
    is_down(&wait_state(&room, 1, "dead")?)?;
    all_at(&client, &second, "one-left", 20)?;
    let first = tcp_proxy(&room.lab, 1)?;
    wait_state(&room, 1, "alive")?;
    drop(second);
    wait_state(&room, 2, "dead")?;
    all_at(&client, &first, "the-other", 20)
}

fn beside_an_agent() -> Result<()> {
    let lab = Lab::new(2)?;
    let key = MasterKey::new(&lab, &daemon_file()?)?;
    let mut room = Room::in_lab(lab, Transport::Tcp, |spec| {
        spec.services[0].health = "agent";
        spec.forwarder_extra = key.heartbeats();
    })?;
    let first = tcp_proxy(&room.lab, 1)?;
    let second = tcp_proxy(&room.lab, 2)?;
    hurry(&mut room)?;
    let mut watched = Vec::new();
    for proxy in 1..=2 {
        watched.push(Watched::start(&room.lab, &key, proxy)?);
        let what = format!("heard of proxy {proxy}");
        room.daemon.wait_for(&what, NOTICE, |status| {
            let backend = member(status, proxy);
            backend["cpu"].is_number() && backend["state"] == "alive"
        })?;
    }
    // Its agent goes on to report that all is well.
    drop(first);
    is_down(&wait_state(&room, 1, "dead")?)?;
    all_at(&client(&room)?, &second, "agent", 20)?;
    let _first = tcp_proxy(&room.lab, 1)?;
    wait_state(&room, 1, "alive")?;
    // And what the agent says counts as before.
    watched[0].process.kill()?;
    let dead = wait_state(&room, 1, "dead")?;
    ensure!(
        dead["why"]
            .as_str()
            .is_some_and(|why| why.contains("stopped")),
        "{dead:#}"
    );
    Ok(())
}

/// The first proxy shows a good certificate for somebody else.
fn certificate() -> Result<()> {
    let mut room = Room::start(1, Transport::Tls, asked_fast)?;
    hurry(&mut room)?;
    let host = Host::Proxy(1);
    let address = host.socket(FAMILY, Transport::Tls.port());
    let strange = room.trust.authority.server("strange", &["other.example"])?;
    let uas = Uas::start_tls(&room.lab, host, address, &strange)?;
    // Nobody listened before: what it is dead of now, only the log tells.
    let told = poll(NOTICE, || {
        let log = std::fs::read_to_string(room.daemon.log())?;
        Ok(log.contains("look at its certificate").then_some(()))
    })?;
    ensure!(told.is_some(), "nobody was told of the certificate");
    let dead = wait_state(&room, 1, "dead")?;
    ensure!(dead["transports_down"] == json!(["tls"]), "{dead:#}");
    drop(uas);
    let own = room
        .trust
        .authority
        .server("own", &[&address.ip().to_string()])?;
    let _uas = Uas::start_tls(&room.lab, host, address, &own)?;
    wait_state(&room, 1, "alive")?;
    Ok(())
}

fn large() -> Result<()> {
    let mut room = Room::start(1, Transport::Udp, |spec| {
        asked_fast(spec);
        spec.services[0].extra += "large_by_tcp = true\n";
    })?;
    hurry(&mut room)?;
    let by_udp = ScriptedProxy::start(&room.lab, Host::Proxy(1), FAMILY)?;
    let by_tcp = tcp_proxy(&room.lab, 1)?;
    let client = client(&room)?;
    let up = |room: &Room, up: bool| {
        let what = format!("had TCP {up}");
        let status = room.daemon.wait_for(&what, NOTICE, |status| {
            let backend = member(status, 1);
            (backend["transports_down"] == json!([])) == up && backend["state"] == "alive"
        });
        status.map(drop)
    };
    let send = |call_id: &str, size| -> Result<()> {
        let invite = Message::invite().call_id(call_id).build_sized(size);
        client.send_to(&invite, vip_socket(FAMILY))?;
        Ok(())
    };
    let arrival_by_udp = || poll(ARRIVAL, || Ok(by_udp.take().into_iter().next()));
    up(&room, true)?;
    send("large@client", 1_400)?;
    let came = poll(ARRIVAL, || Ok(by_tcp.take().into_iter().next()))?;
    ensure!(came.context("nothing came by TCP")?.len() > 1_400);
    send("small@client", 600)?;
    arrival_by_udp()?.context("a small one did not come by UDP")?;
    ensure!(by_tcp.take().is_empty(), "a small one came by TCP");
    drop(by_tcp);
    up(&room, false)?;
    send("large-again@client", 1_400)?;
    let came = arrival_by_udp()?.context("nothing came by UDP")?;
    ensure!(came.payload.len() > 1_400);
    Ok(())
}
