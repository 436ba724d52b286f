//! Mode `proxy` by the workers alone: calls come through, responses find back without state, also
//! across a restart, and nobody can make the forwarder send where he likes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    kamailio::Kamailio,
    lab::{Daemon, DaemonSpec, Family, Host, Lab, process::poll},
    messages::{Message, answer_to},
    proxy::ScriptedProxy,
    sipp::{CallOptions, Uas, run_calls},
};

use crate::{
    cluster::{Cluster, NOTICE, in_dialog, member, used},
    support::{ARRIVAL, as_root, daemon_file, socket, vip_socket},
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        trials.push(as_root(&format!("proxy_mode::calls_{name}"), move || {
            calls(family)
        }));
    }
    trials.extend([
        as_root("proxy_mode::calls_through_kamailio", through_kamailio),
        as_root("proxy_mode::drains_and_gates_tear_no_call", drains),
        as_root("proxy_mode::one_transaction_one_branch", branches),
        as_root(
            "proxy_mode::responses_find_back_after_a_restart",
            after_restart,
        ),
        as_root(
            "proxy_mode::nobody_but_the_backend_can_answer",
            no_open_relay,
        ),
        as_root("proxy_mode::an_icmp_error_has_the_backend_asked", icmp),
        as_root("proxy_mode::every_response_finds_back", responses),
        as_root("proxy_mode::large_messages_are_fragmented", large),
        as_root("proxy_mode::what_may_not_go_on_is_answered", answered),
    ]);
    trials
}

fn spec(lab: &Lab, family: Family) -> Result<DaemonSpec> {
    let mut spec = DaemonSpec::of_lab(daemon_file()?, lab, family);
    in_proxy_mode(&mut spec);
    Ok(spec)
}

fn in_proxy_mode(spec: &mut DaemonSpec) {
    spec.userspace = true;
    spec.services[0].extra += "mode = \"proxy\"\n";
}

fn cluster(proxies: u8) -> Result<Cluster> {
    Cluster::start(proxies, "none", |_, spec| {
        in_proxy_mode(spec);
        Ok(())
    })
}

fn options(family: Family) -> CallOptions {
    CallOptions {
        calls: 600,
        rate: 200,
        family,
        hold: Duration::from_millis(200),
        retransmit: false,
        deadline: Duration::from_secs(30),
        ..CallOptions::default()
    }
}

fn calls(family: Family) -> Result<()> {
    let lab = Lab::new(3)?;
    let daemon = Daemon::start(&lab, &spec(&lab, family)?)?;
    let proxies = Uas::start_all(&lab, family)?;
    let logs: Vec<_> = proxies.iter().map(Uas::call_log).collect();
    let report = run_calls(
        &lab,
        &options(family),
        vip_socket(family),
        &logs,
        &mut |_| {},
    )?;
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    ensure!(report.backends.iter().all(|b| b.calls > 100), "{report:?}");
    let status = daemon.status()?;
    ensure!(status["xdp_mode"] == "none", "{status:#}");
    ensure!(status["messages"]["fast"] == 0, "{status:#}");
    Ok(())
}

fn through_kamailio() -> Result<()> {
    let lab = Lab::new(2)?;
    let _daemon = Daemon::start(&lab, &spec(&lab, Family::V4)?)?;
    let proxies = Kamailio::start_all(&lab, Family::V4)?;
    let logs: Vec<_> = proxies.iter().map(Kamailio::call_log).collect();
    let vip = vip_socket(Family::V4);
    let report = run_calls(&lab, &options(Family::V4), vip, &logs, &mut |_| {})?;
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    Ok(())
}

/// Home, admit and affinity are the same in memory as in the kernel's maps.
fn drains() -> Result<()> {
    let cluster = cluster(3)?;
    let before = cluster.proxied_calls("before", 30)?;
    ensure!(used(&before) == [1, 2, 3]);
    cluster.order("drain", 1, &[])?;
    let during = cluster.proxied_calls("during", 30)?;
    ensure!(used(&during) == [2, 3], "a draining proxy got a new call");
    cluster.order("enable", 1, &[])?;
    for (call, proxy) in before.iter().chain(&during) {
        let is = cluster.proxied(&in_dialog(call))?.0;
        ensure!(is == *proxy, "{call} was at proxy {proxy}, is at {is}");
    }
    Ok(())
}

/// The first header of this name.
fn header(message: &[u8], name: &str) -> Result<String> {
    let text = String::from_utf8_lossy(message).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")))
        .map(str::to_owned)
        .with_context(|| format!("no {name} in\n{text}"))
}

fn branch(message: &[u8]) -> Result<String> {
    let via = header(message, "Via")?;
    let branch = via.split(';').find(|p| p.starts_with("branch="));
    branch.map(str::to_owned).context("no branch")
}

