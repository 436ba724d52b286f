//! Calls over each transport: none fails, and each is at one proxy whole.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    calls::CallLog,
    lab::{Host, Lab},
    messages::Message,
    sipp::{CallOptions, CallReport, Sockets, Uas, run_calls_by},
    stream::{
        Transport,
        link::Link,
        load::{Load, LoadOptions},
    },
};

use super::room::{CONNECTED, FAMILY, Room, Trust};
use crate::support::{CLIENT_PORT, arrival, as_root, proxy_sockets, socket, vip_socket};

const PROXIES: u8 = 2;
const CALLS: u32 = 400;
const RATE: u32 = 200;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
    for outside in all {
        for inside in all {
            // UDP on both sides is mode proxy as it always was.
            if (outside, inside) != (Transport::Udp, Transport::Udp) {
                trials.push(as_root(
                    &format!("transports::sipp_over_{outside}_to_{inside}"),
                    move || sipp(outside, inside),
                ));
            }
        }
    }
    for outside in CONNECTED {
        trials.push(as_root(
            &format!("transports::our_calls_over_{outside}"),
            move || ours(outside),
        ));
    }
    trials.push(as_root(
        "transports::one_call_by_many_transports_is_at_one_proxy",
        one_call,
    ));
    trials
}

/// What answers the calls, on every proxy.
pub(super) fn answering(lab: &Lab, trust: &Trust, inside: Transport) -> Result<Vec<Uas>> {
    (1..=lab.proxies())
        .map(|n| {
            let host = Host::Proxy(n);
            let address = host.socket(FAMILY, inside.port());
            if !inside.is_secure() {
                return Uas::start_by(lab, host, address, inside);
            }
            let name = address.ip().to_string();
            let certificate = trust.authority.server(&format!("uas-{host}"), &[&name])?;
            Uas::start_tls(lab, host, address, &certificate)
        })
        .collect()
}

pub(super) fn logs(proxies: &[Uas]) -> Vec<CallLog> {
    proxies.iter().map(Uas::call_log).collect()
}

pub(super) fn clean(report: &CallReport) -> Result<()> {
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    let fair = report.successful as usize / (report.backends.len() * 3).max(1);
    ensure!(report.backends.iter().all(|b| b.calls > fair), "{report:?}");
    Ok(())
}

fn sipp(outside: Transport, inside: Transport) -> Result<()> {
    let room = Room::start(PROXIES, inside, |_| {})?;
    let proxies = answering(&room.lab, &room.trust, inside)?;
    for sockets in [Sockets::One, Sockets::PerCall] {
        let options = CallOptions {
            calls: CALLS,
            rate: RATE,
            hold: Duration::from_millis(200),
            retransmit: outside != Transport::Udp,
            deadline: Duration::from_secs(30),
            sockets,
            ..CallOptions::default()
        };
        let target = room.target(outside);
        let report = run_calls_by(&room.lab, &options, &target, &logs(&proxies), &mut |_| {})?;
        clean(&report).with_context(|| format!("{sockets:?}"))?;
    }
    Ok(())
}

fn ours(outside: Transport) -> Result<()> {
    let room = Room::start(PROXIES, Transport::Udp, |_| {})?;
    let proxies = answering(&room.lab, &room.trust, Transport::Udp)?;
    let options = LoadOptions {
        calls: CALLS,
        rate: RATE,
        connections: 20,
        hold: Duration::from_millis(200),
        deadline: Duration::from_secs(30),
    };
    let target = room.target(outside);
    let load = Load::start(&room.lab, Host::Client, &target, &options)?;
    let report = load.finish(&mut |_| {})?;
    ensure!(report.reconnects == 0, "{report:?}");
    let refusals = format!("{:?}", report.refusals);
    clean(&report.calls.with_backends(&logs(&proxies))?).context(refusals)
}

/// The Call-ID alone chooses, whatever carries it.
fn one_call() -> Result<()> {
    let room = Room::start(3, Transport::Udp, |_| {})?;
    let proxies = proxy_sockets(&room.lab, FAMILY)?;
    let links = CONNECTED
        .iter()
        .map(|&transport| Link::open(&room.lab, Host::Client, &room.target(transport)))
        .collect::<Result<Vec<_>>>()?;
    let client = socket(&room.lab, Host::Client, FAMILY, CLIENT_PORT)?;
    for n in 0..8 {
        let call_id = format!("many-{n}@client");
        let by = |transport: Transport| {
            let via = format!(
                "SIP/2.0/{} 10.210.0.2:5061;branch=z9hG4bK-{transport}-{n}",
                transport.in_via()
            );
            Message::invite().vias(&[&via]).call_id(&call_id).build()
        };
        client.send_to(&by(Transport::Udp), vip_socket(FAMILY))?;
        let first = arrival(&proxies)?;
        for link in &links {
            link.send(&by(link.transport()))?;
            let other = arrival(&proxies).with_context(|| format!("by {}", link.transport()))?;
            ensure!(
                other.proxy == first.proxy,
                "{call_id} is at proxy {} by UDP and at {} by {}",
                first.proxy + 1,
                other.proxy + 1,
                link.transport()
            );
        }
    }
    Ok(())
}
