//! What an operator orders: in the ring when the command returns, tears no call, survives a restart.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{DaemonSpec, Service},
    messages::Message,
};

use crate::{
    cluster::{Cluster, NOTICE, member, used},
    support::{as_root, daemon_file},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "orders::a_drain_takes_no_new_calls_and_survives_a_restart",
            drain,
        ),
        as_root(
            "orders::a_weight_counts_at_once_and_survives_a_restart",
            weight,
        ),
        as_root("orders::disabled_is_given_nothing", disable),
        as_root("orders::unknown_names_are_refused", unknown),
        as_root("reload::a_bad_file_changes_nothing", bad_file),
        as_root(
            "reload::the_set_grows_and_shrinks_without_a_torn_call",
            grow,
        ),
        as_root("reload::homes_follow_after_settle", settle),
        as_root("reload::a_new_vip_is_served", new_vip),
        as_root("reload::policy_round_robin_takes_turns", round_robin),
    ]
}

fn drain() -> Result<()> {
    let mut cluster = Cluster::start(3, "none", |_, spec| {
        spec.services[0].extra = "drain_idle = \"1s\"\n".into();
        Ok(())
    })?;
    let before = cluster.calls("before", 30)?;
    cluster.order("drain", 1, &[])?;
    // No waiting: it is in the ring when the command returns.
    let during = cluster.calls("during", 30)?;
    ensure!(used(&during) == [2, 3], "a draining proxy got a new call");
    cluster.still_there(&before)?;
    cluster.daemon.kill()?;
    cluster.daemon.start_again()?;
    ensure!(used(&cluster.calls("restart", 30)?) == [2, 3]);
    cluster.still_there(&before)?;
    cluster.still_there(&during)?;
    let status = cluster.daemon.wait_for("had it empty", NOTICE, |status| {
        member(status, 1)["empty"] == true
    })?;
    ensure!(member(&status, 1)["state"] == "draining");
    ensure!(
        member(&status, 2)["calls_remembered"].as_u64() > Some(0),
        "calls that are not at home are remembered: {status:#}"
    );
    cluster.order("enable", 1, &[])?;
    ensure!(used(&cluster.calls("after", 30)?) == [1, 2, 3]);
    cluster.still_there(&before)?;
    cluster.still_there(&during)
}

fn weight() -> Result<()> {
    let mut cluster = Cluster::start(2, "none", |_, _| Ok(()))?;
    let before = cluster.calls("before", 20)?;
    cluster.order("weight", 1, &["1000"])?;
    let share = |calls: &[(String, u8)]| calls.iter().filter(|(_, p)| *p == 1).count();
    let after = cluster.calls("after", 100)?;
    ensure!(share(&after) > 90, "{} of 100", share(&after));
    cluster.still_there(&before)?;
    cluster.daemon.terminate()?;
    cluster.daemon.start_again()?;
    let status = cluster.daemon.status()?;
    ensure!(
        member(&status, 1)["weight"] == 1_000 && member(&status, 1)["configured_weight"] == 1,
        "{status:#}"
    );
    let restarted = cluster.calls("restarted", 100)?;
    ensure!(share(&restarted) > 90, "{} of 100", share(&restarted));
    cluster.order("weight", 1, &["1"])?;
    let back = cluster.calls("back", 100)?;
    ensure!((20..=80).contains(&share(&back)), "{} of 100", share(&back));
    for calls in [&before, &after, &restarted] {
        cluster.still_there(calls)?;
    }
    Ok(())
}

fn disable() -> Result<()> {
    let cluster = Cluster::start(2, "none", |_, _| Ok(()))?;
    let before = cluster.calls("before", 20)?;
    ensure!(used(&before) == [1, 2]);
    cluster.order("disable", 1, &[])?;
    for (call, _) in &before {
        ensure!(cluster.place(&crate::cluster::in_dialog(call))? == 2);
    }
    ensure!(used(&cluster.calls("after", 20)?) == [2]);
    cluster.order("enable", 1, &[])?;
    ensure!(used(&cluster.calls("enabled", 20)?) == [1, 2]);
    Ok(())
}

