//! Attackers: the memory they get is bounded, their connections end in good time, and the calls beside them do not
//! feel them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Host, Lab, process::poll, process_tree::resident, vip},
    messages::Message,
    sipp::{CallOptions, run_calls_by},
    stream::{
        Transport,
        hostile::{Attack, Attackers, HALF_HELLO, HALF_UPGRADE},
        link::Link,
    },
};

use super::{
    calls::{answering, clean, logs},
    room::{FAMILY, Room},
};
use crate::support::{ARRIVAL, arrival, as_root, proxy_sockets};

/// What all attackers together may make the daemon keep.
const MEMORY: u64 = 64 << 20;
/// The limits of these tests: short times, so that they end.
const LIMITS: &str = "[connections]\n\
    per_source = 400\n\
    half_open = 300\n\
    handshake_timeout = \"1s\"\n\
    message_timeout = \"1s\"\n\
    write_timeout = \"1s\"\n";

pub(crate) fn trials() -> Vec<Trial> {
    let attack = |name: &str, transport: Transport, attack: Attack, connections: usize| {
        as_root(&format!("transports::calls_beside_{name}"), move || {
            beside(transport, attack, connections)
        })
    };
    vec![
        attack("slowloris", Transport::Tcp, Attack::Slowloris, 200),
        attack(
            "half_open_connections",
            Transport::Tcp,
            Attack::HalfOpen(b""),
            200,
        ),
        attack(
            "half_tls_handshakes",
            Transport::Tls,
            Attack::HalfOpen(HALF_HELLO),
            200,
        ),
        attack(
            "half_websocket_handshakes",
            Transport::Ws,
            Attack::HalfOpen(HALF_UPGRADE),
            200,
        ),
        attack("a_gigabyte_announced", Transport::Tcp, Attack::HugeBody, 20),
        attack("garbage", Transport::Tcp, Attack::Garbage, 20),
        attack("garbage_for_tls", Transport::Tls, Attack::Garbage, 20),
        attack("garbage_for_websocket", Transport::Ws, Attack::Garbage, 20),
        attack(
            "peers_that_never_read",
            Transport::Tcp,
            Attack::NeverReads,
            20,
        ),
        as_root("transports::too_large_is_513", too_large),
        as_root("transports::binary_bodies_arrive_as_they_are", binary),
        as_root(
            "transports::more_than_a_source_may_have_is_closed",
            per_source,
        ),
    ]
}

fn limited(lab: Lab) -> Result<Room> {
    Room::in_lab(lab, Transport::Udp, |spec| {
        spec.forwarder_extra.push_str(LIMITS);
    })
}

/// Calls over TCP while attackers are at work from another address. The attackers' connections must end, all of
/// them: whoever attacks is closed in good time.
fn beside(transport: Transport, attack: Attack, connections: usize) -> Result<()> {
    let room = limited(Lab::with_callee(2)?)?;
    let proxies = answering(&room.lab, &room.trust, Transport::Udp)?;
    let pid = room.daemon.pid().context("the daemon has ended")?;
    let memory = || resident(pid).context("the daemon has ended");
    let before = memory()?;
    let address = SocketAddr::new(vip(FAMILY), transport.port());
    let attackers = Attackers::start(&room.lab, Host::Callee, address, attack, connections)?;
    let at_work = poll(ARRIVAL * 3, || {
        Ok((attackers.opened() >= connections as u64).then_some(()))
    })?;
    ensure!(at_work.is_some(), "{attackers:?}");
    let options = CallOptions {
        calls: 300,
        rate: 100,
        hold: Duration::from_millis(200),
        deadline: Duration::from_secs(30),
        ..CallOptions::default()
    };
    let mut most = 0;
    let target = room.target(Transport::Tcp);
    let report = run_calls_by(&room.lab, &options, &target, &logs(&proxies), &mut |_| {
        most = most.max(memory().unwrap_or(u64::MAX));
    })?;
    clean(&report)?;
    most = most.max(memory()?);
    ensure!(
        most < before + MEMORY,
        "the daemon grew from {before} to {most} bytes; {attackers:?}"
    );
    let ended = poll(ARRIVAL * 5, || {
        Ok((attackers.closed() >= connections as u64).then_some(()))
    })?;
    ensure!(ended.is_some(), "not all were closed: {attackers:?}");
    Ok(())
}