/// RFC 3261 section 16.11: the same for a retransmission, a CANCEL and the ACK of a refusal; another
/// for another transaction.
fn branches() -> Result<()> {
    let cluster = cluster(2)?;
    let invite = Message::invite().call_id("branch@client").build();
    let via = header(&invite, "Via")?;
    let (_, first) = cluster.proxied(&invite)?;
    let (_, again) = cluster.proxied(&invite)?;
    ensure!(
        branch(&first)? == branch(&again)?,
        "a retransmission has another branch"
    );
    let same = |method: &str| {
        Message::request(method)
            .call_id("branch@client")
            .top_via(&via)
            .build()
    };
    for method in ["CANCEL", "ACK"] {
        let (_, other) = cluster.proxied(&same(method))?;
        ensure!(
            branch(&first)? == branch(&other)?,
            "{method} has another branch"
        );
    }
    let (_, other) = cluster.proxied(&Message::invite().call_id("other@client").build())?;
    ensure!(
        branch(&first)? != branch(&other)?,
        "another call has the same branch"
    );
    Ok(())
}

/// A 200 to the request that reached a proxy.
fn ok_to(request: &[u8]) -> Vec<u8> {
    answer_to(request, "200 OK", "")
}

impl Cluster {
    /// Sends a message, and gives the proxy that got it (from 1) and what it got.
    fn proxied(&self, message: &[u8]) -> Result<(u8, Vec<u8>)> {
        self.client.send_to(message, vip_socket(Family::V4))?;
        let deadline = std::time::Instant::now() + ARRIVAL;
        loop {
            for (index, proxy) in self.proxies.iter().enumerate() {
                let came = proxy.as_ref().map(ScriptedProxy::take).unwrap_or_default();
                if let Some(arrived) = came.into_iter().next() {
                    return Ok((index as u8 + 1, arrived.payload));
                }
            }
            ensure!(std::time::Instant::now() < deadline, "no proxy got it");
            std::thread::yield_now();
        }
    }

    fn proxied_calls(&self, name: &str, count: u32) -> Result<Vec<(String, u8)>> {
        (0..count)
            .map(|n| {
                let call = format!("{name}-{n}@client");
                let invite = Message::invite().call_id(&call).build();
                Ok((call, self.proxied(&invite)?.0))
            })
            .collect()
    }

    /// What comes back to the client.
    fn back(&self) -> Result<Vec<u8>> {
        self.client.set_nonblocking(false)?;
        self.client.set_read_timeout(Some(ARRIVAL))?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = self
            .client
            .recv_from(&mut buffer)
            .context("nothing came back to the client")?;
        ensure!(from == vip_socket(Family::V4), "it came from {from}");
        Ok(buffer[..length].to_vec())
    }

    fn answer(&self, proxy: u8, payload: &[u8]) -> Result<()> {
        let proxy = self.proxies[usize::from(proxy) - 1].as_ref();
        proxy
            .context("the proxy is gone")?
            .send(payload, vip_socket(Family::V4))
    }
}

fn after_restart() -> Result<()> {
    let mut cluster = cluster(2)?;
    let invite = Message::invite().call_id("restart@client").build();
    let (proxy, request) = cluster.proxied(&invite)?;
    cluster.daemon.kill()?;
    cluster.daemon.start_again()?;
    cluster.answer(proxy, &ok_to(&request))?;
    let response = cluster.back()?;
    let text = String::from_utf8_lossy(&response);
    ensure!(text.matches("Via:").count() == 1, "{text}");
    ensure!(!text.contains("sfw="), "our Via is left in:\n{text}");
    // A second 200 of a forked call, and a late one, find back just so.
    cluster.answer(proxy, &ok_to(&request))?;
    cluster.back()?;
    Ok(())
}

fn no_open_relay() -> Result<()> {
    let cluster = cluster(2)?;
    let invite = Message::invite().call_id("relay@client").build();
    let (proxy, request) = cluster.proxied(&invite)?;
    let good = ok_to(&request);
    let text = String::from_utf8(good.clone())?;
    let count =
        |name: &str| -> Result<u64> { Ok(crate::support::verdict(&cluster.daemon, name)?.1) };
    // From somebody who is no backend.
    let stranger = socket(&cluster.lab, Host::Client, Family::V4, 5099)?;
    stranger.send_to(&good, vip_socket(Family::V4))?;
    cluster
        .daemon
        .wait_for("counted the wrong sender", NOTICE, |_| {
            count("response-sender").is_ok_and(|n| n == 1)
        })?;
    // With a cookie that is another's, or changed in one character.
    let at = text.find("sfw=").context("no cookie")? + "sfw=".len();
    let mut forged = text.clone().into_bytes();
    forged[at + 8] = if forged[at + 8] == b'A' { b'B' } else { b'A' };
    cluster.answer(proxy, &forged)?;
    let moved = text.replace("relay@client", "other@client");
    cluster.answer(proxy, moved.as_bytes())?;
    cluster.daemon.wait_for("counted the forged", NOTICE, |_| {
        count("response-forged").is_ok_and(|n| n == 2)
    })?;
    // With somebody else's Via on top.
    let vip: SocketAddr = vip_socket(Family::V4);
    let foreign = text.replacen(&vip.to_string(), "203.0.113.1:5060", 1);
    cluster.answer(proxy, foreign.as_bytes())?;
    cluster
        .daemon
        .wait_for("counted the foreign", NOTICE, |_| {
            count("response-not-ours").is_ok_and(|n| n == 1)
        })?;
    // None of them came through; the good one does.
    cluster.answer(proxy, &good)?;
    let response = String::from_utf8(cluster.back()?)?;
    ensure!(
        response.contains("relay@client") && !response.contains("sfw="),
        "{response}"
    );
    cluster.client.set_nonblocking(true)?;
    let mut buffer = [0; 2_048];
    ensure!(
        cluster.client.recv_from(&mut buffer).is_err(),
        "more than one response came through"
    );
    Ok(())
}

