//! An upgrade under calls: a daemon of an older revision, whose layout of the maps may be another, ends while calls are
//! up, and the present one starts over what it pinned. No call fails, and none changes its proxy.
//!
//! The old daemons are built by `cargo xtask build --revision REV`; without one, its tests are skipped.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use sip_forwarder_ebpf::abi::ABI_VERSION;
use sip_forwarder_tests::{
    lab::{Daemon, DaemonSpec, Family, Lab},
    revisions,
    sipp::{CallOptions, Uac, Uas},
};

use crate::{
    cluster::NOTICE,
    support::{as_root, daemon_file, lab_programs_file, root, vip_socket},
};

const FAMILY: Family = Family::V4;
const CALLS: u32 = 1_200;
const RATE: u32 = 200;
/// How long a call is up: longer than the old daemon is gone, so that many calls see both.
const HOLD: Duration = Duration::from_secs(3);

/// How a daemon ends.
type End = fn(&mut Daemon) -> Result<()>;

pub(crate) fn trials() -> Vec<Trial> {
    let ends: [(&str, End); 2] = [("terminated", Daemon::terminate), ("killed", Daemon::kill)];
    let mut trials = Vec::new();
    for (layout, commit) in revisions::PINNED {
        let old = revisions::daemon(&root(), commit);
        if old.is_none() {
            eprintln!(
                "upgrades from layout {layout} are skipped: the daemon of {commit} is not built; \
                 `cargo xtask build --revision {}` builds it",
                revisions::short(commit)
            );
        }
        for (how, end) in ends {
            let name = format!("upgrade::from_layout_{layout}_{how}_under_calls");
            let trial = match old.clone() {
                Some(old) => as_root(&name, move || upgrade(old, layout, end)),
                None => Trial::test(name, || Ok(())).with_ignored_flag(true),
            };
            trials.push(trial);
        }
    }
    trials
}

/// Calls of three seconds at 200/s, without retransmission; the old daemon ends after a third of them were begun and
/// the present one starts after another.
fn upgrade(old: PathBuf, layout: u32, end: End) -> Result<()> {
    let lab = Lab::new(3)?;
    lab.accept_xdp(&lab_programs_file()?)?;
    let mut spec = DaemonSpec::of_lab(old, &lab, FAMILY);
    // Most calls are not at their home then, and only an affinity entry knows where they are.
    spec.services[0].extra = "policy = \"round-robin\"\n".into();
    let mut daemon = Daemon::start(&lab, &spec)?;
    daemon.wait_resolved(NOTICE)?;
    ensure!(
        layouts(&lab)? == [format!("abi-{layout}")],
        "the old daemon pinned {:?}",
        layouts(&lab)?
    );
    let proxies = Uas::start_all(&lab, FAMILY)?;
    let options = CallOptions {
        calls: CALLS,
        rate: RATE,
        hold: HOLD,
        retransmit: false,
        deadline: Duration::from_secs(40),
        ..CallOptions::default()
    };
    let uac = Uac::start(&lab, &options, vip_socket(FAMILY))?;
    let (mut ended, mut upgraded) = (None, None);
    let report = uac.finish(&mut |progress| {
        let begun = progress.created;
        if ended.is_none() && begun >= u64::from(CALLS) / 3 {
            ended = Some(end(&mut daemon));
        }
        if upgraded.is_none() && begun >= u64::from(CALLS) * 2 / 3 {
            upgraded = Some(start_present(&mut daemon));
        }
    })?;
    ended.context("the old daemon was not ended in time")??;
    upgraded.context("the present daemon was not started in time")??;
    let logs: Vec<_> = proxies.iter().map(Uas::call_log).collect();
    let report = report.with_backends(&logs)?;
    ensure!(report.failed == 0 && report.split_calls == 0, "{report:?}");
    ensure!(
        layouts(&lab)? == [format!("abi-{ABI_VERSION}")],
        "after the upgrade there are {:?}",
        layouts(&lab)?
    );
    let status = daemon.status()?;
    ensure!(status["xdp_mode"] == "native", "{status:#}");
    check_verdicts(&status)
}

fn start_present(daemon: &mut Daemon) -> Result<()> {
    daemon.replace_binary(daemon_file()?);
    daemon.start_again()
}

/// The folders of pinned maps.
fn layouts(lab: &Lab) -> Result<Vec<String>> {
    let folder = lab.bpf_dir();
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten();
    Ok(entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("abi-"))
        .collect())
}

/// The fast path forwards and returns messages, and nothing was dropped.
fn check_verdicts(status: &Value) -> Result<()> {
    let verdicts = status["verdicts"]
        .as_array()
        .context("the status lacks verdicts")?;
    let count = |outcome: &str, path: &str| -> u64 {
        let of = verdicts.iter().filter(|v| v["outcome"] == outcome);
        of.filter_map(|v| v[path].as_u64()).sum()
    };
    for outcome in ["forwarded", "returned"] {
        ensure!(count(outcome, "fast") > 0, "none {outcome}: {verdicts:#?}");
    }
    let dropped = count("dropped", "fast") + count("dropped", "slow");
    ensure!(
        dropped == 0,
        "{dropped} messages were dropped: {verdicts:#?}"
    );
    Ok(())
}
