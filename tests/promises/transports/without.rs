//! The peers alone, with a Kamailio where the forwarder would be.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    baresip::{Baresip, Line},
    kamailio::Kamailio,
    lab::{Host, Lab, vip},
    phone::Phone,
    sipp::{CallOptions, Sockets, Uas, run_calls_by},
    sipsak,
    stream::{Target, Transport},
};

use super::room::{FAMILY, Trust};
use crate::support::as_root;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("transports::without_us_sipp_meets_sipp", sipp_meets_sipp),
        as_root("transports::without_us_phones_call", phones_call),
    ]
}

fn options() -> CallOptions {
    CallOptions {
        calls: 100,
        rate: 100,
        hold: Duration::from_millis(100),
        deadline: Duration::from_secs(30),
        ..CallOptions::default()
    }
}

/// Over TCP and TLS, by one connection and by one for each call.
fn sipp_meets_sipp() -> Result<()> {
    let lab = Lab::new(1)?;
    let trust = Trust::new(&lab)?;
    let host = Host::Proxy(1);
    let name = host.address(FAMILY).to_string();
    let certificate = trust.authority.server("uas", &[&name])?;
    let tcp = Uas::start_by(&lab, host, host.socket(FAMILY, 5060), Transport::Tcp)?;
    let tls = Uas::start_tls(&lab, host, host.socket(FAMILY, 5061), &certificate)?;
    for (transport, uas) in [(Transport::Tcp, &tcp), (Transport::Tls, &tls)] {
        for sockets in [Sockets::One, Sockets::PerCall] {
            let options = CallOptions {
                sockets,
                ..options()
            };
            let target = Target {
                address: host.socket(FAMILY, transport.port()),
                ..trust.target(transport)
            };
            let report = run_calls_by(&lab, &options, &target, &[uas.call_log()], &mut |_| {})
                .with_context(|| format!("{transport}, {sockets:?}"))?;
            ensure!(
                report.failed == 0 && report.successful == 100,
                "{transport}, {sockets:?}: {report:?}"
            );
        }
    }
    Ok(())
}

/// Phones of ours and of others call each other through a registrar, over UDP, TCP and TLS, one of them at home.
fn phones_call() -> Result<()> {
    let lab = Lab::with_phone(1)?;
    let trust = Trust::new(&lab)?;
    let _registrar = Kamailio::edge_registrar(
        &lab,
        Host::Forwarder,
        vip(FAMILY),
        (&trust.server, &trust.authority),
    )?;
    for (port, transport) in [
        (5070, Transport::Udp),
        (5080, Transport::Tcp),
        (5090, Transport::Tls),
    ] {
        let mut bob = Baresip::start(
            &lab,
            &Line {
                user: "bob",
                port,
                transport,
                authority: Some(trust.authority.file()),
                ..Line::default()
            },
        )
        .with_context(|| format!("baresip by {transport}"))?;
        let alice = Phone::new(&lab, Host::Client, "alice", &trust.target(transport))?;
        alice.register()?;
        let call = alice.call("bob").with_context(|| format!("{transport}"))?;
        bob.wait_established()?;
        alice.hang_up(&call)?;
        bob.wait_closed()?;
        bob.hang_up()?;
    }
    let phone = Phone::new(&lab, Host::Phone, "carol", &trust.target(Transport::Udp))?;
    let registered = phone.register()?;
    ensure!(
        registered.contains(";received=10.210.0.2") && registered.contains(";rport=4"),
        "the phone at home is seen as\n{registered}"
    );
    sipsak::register_by_tcp(&lab, "dave")
}