/// Told before the body comes.
fn too_large() -> Result<()> {
    let room = limited(Lab::new(1)?)?;
    for transport in [Transport::Tcp, Transport::Tls] {
        let link = Link::open(&room.lab, Host::Client, &room.target(transport))?;
        let invite = String::from_utf8(Message::invite().build())?;
        let (head, _) = invite.split_once("Content-Length").context("no length")?;
        link.send(format!("{head}Content-Length: 1000000000\r\n\r\n").as_bytes())?;
        let came = link.wait_closed(ARRIVAL)?;
        let first = came
            .first()
            .map(|m| String::from_utf8_lossy(m).into_owned());
        ensure!(
            came.len() == 1
                && first
                    .as_deref()
                    .is_some_and(|m| m.starts_with("SIP/2.0 513 ")),
            "{transport}: {first:?}"
        );
        let link = Link::open(&room.lab, Host::Client, &room.target(transport))?;
        let endless = format!("{head}X-Long: {}", "x".repeat(20_000));
        link.send(endless.as_bytes())?;
        link.wait_closed(ARRIVAL)
            .with_context(|| format!("headers without end by {transport}"))?;
    }
    // One message of a WebSocket that is larger than any may be.
    let link = Link::open(&room.lab, Host::Client, &room.target(Transport::Ws))?;
    link.send(&Message::invite().body_size(100_000).build())?;
    link.wait_closed(ARRIVAL).context("too large by ws")?;
    Ok(())
}

/// A body may hold anything, what looks like a message too.
fn binary() -> Result<()> {
    let room = Room::start(1, Transport::Udp, |_| {})?;
    let proxies = proxy_sockets(&room.lab, FAMILY)?;
    let mut body: Vec<u8> = (0..=255).cycle().take(2_000).collect();
    body.extend_from_slice(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: hidden\r\n\r\n\0");
    for transport in super::room::CONNECTED {
        let link = Link::open(&room.lab, Host::Client, &room.target(transport))?;
        let via = format!(
            "SIP/2.0/{} 10.210.0.2:5061;branch=z9hG4bK-bin",
            transport.in_via()
        );
        let message = Message::invite()
            .vias(&[&via])
            .call_id(&format!("binary-{transport}@client"))
            .body(&body)
            .build();
        link.send(&message)?;
        let came = arrival(&proxies).with_context(|| format!("by {transport}"))?;
        ensure!(
            came.payload.ends_with(&body),
            "by {transport} it arrived as {}",
            came.payload.escape_ascii()
        );
    }
    Ok(())
}

/// Others may have as many.
fn per_source() -> Result<()> {
    let room = Room::in_lab(Lab::with_callee(1)?, Transport::Udp, |spec| {
        spec.forwarder_extra
            .push_str("[connections]\nper_source = 10\n");
    })?;
    let proxies = proxy_sockets(&room.lab, FAMILY)?;
    let address = SocketAddr::new(vip(FAMILY), Transport::Tcp.port());
    let connect = |host| -> Result<TcpStream> {
        let stream = room.lab.enter(host, || TcpStream::connect(address))??;
        stream.set_read_timeout(Some(ARRIVAL))?;
        Ok(stream)
    };
    let speak = |mut stream: &TcpStream, call_id: &str| -> Result<()> {
        let message = Message::invite()
            .vias(&["SIP/2.0/TCP 10.210.0.2:5061;branch=z9hG4bK-many"])
            .call_id(call_id)
            .build();
        stream.write_all(&message)?;
        arrival(&proxies).map(drop)
    };
    let mut held = Vec::new();
    for n in 0..10 {
        let stream = connect(Host::Client)?;
        speak(&stream, &format!("held-{n}@client"))?;
        held.push(stream);
    }
    let mut over = connect(Host::Client)?;
    let mut byte = [0];
    ensure!(
        matches!(over.read(&mut byte), Ok(0) | Err(_)),
        "the eleventh connection is served"
    );
    let other = connect(Host::Callee)?;
    speak(&other, "other@callee")?;
    // Room is made when one ends.
    drop(held.pop());
    let again = poll(ARRIVAL * 5, || {
        let stream = connect(Host::Client)?;
        Ok(speak(&stream, "again@client").is_ok().then_some(()))
    })?;
    ensure!(again.is_some(), "an ended connection still counts");
    for (n, stream) in held.iter().enumerate() {
        speak(stream, &format!("still-{n}@client"))?;
    }
    Ok(())
}
