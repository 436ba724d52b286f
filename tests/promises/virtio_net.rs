//! The same calls through another driver than veth: the forwarder's interfaces are `virtio_net` cards, and XDP is
//! native there, from one card to another.
//!
//! Two of the cards have queues of their own for what XDP sends; the one to proxy 2 has a single queue, which XDP and
//! the kernel share.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    calls::CallLog,
    lab::{Daemon, DaemonSpec, Family, Lab},
    sipp::Uas,
};

use crate::{
    calls,
    support::{daemon_file, on_cards},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        on_cards("virtio_net::calls_v4", || sipp(Family::V4)),
        on_cards("virtio_net::calls_v6", || sipp(Family::V6)),
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
    calls::check(&calls::play(&lab, family, &logs)?, &daemon)?;
    let status = daemon.status()?;
    ensure!(
        status["xdp_mode"] == "native",
        "it is not native: {status:#}"
    );
    Ok(())
}
