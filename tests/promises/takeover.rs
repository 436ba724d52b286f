//! The daemon may die and come back: no call notices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_ebpf::abi::ABI_VERSION;
use sip_forwarder_tests::{
    lab::{Family, Host, Lab},
    messages::Message,
    sipp::{CallOptions, Uac, Uas},
};

use crate::{
    cluster::{Cluster, NOTICE},
    support::{CLIENT_PORT, as_root, forwarding_lab, socket, vip_socket},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "takeover::killed_and_started_again",
            killed_and_started_again,
        ),
        as_root(
            "takeover::stopped_and_started_again",
            stopped_and_started_again,
        ),
        as_root(
            "takeover::another_versions_maps_are_replaced",
            another_version,
        ),
        as_root(
            "takeover::what_another_version_knows_of_calls_is_kept",
            || another_versions_calls(|_| Ok(())),
        ),
        as_root(
            "takeover::what_another_version_knows_is_copied_into_a_map_of_another_size",
            || another_versions_calls(smaller_map),
        ),
        as_root(
            "takeover::a_minute_without_a_daemon",
            a_minute_without_a_daemon,
        ),
        as_root(
            "takeover::no_icmp_error_while_dead",
            no_icmp_error_while_dead,
        ),
    ]
}

fn killed_and_started_again() -> Result<()> {
    calls_while(sip_forwarder_tests::lab::Daemon::kill)
}

fn stopped_and_started_again() -> Result<()> {
    calls_while(sip_forwarder_tests::lab::Daemon::terminate)
}

/// Makes the pinned maps look like those of a daemon with another layout.
fn as_of_another_version(lab: &Lab) -> Result<()> {
    let own = lab.bpf_dir().join(format!("abi-{ABI_VERSION}"));
    let other = lab.bpf_dir().join(format!("abi-{}", ABI_VERSION + 1_000));
    std::fs::rename(&own, &other).with_context(|| format!("cannot rename {}", own.display()))
}

/// New maps are built beside the old ones, and the programs exchanged by link update.
fn another_version() -> Result<()> {
    calls_while(|daemon| {
        daemon.kill()?;
        as_of_another_version(daemon.lab())
    })
}

/// Configures a smaller affinity map than the daemons before had, so that none of theirs can be shared.
fn smaller_map(daemon: &sip_forwarder_tests::lab::Daemon) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(daemon.config())?;
    writeln!(file, "\n[limits]\naffinity_entries = 65536")?;
    Ok(())
}

/// A call that is not at its home is known only by its affinity entry.
fn another_versions_calls(
    change: fn(&sip_forwarder_tests::lab::Daemon) -> Result<()>,
) -> Result<()> {
    let mut cluster = Cluster::start(2, "none", |_, _| Ok(()))?;
    cluster.order("drain", 1, &[])?;
    let away = cluster.calls("away", 40)?;
    cluster.order("enable", 1, &[])?;
    let home = cluster.calls("home", 40)?;
    cluster.daemon.kill()?;
    as_of_another_version(&cluster.lab)?;
    cluster.still_there(&away)?;
    change(&cluster.daemon)?;
    cluster.daemon.start_again()?;
    cluster.daemon.wait_resolved(NOTICE)?;
    cluster.still_there(&away)?;
    cluster.still_there(&home)?;
    let left = pinned(&cluster.lab, "abi-")?;
    ensure!(
        left == [format!("abi-{ABI_VERSION}").as_str()],
        "the old maps were left behind: {left:?}"
    );
    Ok(())
}

