//! Who is dead gets nothing, who is full gets no new calls, and calls that are up stay where they are.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    agent::CpuDial,
    lab::{Family, Host},
    messages::Message,
    proxy::{SILENT, ScriptedProxy},
};

use crate::{
    cluster::{Cluster, Fate, NOTICE, in_dialog, member, used, with_agents},
    support::as_root,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("health::options_find_the_dead_and_the_returned", by_options),
        as_root("health::a_503_is_full_and_not_dead", full),
        as_root("health::the_end_of_a_process_is_known_at_once", process),
        as_root("health::one_silent_agent_is_a_dead_backend", silent_agent),
        as_root(
            "health::all_silent_at_once_makes_the_forwarder_doubt_itself",
            doubt,
        ),
        as_root("health::a_closed_gate_takes_no_new_calls", gate),
        as_root(
            "health::with_all_gates_closed_new_calls_are_refused",
            all_closed,
        ),
        as_root("health::a_planned_stop_is_announced", planned_stop),
    ]
}

const FAST_PROBES: &str = "[service.probe]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n";

fn by_options() -> Result<()> {
    let mut cluster = Cluster::start(3, "options", |_, spec| {
        spec.services[0].extra = FAST_PROBES.into();
        Ok(())
    })?;
    for proxy in 1..=3 {
        cluster
            .daemon
            .wait_for("heard an answer", NOTICE, |status| {
                member(status, proxy)["heard_ms_ago"].is_number()
            })?;
    }
    ensure!(used(&cluster.calls("all", 30)?) == [1, 2, 3]);
    // Its port is closed: the network says so.
    cluster.proxies[1] = None;
    cluster.wait_state(2, "dead")?;
    ensure!(used(&cluster.calls("two", 30)?) == [1, 3]);
    let back = ScriptedProxy::start(&cluster.lab, Host::Proxy(2), Family::V4)?;
    cluster.proxies[1] = Some(back);
    cluster.wait_state(2, "alive")?;
    ensure!(used(&cluster.calls("again", 30)?) == [1, 2, 3]);
    // It is there, but says nothing.
    if let Some(proxy) = &cluster.proxies[2] {
        proxy.answer_options(SILENT);
    }
    cluster.wait_state(3, "dead")?;
    ensure!(used(&cluster.calls("mute", 30)?) == [1, 2]);
    Ok(())
}

fn full() -> Result<()> {
    let cluster = Cluster::start(2, "options", |_, spec| {
        spec.services[0].extra = FAST_PROBES.into();
        Ok(())
    })?;
    let before = cluster.calls("before", 20)?;
    ensure!(used(&before) == [1, 2]);
    let say = |status| {
        if let Some(proxy) = &cluster.proxies[0] {
            proxy.answer_options(status);
        }
    };
    say(503);
    cluster.wait_state(1, "full")?;
    ensure!(used(&cluster.calls("full", 20)?) == [2]);
    cluster.still_there(&before)?;
    say(404);
    cluster.wait_state(1, "alive")?;
    ensure!(used(&cluster.calls("after", 20)?) == [1, 2]);
    cluster.still_there(&before)
}

fn process() -> Result<()> {
    let (cluster, mut watched, key) = with_agents(2, |_| ())?;
    let calls = cluster.calls("before", 20)?;
    ensure!(used(&calls) == [1, 2]);
    watched[0].process.kill()?;
    let status = cluster.wait_state(1, "dead")?;
    let why = member(&status, 1)["why"].to_string();
    ensure!(why.contains("stopped"), "{why}");
    ensure!(used(&cluster.calls("after", 20)?) == [2]);
    // Its calls move, and stay where they moved when it returns.
    for (call, _) in &calls {
        ensure!(cluster.place(&in_dialog(call))? == 2, "{call}");
    }
    watched[0] = crate::cluster::Watched::start(&cluster.lab, &key, 1)?;
    cluster.wait_state(1, "alive")?;
    for (call, _) in &calls {
        ensure!(cluster.place(&in_dialog(call))? == 2, "{call} went back");
    }
    ensure!(used(&cluster.calls("back", 20)?) == [1, 2]);
    Ok(())
}

fn silent_agent() -> Result<()> {
    let (cluster, mut watched, _key) = with_agents(3, |_| ())?;
    watched[2].agent.process().kill()?;
    let status = cluster.wait_state(3, "dead")?;
    ensure!(
        status["services"][0]["suspects_itself"] == false,
        "one silent agent of three makes nobody doubt"
    );
    ensure!(used(&cluster.calls("after", 30)?) == [1, 2]);
    Ok(())
}

