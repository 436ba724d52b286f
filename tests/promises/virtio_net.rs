//! The same calls through another driver than veth: the forwarder's interfaces are `virtio_net` cards, and XDP is
//! native there, from one card to another.
//!
//! Two of the cards have queues of their own for what XDP sends; the one to proxy 2 has a single queue, which XDP and
//! the kernel share.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    calls::CallLog,
    lab::{Daemon, DaemonSpec, Family, Host, Lab, cards, process::output_within},
    sipp::Uas,
};

use crate::{
    calls,
    support::{daemon_file, on_cards},
};

/// How long ethtool may take.
const CLI: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        on_cards("virtio_net::calls_v4", || sipp(Family::V4)),
        on_cards("virtio_net::calls_v6", || sipp(Family::V6)),
        on_cards("virtio_net::check_tells_what_slows_xdp", check),
        on_cards("virtio_net::offloads_that_forbid_native_xdp", kept_offloads)
            .with_ignored_flag(!cards::are_multi_queue()),
    ]
}

fn lab(family: Family) -> Result<(Lab, Daemon)> {
    let lab = Lab::on_cards(2)?;
    let daemon = Daemon::start(&lab, &DaemonSpec::of_lab(daemon_file()?, &lab, family))?;
    daemon.wait_resolved(Duration::from_secs(5))?;
    Ok((lab, daemon))
}

fn sipp(family: Family) -> Result<()> {
    let (lab, daemon) = lab(family)?;
    let proxies = Uas::start_all(&lab, family)?;
    let logs: Vec<CallLog> = proxies.iter().map(Uas::call_log).collect();
    calls::check(&calls::play(&lab, family, &logs)?, &daemon)
        .with_context(|| format!("the cards counted\n{}", counters(&lab)))?;
    let status = daemon.status()?;
    ensure!(
        status["xdp_mode"] == "native",
        "it is not native: {status:#}"
    );
    Ok(())
}

/// The card with a single queue is named, with what to do; those with queues to spare are not.
fn check() -> Result<()> {
    let (_lab, daemon) = lab(Family::V4)?;
    let said = daemon.run(&["check"])?;
    let named = |card: &str| said.lines().find(|line| line.starts_with(card));
    ensure!(
        named("to-p2 (virtio_net): ").is_some_and(|line| line.contains("queues=4")),
        "the card with one queue is not named: {said}"
    );
    ensure!(
        named("to-client").is_none() || !cards::are_multi_queue(),
        "a card with queues to spare is named: {said}"
    );
    Ok(())
}

/// Where the host goes on merging packets the driver refuses: the forwarder takes the generic mode, and `check` says why.
fn kept_offloads() -> Result<()> {
    let lab = Lab::on_cards(3)?;
    let daemon = Daemon::start(&lab, &DaemonSpec::of_lab(daemon_file()?, &lab, Family::V4))?;
    let status = daemon.status()?;
    ensure!(
        status["xdp_mode"] == "generic",
        "it is not generic: {status:#}"
    );
    let said = daemon.run(&["check"])?;
    ensure!(
        said.contains("to-p3 (virtio_net): the hypervisor merges packets"),
        "the card is not named: {said}"
    );
    Ok(())
}

/// What ethtool tells of every card: frames by queue, drops, and what XDP did with them.
fn counters(lab: &Lab) -> String {
    let of = |(host, card): (Host, String)| {
        let command = lab.command(host, "ethtool").map(|mut command| {
            command.args(["-S", &card]);
            command
        });
        let printed = command.and_then(|command| output_within(command, CLI));
        let text = printed.map_or_else(
            |error| format!("{error:#}"),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        let counted = text.lines().filter(|line| !line.ends_with(": 0"));
        format!("{host} {card}\n{}", counted.collect::<Vec<_>>().join("\n"))
    };
    let near = lab.forwarder_interfaces().into_iter();
    let far = lab.hosts().into_iter();
    near.map(|card| (Host::Forwarder, card))
        .chain(far.filter_map(|host| Some((host, host.interface()?))))
        .map(of)
        .collect::<Vec<_>>()
        .join("\n")
}