/// Calls at 200/s for six seconds, without retransmission; the daemon ends after a third of them and
/// is back after another.
fn calls_while(
    end: impl FnOnce(&mut sip_forwarder_tests::lab::Daemon) -> Result<()>,
) -> Result<()> {
    const CALLS: u32 = 1_200;
    let (lab, mut daemon) = forwarding_lab(3, Family::V4)?;
    let proxies = Uas::start_all(&lab, Family::V4)?;
    let options = CallOptions {
        calls: CALLS,
        rate: 200,
        hold: Duration::from_millis(500),
        retransmit: false,
        deadline: Duration::from_secs(30),
        ..CallOptions::default()
    };
    let uac = Uac::start(&lab, &options, vip_socket(Family::V4))?;
    let mut end = Some(end);
    let mut came_back = false;
    let mut fault = None;
    let report = uac.finish(&mut |progress| {
        if progress.created >= u64::from(CALLS) / 3
            && let Some(end) = end.take()
        {
            fault = end(&mut daemon).err();
        }
        if !came_back && progress.created >= u64::from(CALLS) * 2 / 3 {
            came_back = true;
            fault = fault.take().or_else(|| daemon.start_again().err());
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let logs: Vec<_> = proxies.iter().map(Uas::call_log).collect();
    let report = report.with_backends(&logs)?;
    ensure!(
        end.is_none() && came_back,
        "the daemon was not ended and started again in time"
    );
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    let status = daemon.status()?;
    ensure!(status["xdp_mode"] == "native", "{status:#}");
    let stages = pinned(&lab, "stages-")?;
    ensure!(
        stages.len() == 1,
        "one array of stages must be left of two daemons, not {stages:?}"
    );
    Ok(())
}

/// Names of what is pinned that begin so.
fn pinned(lab: &Lab, prefix: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(lab.bpf_dir())?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// The daemon is killed, and for a minute nobody starts it again: what is pinned forwards all calls.
fn a_minute_without_a_daemon() -> Result<()> {
    const RATE: u32 = 20;
    const CALLS: u32 = 60 * RATE;
    let (lab, mut daemon) = forwarding_lab(3, Family::V4)?;
    let proxies = Uas::start_all(&lab, Family::V4)?;
    daemon.kill()?;
    let options = CallOptions {
        calls: CALLS,
        rate: RATE,
        hold: Duration::from_millis(500),
        retransmit: false,
        deadline: Duration::from_secs(90),
        ..CallOptions::default()
    };
    let report = Uac::start(&lab, &options, vip_socket(Family::V4))?.finish(&mut |_| {})?;
    let logs: Vec<_> = proxies.iter().map(Uas::call_log).collect();
    let report = report.with_backends(&logs)?;
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    Ok(())
}

/// Messages that only the slow path takes, all the time while the daemon is killed: they may get
/// lost, but no ICMP error may fail the call.
fn no_icmp_error_while_dead() -> Result<()> {
    let (lab, mut daemon) = forwarding_lab(1, Family::V4)?;
    let proxy = socket(&lab, Host::Proxy(1), Family::V4, 5060)?;
    let client = socket(&lab, Host::Client, Family::V4, CLIENT_PORT)?;
    client.connect(vip_socket(Family::V4))?;
    let odd = String::from_utf8(Message::invite().build())?.replace("\r\n", "\n");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = client.try_clone()?;
    let sending = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut sent = 0;
        while stopped
            .recv_timeout(Duration::from_micros(200))
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            // A connected socket reports an ICMP error here.
            sender.send(odd.as_bytes())?;
            sent += 1;
        }
        Ok(sent)
    });
    let mut buffer = [0; 2_048];
    proxy.recv_from(&mut buffer)?;
    daemon.kill()?;
    // What is on its way still arrives; silence says that nobody forwards any more.
    proxy.set_read_timeout(Some(Duration::from_millis(200)))?;
    while proxy.recv_from(&mut buffer).is_ok() {}
    daemon.start_again()?;
    proxy.set_read_timeout(Some(crate::support::ARRIVAL))?;
    proxy.recv_from(&mut buffer)?;
    drop(stop);
    let sent = sending
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    let sent =
        sent.map_err(|error| anyhow::anyhow!("an ICMP error reached the client: {error}"))?;
    let status = daemon.status()?;
    let dropped = status["verdicts"]
        .as_array()
        .and_then(|v| v.iter().find(|v| v["name"] == "no-daemon")?["fast"].as_u64());
    ensure!(
        dropped.is_some_and(|n| n > 0),
        "{sent} sent, none dropped for want of a daemon: {:#}",
        status["verdicts"]
    );
    Ok(())
}