/// "Those that answer stay in the ring, those silent for another second are dead."
fn doubt() -> Result<()> {
    let (cluster, mut watched, _key) = with_agents(3, |_| ())?;
    if let Some(proxy) = &cluster.proxies[2] {
        proxy.answer_options(SILENT);
    }
    // All stop within far less than one window.
    for one in &mut watched {
        one.agent.process().send_signal(libc::SIGSTOP)?;
    }
    cluster
        .daemon
        .wait_for("suspected itself", NOTICE, |status| {
            status["services"][0]["suspects_itself"] == true
        })?;
    cluster.wait_state(3, "dead")?;
    let status = cluster.daemon.status()?;
    for proxy in [1, 2] {
        ensure!(
            member(&status, proxy)["state"] == "alive",
            "proxy {proxy} answers: {status:#}"
        );
    }
    ensure!(used(&cluster.calls("doubt", 30)?) == [1, 2]);
    let log = std::fs::read_to_string(cluster.daemon.log())?;
    ensure!(
        log.matches("suspects itself").count() == 1,
        "not said once:\n{log}"
    );
    for one in &mut watched {
        one.agent.process().send_signal(libc::SIGCONT)?;
    }
    cluster
        .daemon
        .wait_for("was sure again", NOTICE, |status| {
            status["services"][0]["suspects_itself"] == false
                && (1..=3).all(|proxy| member(status, proxy)["state"] == "alive")
        })?;
    Ok(())
}

fn gate() -> Result<()> {
    let (cluster, watched, _key) = with_agents(3, |_| ())?;
    let before = cluster.calls("before", 30)?;
    watched[0].cpu.set(0.95);
    let status = cluster.wait_state(1, "gated")?;
    ensure!(member(&status, 1)["gate_closed"] == true);
    let during = cluster.calls("during", 30)?;
    ensure!(used(&during) == [2, 3], "a closed gate let a call in");
    cluster.still_there(&before)?;
    // A second INVITE, with credentials say, follows the first.
    for (call, proxy) in &before {
        let again = cluster.place(&Message::invite().call_id(call).build())?;
        ensure!(again == *proxy, "{call} was torn by its second INVITE");
    }
    watched[0].cpu.set(0.05);
    cluster.wait_state(1, "alive")?;
    cluster.still_there(&before)?;
    cluster.still_there(&during)?;
    ensure!(used(&cluster.calls("after", 30)?) == [1, 2, 3]);
    Ok(())
}

fn all_closed() -> Result<()> {
    let (cluster, watched, _key) = with_agents(2, |spec| {
        spec.services[0].extra = "retry_after = 7\nemergency = [\"112\"]\n".into();
    })?;
    let before = cluster.calls("before", 20)?;
    let set = |load| {
        watched
            .iter()
            .map(|w| &w.cpu)
            .for_each(|c: &CpuDial| c.set(load));
    };
    set(0.95);
    cluster
        .daemon
        .wait_for("closed all gates", NOTICE, |status| {
            status["services"][0]["takes_calls"] == false
        })?;
    let Fate::Answered(refusal) = cluster.send(&Message::invite().call_id("new").build())? else {
        anyhow::bail!("a call was let in while all gates are closed");
    };
    ensure!(refusal.starts_with("SIP/2.0 503 "), "{refusal}");
    ensure!(refusal.contains("\r\nRetry-After: 7\r\n"), "{refusal}");
    let tag = refusal
        .lines()
        .find_map(|line| line.strip_prefix("To: ")?.split(";tag=").nth(1))
        .unwrap_or_default();
    let ack = Message::request("ACK").call_id("new").to_tag(tag).build();
    cluster
        .client
        .send_to(&ack, crate::support::vip_socket(Family::V4))?;
    cluster
        .daemon
        .wait_for("absorbed the ACK", NOTICE, |status| {
            let verdicts = status["verdicts"].as_array();
            verdicts.is_some_and(|all| all.iter().any(|v| v["name"] == "refused-ack"))
        })?;
    cluster.still_there(&before)?;
    let emergency = String::from_utf8(Message::invite().call_id("sos").build())?.replacen(
        "INVITE sip:service@",
        "INVITE sip:112@",
        1,
    );
    let at = cluster.place(emergency.as_bytes())?;
    ensure!(
        cluster.place(&in_dialog("sos"))? == at,
        "an emergency call was torn"
    );
    set(0.05);
    cluster.daemon.wait_for("opened a gate", NOTICE, |status| {
        status["services"][0]["takes_calls"] == true
    })?;
    cluster.place(&Message::invite().call_id("new").build())?;
    Ok(())
}

/// An agent's SIGTERM: drained first, so that nothing is lost.
fn planned_stop() -> Result<()> {
    let (cluster, mut watched, _key) = with_agents(2, |_| ())?;
    let before = cluster.calls("before", 20)?;
    watched[0].agent.process().send_signal(libc::SIGTERM)?;
    let status = cluster.wait_state(1, "draining")?;
    ensure!(member(&status, 1)["open"] == false);
    ensure!(used(&cluster.calls("during", 20)?) == [2]);
    cluster.still_there(&before)?;
    watched[0].process.kill()?;
    cluster.wait_state(1, "dead")?;
    ensure!(used(&cluster.calls("after", 20)?) == [2]);
    Ok(())
}
