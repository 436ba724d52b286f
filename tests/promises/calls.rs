//! Real calls, by SIPp and through Kamailio, reach one proxy each and none fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    calls::CallLog,
    kamailio::Kamailio,
    lab::{Daemon, DaemonSpec, Family, Lab},
    pace,
    sipp::{CallOptions, CallReport, Uas, run_calls},
};

use crate::support::{as_root, daemon_file, forwarding_lab, vip_socket};

const CALLS: u32 = 600;
const RATE: u32 = 300;
/// Between ACK and BYE: where two CPUs share the packets of a flow, one that follows another at once may overtake it.
const HOLD: Duration = Duration::from_millis(100);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("calls::sipp_veth_v4", || sipp(Family::V4)),
        as_root("calls::sipp_veth_v6", || sipp(Family::V6)),
        as_root("calls::generic_mode", generic),
        as_root("calls::kamailio_v4", || kamailio(Family::V4)),
        as_root("calls::kamailio_v6", || kamailio(Family::V6)),
    ]
}

fn sipp(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(3, family)?;
    let proxies = Uas::start_all(&lab, family)?;
    let logs: Vec<CallLog> = proxies.iter().map(Uas::call_log).collect();
    check(&play(&lab, family, &logs)?, &daemon)
}

/// Where a driver has no native XDP, the same calls go through the kernel's generic hook.
fn generic() -> Result<()> {
    let lab = Lab::new(2)?;
    let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, Family::V4);
    spec.forwarder_extra.push_str("xdp = \"generic\"");
    let daemon = Daemon::start(&lab, &spec)?;
    daemon.wait_resolved(Duration::from_secs(5))?;
    let proxies = Uas::start_all(&lab, Family::V4)?;
    let logs: Vec<CallLog> = proxies.iter().map(Uas::call_log).collect();
    check(&play(&lab, Family::V4, &logs)?, &daemon)?;
    ensure!(
        daemon.status()?["xdp_mode"] == "generic",
        "it is not generic"
    );
    Ok(())
}

fn kamailio(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(2, family)?;
    let proxies = Kamailio::start_all(&lab, family)?;
    let logs: Vec<CallLog> = proxies.iter().map(Kamailio::call_log).collect();
    check(&play(&lab, family, &logs)?, &daemon)
}

pub(crate) fn play(lab: &Lab, family: Family, logs: &[CallLog]) -> Result<CallReport> {
    let options = CallOptions {
        calls: CALLS,
        rate: RATE,
        family,
        hold: pace::limit(HOLD),
        deadline: Duration::from_secs(30),
        ..Default::default()
    };
    run_calls(lab, &options, vip_socket(family), logs, &mut |_| {})
}

pub(crate) fn check(report: &CallReport, daemon: &Daemon) -> Result<()> {
    ensure!(
        report.failed == 0,
        "{} calls failed: {report:?}",
        report.failed
    );
    ensure!(
        report.split_calls == 0,
        "{} calls were torn: {report:?}",
        report.split_calls
    );
    ensure!(
        report.backends.iter().all(|b| b.calls > 0),
        "a proxy got no call: {report:?}"
    );
    let status = daemon.status()?;
    let fast = status["messages"]["fast"].as_u64().unwrap_or(0);
    let slow = status["messages"]["slow"].as_u64().unwrap_or(0);
    ensure!(
        slow * 1_000 <= fast,
        "only {fast} of {} messages took the fast path",
        fast + slow
    );
    ensure!(
        fast >= u64::from(CALLS) * 7,
        "{fast} messages for {CALLS} calls of seven: {:#}",
        status["verdicts"]
    );
    Ok(())
}
