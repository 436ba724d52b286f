//! Certificates reloaded, the daemon restarted, a backend killed, with calls up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    certificates::{Authority, in_toml},
    lab::{Daemon, Host, process::poll, vip},
    messages::Message,
    sipp::{CallOptions, Uac, Uas},
    stream::{
        Target, TlsClient, Transport,
        link::Link,
        load::{Load, LoadOptions},
    },
};

use super::{
    calls::{answering, logs},
    room::{FAMILY, Room},
};
use crate::{
    cluster::{NOTICE, member},
    support::{ARRIVAL, arrival, as_root, proxy_sockets},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "transports::certificates_are_reloaded_under_calls",
            certificates,
        ),
        as_root("transports::names_choose_the_certificate", names),
        as_root(
            "transports::clients_need_a_certificate_if_told",
            client_certificates,
        ),
        as_root("transports::the_daemon_is_restarted_under_load", || {
            restarted(Daemon::terminate)
        }),
        as_root("transports::the_daemon_crashes_under_load", || {
            restarted(Daemon::kill)
        }),
        as_root("transports::a_backend_is_killed_under_load_udp", || {
            killed(Transport::Udp)
        }),
        as_root("transports::a_backend_is_killed_under_load_tcp", || {
            killed(Transport::Tcp)
        }),
    ]
}

fn load(calls: u32) -> LoadOptions {
    LoadOptions {
        calls,
        rate: 200,
        connections: 20,
        hold: Duration::from_millis(500),
        deadline: Duration::from_secs(40),
    }
}

/// Calls go on over connections that were made before, and who comes after sees the new certificate.
fn certificates() -> Result<()> {
    let room = Room::start(2, Transport::Udp, |_| {})?;
    let proxies = answering(&room.lab, &room.trust, Transport::Udp)?;
    let target = room.target(Transport::Tls);
    let shown = || -> Result<Vec<u8>> {
        let link = Link::open(&room.lab, Host::Client, &target)?;
        let shown = link.server_certificate().context("no certificate")?;
        Ok(shown.to_vec())
    };
    ensure!(shown()? == room.trust.server.der, "another certificate");
    let calls = Load::start(&room.lab, Host::Client, &target, &load(1_000))?;
    let wss = Link::open(&room.lab, Host::Client, &room.target(Transport::Wss))?;
    for _ in 0..3 {
        let next = room
            .trust
            .authority
            .server("server", &[&vip(FAMILY).to_string()])?;
        room.daemon.run(&["reload"])?;
        ensure!(shown()? == next.der, "the new certificate is not shown");
    }
    let under_way = calls.progress();
    ensure!(
        under_way.completed() < under_way.created,
        "no call was up during the reload: {under_way:?}"
    );
    let report = calls.finish(&mut |_| {})?;
    let calls = report.calls.clone().with_backends(&logs(&proxies))?;
    ensure!(
        calls.failed == 0 && calls.split_calls == 0 && report.reconnects == 0,
        "{report:?}"
    );
    // This one was silent all the while.
    wss.send(b"\r\n\r\n")?;
    wss.unit(ARRIVAL).context("no answer to a keep-alive")?;
    Ok(())
}

/// The certificate for a name is that of the name, and the first one for whoever names nobody.
fn names() -> Result<()> {
    let mut room = Room::start(1, Transport::Udp, |_| {})?;
    let other = room
        .trust
        .authority
        .server("other", &["other.example", "*.wild.example"])?;
    room.spec.services[0].extra += &other.as_toml();
    room.daemon.configure(&room.spec)?;
    room.daemon.run(&["reload"])?;
    for (name, expected) in [
        (None, &room.trust.server),
        (Some("sip.example"), &room.trust.server),
        (Some("other.example"), &other),
        (Some("a.wild.example"), &other),
    ] {
        let target = room.target(Transport::Tls);
        let tls = target.tls.context("no TLS")?;
        let target = Target {
            tls: Some(TlsClient {
                name: name.map(str::to_owned),
                ..tls
            }),
            ..room.target(Transport::Tls)
        };
        let link = Link::open(&room.lab, Host::Client, &target)
            .with_context(|| format!("asking for {name:?}"))?;
        ensure!(
            link.server_certificate() == Some(&expected.der),
            "the wrong certificate for {name:?}"
        );
    }
    Ok(())
}