fn unknown() -> Result<()> {
    let cluster = Cluster::start(1, "none", |_, _| Ok(()))?;
    for arguments in [["drain", "lab", "p9"], ["drain", "other", "p1"]] {
        let Err(error) = cluster.daemon.run(&arguments) else {
            anyhow::bail!("{arguments:?} was taken");
        };
        let text = error.to_string();
        ensure!(
            text.contains(arguments[1]) && !text.contains('\n'),
            "{text}"
        );
    }
    let Err(error) = cluster.order("weight", 1, &["0"]) else {
        anyhow::bail!("weight 0 was taken");
    };
    ensure!(error.to_string().contains("1..=1000"), "{error}");
    Ok(())
}

fn bad_file() -> Result<()> {
    let mut cluster = Cluster::start(2, "none", |_, _| Ok(()))?;
    let before = cluster.calls("before", 20)?;
    let good = std::fs::read_to_string(cluster.daemon.config())?;
    for (bad, named) in [
        (good.replace("weight = 1", "wieght = 1"), "wieght"),
        (good.replace("weight = 1", "weight = 0"), "weight"),
        (
            good.replacen("[[service]]", "[limits]\nbackends = 7\n[[service]]", 1),
            "restart",
        ),
    ] {
        std::fs::write(cluster.daemon.config(), bad)?;
        let Err(error) = cluster.daemon.run(&["reload"]) else {
            anyhow::bail!("a file with a bad {named} was taken");
        };
        ensure!(error.to_string().contains(named), "{error:#}");
        cluster.still_there(&before)?;
        ensure!(used(&cluster.calls(named, 20)?) == [1, 2]);
    }
    cluster.daemon.send_signal(libc::SIGHUP)?;
    cluster
        .daemon
        .wait_for("goes on after SIGHUP", NOTICE, |_| true)?;
    let log = cluster.daemon.log().to_owned();
    let told = sip_forwarder_tests::lab::process::poll(NOTICE, || {
        let log = std::fs::read_to_string(&log)?;
        Ok((log.matches("not reloaded").count() >= 4).then_some(()))
    })?;
    ensure!(
        told.is_some(),
        "the log does not say why SIGHUP did nothing"
    );
    std::fs::write(cluster.daemon.config(), good)?;
    let said = cluster.daemon.run(&["reload"])?;
    ensure!(said.contains("nothing changed"), "{said}");
    Ok(())
}

/// Growth re-homes slots only once their calls had time to end; until then each call stays.
fn grow() -> Result<()> {
    let mut cluster = Cluster::start(4, "none", |_, spec| {
        spec.services[0].backends.truncate(3);
        Ok(())
    })?;
    let before = cluster.calls("before", 60)?;
    let mut larger = cluster.spec.clone();
    larger.services[0] = Service {
        backends: DaemonSpec::of_lab(
            daemon_file()?,
            &cluster.lab,
            sip_forwarder_tests::lab::Family::V4,
        )
        .services[0]
            .backends
            .clone(),
        ..larger.services[0].clone()
    };
    cluster.daemon.configure(&larger)?;
    cluster.daemon.run(&["reload"])?;
    cluster.daemon.wait_resolved(NOTICE)?;
    let status = cluster.daemon.status()?;
    let settling = status["services"][0]["settling_slots"].as_u64();
    ensure!(settling > Some(10_000), "{settling:?} slots settle");
    let during = cluster.calls("during", 60)?;
    ensure!(used(&during) == [1, 2, 3, 4], "the new one gets no calls");
    cluster.still_there(&before)?;
    cluster.still_there(&during)?;
    // Also across a restart, in the middle of settling.
    cluster.daemon.kill()?;
    cluster.daemon.start_again()?;
    let status = cluster.daemon.status()?;
    ensure!(status["services"][0]["settling_slots"].as_u64() == settling);
    cluster.still_there(&before)?;
    cluster.still_there(&during)?;
    // Smaller again: the calls of those that stay, stay.
    cluster.daemon.configure(&cluster.spec)?;
    cluster.daemon.send_signal(libc::SIGHUP)?;
    cluster
        .daemon
        .wait_for("had three backends", NOTICE, |status| {
            sip_forwarder_tests::lab::daemon::backends(status).len() == 3
        })?;
    ensure!(used(&cluster.calls("after", 60)?) == [1, 2, 3]);
    cluster.still_there(&before)?;
    let stay: Vec<_> = during
        .into_iter()
        .filter(|(_, proxy)| *proxy != 4)
        .collect();
    cluster.still_there(&stay)
}

