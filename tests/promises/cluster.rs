//! A running forwarder with proxies that do as a test says, and a client that makes calls.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sip_forwarder_tests::{
    agent::{Agent, AgentSpec, CpuDial, MasterKey},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, Process},
    messages::Message,
    proxy::ScriptedProxy,
};

use crate::support::{ARRIVAL, CLIENT_PORT, daemon_file, lab_programs_file, socket, vip_socket};

/// How long the daemon may take to notice something that takes it a second or two.
pub(crate) const NOTICE: Duration = Duration::from_secs(10);

/// Everything a scene needs.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) daemon: Daemon,
    pub(crate) spec: DaemonSpec,
    pub(crate) proxies: Vec<Option<ScriptedProxy>>,
    pub(crate) client: UdpSocket,
}

/// What a message came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It reached this proxy, counted from 1.
    At(u8),
    /// The forwarder answered.
    Answered(String),
}

impl Cluster {
    /// So many proxies of service `lab`, whose configuration `change` may alter.
    pub(crate) fn start(
        proxies: u8,
        health: &'static str,
        change: impl FnOnce(&Lab, &mut DaemonSpec) -> Result<()>,
    ) -> Result<Self> {
        let lab = Lab::new(proxies)?;
        lab.accept_xdp(&lab_programs_file()?)?;
        let scripted = ScriptedProxy::start_all(&lab, Family::V4)?;
        let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, Family::V4);
        spec.services[0].health = health;
        change(&lab, &mut spec)?;
        let daemon = Daemon::start(&lab, &spec)?;
        daemon.wait_resolved(NOTICE)?;
        let client = socket(&lab, Host::Client, Family::V4, CLIENT_PORT)?;
        Ok(Self {
            proxies: scripted.into_iter().map(Some).collect(),
            lab,
            daemon,
            spec,
            client,
        })
    }

    /// Sends a message to the VIP and waits where it goes.
    pub(crate) fn send(&self, message: &[u8]) -> Result<Fate> {
        self.client.send_to(message, vip_socket(Family::V4))?;
        self.client.set_nonblocking(true)?;
        let deadline = Instant::now() + ARRIVAL;
        let mut buffer = vec![0; 65_536];
        loop {
            for (index, proxy) in self.proxies.iter().enumerate() {
                let came = proxy.as_ref().map(ScriptedProxy::take).unwrap_or_default();
                if came.iter().any(|arrived| arrived.payload == message) {
                    return Ok(Fate::At(index as u8 + 1));
                }
            }
            if let Ok((length, _)) = self.client.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                return Ok(Fate::Answered(text));
            }
            ensure!(
                Instant::now() < deadline,
                "nobody got it and nobody answered:\n{}",
                String::from_utf8_lossy(message)
            );
            std::thread::yield_now();
        }
    }

    /// Sends a message that must reach a proxy.
    pub(crate) fn place(&self, message: &[u8]) -> Result<u8> {
        match self.send(message)? {
            Fate::At(proxy) => Ok(proxy),
            Fate::Answered(text) => anyhow::bail!("answered, not sent on:\n{text}"),
        }
    }

    /// Begins so many calls; which proxy each is at.
    pub(crate) fn calls(&self, name: &str, count: u32) -> Result<Vec<(String, u8)>> {
        (0..count)
            .map(|n| {
                let call = format!("{name}-{n}@client");
                let proxy = self.place(&Message::invite().call_id(&call).build())?;
                Ok((call, proxy))
            })
            .collect()
    }

    /// Every one of these calls is still where it was.
    pub(crate) fn still_there(&self, calls: &[(String, u8)]) -> Result<()> {
        for (call, proxy) in calls {
            let is = self.place(&in_dialog(call))?;
            ensure!(is == *proxy, "{call} was at proxy {proxy}, is at {is}");
        }
        Ok(())
    }

    /// Waits for a backend's state.
    pub(crate) fn wait_state(&self, proxy: u8, state: &str) -> Result<Value> {
        let what = format!("had proxy {proxy} {state}");
        self.daemon.wait_for(&what, NOTICE, |status| {
            member(status, proxy)["state"] == state
        })
    }

    /// Runs a verb on a proxy.
    pub(crate) fn order(&self, verb: &str, proxy: u8, more: &[&str]) -> Result<String> {
        let name = Host::Proxy(proxy).to_string();
        let mut arguments = vec![verb, "lab", &name];
        arguments.extend(more);
        self.daemon.run(&arguments)
    }
}

/// Which proxies some calls are at, each once, in order.
pub(crate) fn used(calls: &[(String, u8)]) -> Vec<u8> {
    let mut proxies: Vec<u8> = calls.iter().map(|(_, proxy)| *proxy).collect();
    proxies.sort_unstable();
    proxies.dedup();
    proxies
}

/// A message in the middle of a call.
pub(crate) fn in_dialog(call: &str) -> Vec<u8> {
    Message::request("INFO").to_tag("x").call_id(call).build()
}

/// A backend in a status.
pub(crate) fn member(status: &Value, proxy: u8) -> Value {
    let name = Host::Proxy(proxy).to_string();
    let backends = status["services"][0]["backends"].as_array();
    backends
        .into_iter()
        .flatten()
        .find(|b| b["name"] == name.as_str())
        .cloned()
        .unwrap_or_default()
}

/// An agent beside a proxy, the process it watches and the CPU it reports.
pub(crate) struct Watched {
    pub(crate) agent: Agent,
    pub(crate) process: Process,
    pub(crate) cpu: CpuDial,
}

impl Watched {
    /// Starts one on a proxy.
    pub(crate) fn start(lab: &Lab, key: &MasterKey, proxy: u8) -> Result<Self> {
        let host = Host::Proxy(proxy);
        let mut command = lab.command(host, "sleep")?;
        command.arg("600");
        let process = Process::start(lab, host, command, &lab.dir().join("sleep.log"))?;
        let pid_file = lab.dir().join(format!("{host}.pid"));
        std::fs::write(&pid_file, process.pid().to_string()).context("cannot write a pid file")?;
        let cpu = CpuDial::new(lab, &host.to_string())?;
        let agent = Agent::start(
            key,
            &AgentSpec {
                service: "lab",
                host,
                family: Family::V4,
                pid_file: &pid_file,
                cpu: cpu.source(),
            },
        )?;
        Ok(Self {
            agent,
            process,
            cpu,
        })
    }
}

/// A cluster whose proxies have agents, all of them heard.
pub(crate) fn with_agents(
    proxies: u8,
    change: impl FnOnce(&mut DaemonSpec),
) -> Result<(Cluster, Vec<Watched>, MasterKey)> {
    let mut key = None;
    let cluster = Cluster::start(proxies, "agent", |lab, spec| {
        let master = MasterKey::new(lab, &daemon_file()?)?;
        spec.forwarder_extra = master.heartbeats();
        key = Some(master);
        change(spec);
        Ok(())
    })?;
    let key = key.context("no key was made")?;
    let watched = (1..=proxies)
        .map(|proxy| Watched::start(&cluster.lab, &key, proxy))
        .collect::<Result<Vec<_>>>()?;
    for proxy in 1..=proxies {
        let what = format!("heard of proxy {proxy}");
        cluster.daemon.wait_for(&what, NOTICE, |status| {
            member(status, proxy)["cpu"].is_number() && member(status, proxy)["state"] == "alive"
        })?;
    }
    Ok((cluster, watched, key))
}