fn client_certificates() -> Result<()> {
    let mut room = Room::start(1, Transport::Udp, |_| {})?;
    let required = format!(
        "[service.tls]\nclient_certificates = \"required\"\nclient_ca = {}\n",
        in_toml(room.trust.authority.file())
    );
    let extra = &mut room.spec.services[0].extra;
    *extra = extra.replace("[service.tls]\n", &required);
    room.daemon.configure(&room.spec)?;
    room.daemon.run(&["reload"])?;
    let proxies = proxy_sockets(&room.lab, FAMILY)?;
    let stranger = Authority::new(&room.lab.dir(), "stranger")?;
    for (who, certificate, welcome) in [
        ("nobody", None, false),
        (
            "a stranger",
            Some(stranger.client("mallory", "mallory")?),
            false,
        ),
        (
            "a client",
            Some(room.trust.authority.client("carol", "carol")?),
            true,
        ),
    ] {
        let mut target = room.target(Transport::Tls);
        if let Some(tls) = &mut target.tls {
            tls.certificate = certificate;
        }
        // With TLS 1.3 a client learns of a refusal only when it reads.
        let heard = Link::open(&room.lab, Host::Client, &target).and_then(|link| {
            link.send(
                &Message::invite()
                    .vias(&["SIP/2.0/TLS 10.210.0.2:5061;branch=z9hG4bK-mutual"])
                    .build(),
            )?;
            if welcome {
                arrival(&proxies).map(drop)
            } else {
                link.wait_closed(ARRIVAL)?;
                anyhow::bail!("refused")
            }
        });
        ensure!(heard.is_ok() == welcome, "{who}: {heard:?}");
    }
    Ok(())
}

/// Who is on a connection comes again within a second, and no call is lost: what was under way is sent again.
fn restarted(end: impl FnOnce(&mut Daemon) -> Result<()>) -> Result<()> {
    let mut room = Room::start(2, Transport::Udp, |_| {})?;
    let proxies = answering(&room.lab, &room.trust, Transport::Udp)?;
    let target = room.target(Transport::Tcp);
    let calls = Load::start(&room.lab, Host::Client, &target, &load(1_000))?;
    let begun = poll(NOTICE, || {
        Ok((calls.progress().successful > 100).then_some(()))
    })?;
    ensure!(begun.is_some(), "no call succeeds: {:?}", calls.progress());
    end(&mut room.daemon)?;
    room.daemon.start_again()?;
    let report = calls.finish(&mut |_| {})?;
    let calls = report.calls.clone().with_backends(&logs(&proxies))?;
    ensure!(
        calls.failed == 0 && calls.split_calls == 0,
        "{report:?} {calls:?}"
    );
    ensure!(report.reconnects >= 20, "{report:?}");
    ensure!(report.longest_outage < Duration::from_secs(1), "{report:?}");
    Ok(())
}

/// Calls at the killed backend are lost with it; no other is, and new ones go to the others.
fn killed(inside: Transport) -> Result<()> {
    let room = Room::start(3, inside, |spec| {
        spec.services[0].health = "options";
        spec.services[0].extra +=
            "[service.probe]\ninterval = \"200ms\"\ntimeout = \"200ms\"\ndown = 2\nup = 1\n";
    })?;
    let mut proxies = answering(&room.lab, &room.trust, inside)?;
    for proxy in 1..=3 {
        room.daemon.wait_for("heard all", NOTICE, |status| {
            member(status, proxy)["state"] == "alive"
        })?;
    }
    // Patient callers: what the dead one did not answer is sent again, and answered by another.
    let options = CallOptions {
        calls: 1_500,
        rate: 150,
        hold: Duration::ZERO,
        patience: Some(Duration::from_secs(10)),
        deadline: Duration::from_secs(40),
        ..CallOptions::default()
    };
    let calls = Uac::start_by(&room.lab, &options, &room.target(Transport::Tcp))?;
    let begun = poll(NOTICE, || {
        Ok((calls.progress().successful > 300).then_some(()))
    })?;
    ensure!(begun.is_some(), "no call succeeds: {:?}", calls.progress());
    let all_logs = logs(&proxies);
    proxies[0].process().kill()?;
    let dead = room.daemon.wait_for("saw it dead", NOTICE, |status| {
        member(status, 1)["state"] == "dead"
    })?;
    let at_death = calls.progress();
    let report = calls.finish(&mut |_| {})?.with_backends(&all_logs)?;
    drop::<Vec<Uas>>(proxies);
    let lost = report.failed;
    // What it had, and what it was given before that was noticed: at 50 calls/s for it, a few.
    ensure!(
        lost <= 20,
        "{lost} calls failed of {}; at its death {at_death:?}; {dead:#}",
        report.created
    );
    let after: usize = report.backends.iter().skip(1).map(|b| b.calls).sum();
    ensure!(after > 900, "{report:?}");
    Ok(())
}