fn settle() -> Result<()> {
    let cluster = Cluster::start(4, "none", |_, spec| {
        spec.services[0].extra = "settle = \"2s\"\n".into();
        spec.services[0].backends.truncate(2);
        Ok(())
    })?;
    let before = cluster.calls("before", 40)?;
    let whole = std::fs::read_to_string(cluster.daemon.config())?;
    let fourth = "\n[[service.backend]]\nname = \"p4\"\naddress = ";
    let address =
        sip_forwarder_tests::lab::Host::Proxy(4).address(sip_forwarder_tests::lab::Family::V4);
    std::fs::write(
        cluster.daemon.config(),
        format!("{whole}{fourth}\"{address}\"\n"),
    )?;
    cluster.daemon.run(&["reload"])?;
    cluster.daemon.wait_resolved(NOTICE)?;
    let during = cluster.calls("during", 40)?;
    cluster.still_there(&before)?;
    cluster.daemon.wait_for("settled", NOTICE, |status| {
        status["services"][0]["settling_slots"] == 0
    })?;
    // Calls that began while it settled have entries; those before were given `settle` to end.
    cluster.still_there(&during)?;
    let after = cluster.calls("after", 60)?;
    ensure!(used(&after) == [1, 2, 4]);
    let status = cluster.daemon.status()?;
    let homes: BTreeMap<u8, u64> = [1, 2, 4]
        .map(|p| {
            (
                p,
                member(&status, p)["calls_remembered"].as_u64().unwrap_or(0),
            )
        })
        .into();
    ensure!(
        homes[&4] <= during.iter().filter(|(_, p)| *p == 4).count() as u64,
        "calls of the new home are entered although nothing settles: {homes:?}"
    );
    cluster.still_there(&after)
}

fn new_vip() -> Result<()> {
    let cluster = Cluster::start(2, "none", |_, _| Ok(()))?;
    let before = cluster.calls("before", 20)?;
    let mut more = cluster.spec.clone();
    let mut second = more.services[0].clone();
    second.name = "second".into();
    second.port = 5080;
    for backend in &mut second.backends {
        backend.port = 5090;
    }
    more.services.push(second);
    cluster.daemon.configure(&more)?;
    cluster.daemon.run(&["reload"])?;
    let family = sip_forwarder_tests::lab::Family::V4;
    let proxies: Vec<_> = (1..=2)
        .map(|n| {
            crate::support::socket(
                &cluster.lab,
                sip_forwarder_tests::lab::Host::Proxy(n),
                family,
                5090,
            )
        })
        .collect::<Result<_>>()?;
    let vip = std::net::SocketAddr::new(sip_forwarder_tests::lab::vip(family), 5080);
    let message = Message::invite().call_id("second@client").build();
    cluster.client.send_to(&message, vip)?;
    crate::support::arrival(&proxies)?;
    // The slow path has it, too.
    let odd =
        String::from_utf8(Message::invite().call_id("odd@client").build())?.replace("\r\n", "\n");
    cluster.client.send_to(odd.as_bytes(), vip)?;
    crate::support::arrival(&proxies)?;
    cluster.still_there(&before)
}

fn round_robin() -> Result<()> {
    let cluster = Cluster::start(3, "none", |_, spec| {
        spec.services[0].extra = "policy = \"round-robin\"\n".into();
        Ok(())
    })?;
    let calls = cluster.calls("turn", 60)?;
    // The client's packets may be handled on either of two cores, each with turns of its own.
    for proxy in 1..=3 {
        let share = calls.iter().filter(|(_, p)| *p == proxy).count();
        ensure!(
            (18..=22).contains(&share),
            "proxy {proxy} got {share} of 60"
        );
    }
    cluster.still_there(&calls)?;
    cluster.order("drain", 2, &[])?;
    ensure!(used(&cluster.calls("two", 20)?) == [1, 3]);
    cluster.still_there(&calls)
}
