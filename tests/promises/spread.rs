//! When one of many proxies dies, its calls are spread over all others, not given to a neighbour.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    agent::{Agent, AgentSpec, CpuSource, MasterKey},
    calls::CallLog,
    lab::{Daemon, DaemonSpec, Family, Host, Lab, daemon},
    sipp::{CallOptions, Uas, run_calls},
};

use crate::support::{as_root, daemon_file, program_file, vip_socket};

const PROXIES: u8 = 6;
const DEAD: u8 = 3;
const CALLS: u32 = 20_000;
const RATE: u32 = 2_000;
/// (max − min) / mean of the others' shares. Chance alone makes about 3 % of 20,000 calls over five.
const UNEVEN: f64 = 0.10;
/// How long agents and deaths may take to show.
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![as_root(
        "spread::a_dead_proxys_calls_go_to_all_others",
        a_dead_proxys_calls_go_to_all_others,
    )]
}

fn a_dead_proxys_calls_go_to_all_others() -> Result<()> {
    let family = Family::V4;
    let lab = Lab::new(PROXIES)?;
    lab.accept_xdp(&program_file()?)?;
    let mut proxies = Uas::start_all(&lab, family)?;
    let key = MasterKey::new(&lab, &daemon_file()?)?;
    let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, family);
    spec.forwarder_extra = key.heartbeats();
    spec.services[0].health = "agent";
    let daemon = Daemon::start(&lab, &spec)?;
    let _agents = agents(&lab, &key, family, &mut proxies)?;
    wait(&daemon, "had all proxies alive", |_| "alive")?;

    proxies[usize::from(DEAD) - 1].process().kill()?;
    let dead = Host::Proxy(DEAD).to_string();
    wait(&daemon, "had one dead, the others alive", |name| {
        if name == dead { "dead" } else { "alive" }
    })?;

    let options = CallOptions {
        calls: CALLS,
        rate: RATE,
        deadline: Duration::from_secs(40),
        ..CallOptions::default()
    };
    let logs: Vec<CallLog> = proxies.iter().map(Uas::call_log).collect();
    let report = run_calls(&lab, &options, vip_socket(family), &logs, &mut |_| {})?;
    ensure!(report.failed == 0, "calls failed: {report:?}");
    let shares: Vec<usize> = report
        .backends
        .iter()
        .filter(|backend| backend.name != dead)
        .map(|backend| backend.calls)
        .collect();
    let most = *shares.iter().max().context("no proxy is left")?;
    let least = *shares.iter().min().context("no proxy is left")?;
    let mean = shares.iter().sum::<usize>() as f64 / shares.len() as f64;
    ensure!(
        (most - least) as f64 <= UNEVEN * mean,
        "the shares are uneven: {shares:?}"
    );
    Ok(())
}

fn agents(lab: &Lab, key: &MasterKey, family: Family, proxies: &mut [Uas]) -> Result<Vec<Agent>> {
    (1..=PROXIES)
        .map(Host::Proxy)
        .zip(proxies)
        .map(|(host, proxy)| {
            let pid_file = lab.dir().join(format!("sipp-{host}.pid"));
            fs::write(&pid_file, format!("{}\n", proxy.process().pid()))
                .with_context(|| format!("cannot write {}", pid_file.display()))?;
            let spec = AgentSpec {
                service: "lab",
                host,
                family,
                pid_file: &pid_file,
                cpu: CpuSource::Host,
            };
            Agent::start(key, &spec)
        })
        .collect()
}

/// Waits until each proxy, by its name, is in the state that it should be in.
fn wait(daemon: &Daemon, condition: &str, state: impl Fn(&str) -> &'static str) -> Result<()> {
    daemon
        .wait_for(condition, SOON, |status| {
            daemon::backends(status).iter().all(|backend| {
                let name = backend["name"].as_str().unwrap_or_default();
                backend["state"] == state(name) && backend["resolved"] == true
            })
        })
        .map(drop)
}