/// Probes are twenty seconds apart; the network tells of the closed port at the first message.
fn icmp() -> Result<()> {
    let mut cluster = Cluster::start(1, "options", |_, spec| {
        in_proxy_mode(spec);
        spec.services[0].extra += "[service.probe]\ninterval = \"20s\"\ntimeout = \"200ms\"\n";
        Ok(())
    })?;
    cluster.daemon.wait_for("heard it", NOTICE, |status| {
        member(status, 1)["heard_ms_ago"].is_number()
    })?;
    cluster.proxies[0] = None;
    let found = poll(NOTICE, || {
        for n in 0..10 {
            let invite = Message::invite()
                .call_id(&format!("icmp-{n}@client"))
                .build();
            cluster.client.send_to(&invite, vip_socket(Family::V4))?;
        }
        let status = cluster.daemon.status()?;
        Ok((member(&status, 1)["state"] == "dead").then_some(()))
    })?;
    ensure!(
        found.is_some(),
        "{:#}",
        cluster.daemon.status()?["services"]
    );
    Ok(())
}

fn answered() -> Result<()> {
    let cluster = cluster(1)?;
    let invite = String::from_utf8(Message::invite().call_id("end@client").build())?;
    let ends = invite.replace("Max-Forwards: 70", "Max-Forwards: 0");
    ensure!(ends != invite, "the INVITE has no Max-Forwards: 70");
    cluster
        .client
        .send_to(ends.as_bytes(), vip_socket(Family::V4))?;
    let response = String::from_utf8(cluster.back()?)?;
    ensure!(response.starts_with("SIP/2.0 483 "), "{response}");
    let (_, request) = cluster.proxied(invite.as_bytes())?;
    let request = String::from_utf8(request)?;
    ensure!(request.contains("\r\nMax-Forwards: 69\r\n"), "{request}");
    // What it sent comes back to the VIP: a loop.
    let proxy = cluster.proxies[0].as_ref().context("the proxy is gone")?;
    proxy.send(request.as_bytes(), vip_socket(Family::V4))?;
    let looped = crate::support::verdict(&cluster.daemon, "answered-fault")?.1;
    cluster
        .daemon
        .wait_for("answered the loop", NOTICE, |status| {
            let verdicts = status["verdicts"].as_array();
            verdicts.is_some_and(|all| {
                all.iter().any(|v| {
                    v["name"] == "answered-fault" && v["slow"].as_u64() >= Some(looped.max(2))
                })
            })
        })?;
    Ok(())
}

/// Every response of a call finds back: provisional ones, a final one of each class, a second 200 of a
/// forked call.
fn responses() -> Result<()> {
    let cluster = cluster(2)?;
    let invite = Message::invite().call_id("many@client").build();
    let (proxy, request) = cluster.proxied(&invite)?;
    for status in [
        "100 Trying",
        "180 Ringing",
        "183 Session Progress",
        "200 OK",
        "200 OK",
        "302 Moved Temporarily",
        "486 Busy Here",
        "603 Decline",
    ] {
        cluster.answer(proxy, &answer_to(&request, status, ""))?;
        let response = String::from_utf8(cluster.back()?)?;
        ensure!(
            response.starts_with(&format!("SIP/2.0 {status}\r\n")) && !response.contains("sfw="),
            "{response}"
        );
    }
    Ok(())
}

/// What is larger than the way on carries leaves in fragments, in both directions.
fn large() -> Result<()> {
    let cluster = cluster(1)?;
    let invite = Message::invite()
        .call_id("large@client")
        .body_size(3_000)
        .build();
    let (proxy, request) = cluster.proxied(&invite)?;
    ensure!(
        request.len() > invite.len(),
        "{} bytes arrived",
        request.len()
    );
    let body = format!("X-Fill: {}\r\n", "x".repeat(3_000));
    cluster.answer(proxy, &answer_to(&request, "200 OK", &body))?;
    ensure!(cluster.back()?.len() > 3_000);
    Ok(())
}
