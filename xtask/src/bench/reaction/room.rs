//! The lab: three proxies that are plain sockets, each with a process that its agent watches; the daemon with its
//! defaults, but for a key that gives all calls to one callee to one proxy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sip_forwarder::api;
use sip_forwarder_tests::{
    agent::{Agent, AgentSpec, CpuSource, MasterKey},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, Process, daemon},
};
use tokio::runtime::{self, Runtime};

pub(super) const FAMILY: Family = Family::V4;
pub(super) const PROXIES: u8 = 3;
const SERVICE: &str = "lab";
/// How long anything may take to show in the status.
const SOON: Duration = Duration::from_secs(15);
/// The CPU of the machine that measures is busy: no gate may close for it.
const SERVICE_LINES: &str = "key = \"to\"\n[service.gate]\nalpha = 1.0\n";

/// All that is alive. It goes in this order.
pub(super) struct Room {
    pub(super) daemon: Daemon,
    agents: Vec<Agent>,
    processes: Vec<Process>,
    key: MasterKey,
    runtime: Runtime,
    pub(super) lab: Lab,
}

impl Room {
    /// Starts everything and waits until all proxies are in use.
    pub(super) fn start(program: &Path, xdp: &Path) -> anyhow::Result<Self> {
        let lab = Lab::new(PROXIES)?;
        lab.accept_xdp(xdp)?;
        let key = MasterKey::new(&lab, program)?;
        let mut spec = DaemonSpec::of_lab(program, &lab, FAMILY);
        spec.forwarder_extra = key.heartbeats();
        SERVICE.clone_into(&mut spec.services[0].name);
        spec.services[0].health = "agent";
        SERVICE_LINES.clone_into(&mut spec.services[0].extra);
        let mut room = Self {
            daemon: Daemon::start(&lab, &spec)?,
            agents: Vec::new(),
            processes: Vec::new(),
            key,
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start a runtime to speak to the API")?,
            lab,
        };
        for n in 1..=PROXIES {
            let process = room.new_process(n)?;
            room.processes.push(process);
            let agent = room.new_agent(n)?;
            room.agents.push(agent);
        }
        for n in 1..=PROXIES {
            room.wait_in_use(n)?;
        }
        Ok(room)
    }

    /// Gives a proxy another weight; returns the moment just before that was asked.
    pub(super) fn push_weight(&self, n: u8, weight: u16) -> anyhow::Result<Instant> {
        let socket = self.lab.dir().join("api.sock");
        let resource = format!("/services/{SERVICE}/backends/{}/weight", Host::Proxy(n));
        let begin = Instant::now();
        self.runtime
            .block_on(api::post(&socket, &resource, &json!({"weight": weight})))?;
        Ok(begin)
    }

    /// Kills a proxy's process; returns the moment just before.
    pub(super) fn kill_process(&mut self, n: u8) -> anyhow::Result<Instant> {
        let begin = Instant::now();
        self.processes[index(n)].kill()?;
        Ok(begin)
    }

    /// Starts it again, and waits until the proxy is in use.
    pub(super) fn start_process(&mut self, n: u8) -> anyhow::Result<()> {
        self.processes[index(n)] = self.new_process(n)?;
        self.wait_in_use(n)
    }

    /// Kills a proxy's agent, as if its host had gone; returns the moment just before.
    pub(super) fn kill_agent(&mut self, n: u8) -> anyhow::Result<Instant> {
        let begin = Instant::now();
        self.agents[index(n)].process().kill()?;
        Ok(begin)
    }

    /// Starts it again, and waits until the proxy is in use.
    pub(super) fn start_agent(&mut self, n: u8) -> anyhow::Result<()> {
        self.agents[index(n)] = self.new_agent(n)?;
        self.wait_in_use(n)
    }

    fn new_process(&self, n: u8) -> anyhow::Result<Process> {
        let host = Host::Proxy(n);
        let mut command = self.lab.command(host, "sleep")?;
        command.arg("infinity");
        let log = self.lab.dir().join(format!("process-{host}.log"));
        let process = Process::start(&self.lab, host, command, &log)?;
        let file = self.pid_file(n);
        fs::write(&file, format!("{}\n", process.pid()))
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(process)
    }

    fn new_agent(&self, n: u8) -> anyhow::Result<Agent> {
        let spec = AgentSpec {
            service: SERVICE,
            host: Host::Proxy(n),
            family: FAMILY,
            pid_file: &self.pid_file(n),
            cpu: CpuSource::Auto,
        };
        Agent::start(&self.key, &spec)
    }

    fn pid_file(&self, n: u8) -> PathBuf {
        self.lab.dir().join(format!("process-{n}.pid"))
    }

    fn wait_in_use(&self, n: u8) -> anyhow::Result<()> {
        let name = Host::Proxy(n).to_string();
        let in_use = |backend: &&Value| {
            backend["name"] == name.as_str()
                && backend["open"] == true
                && backend["resolved"] == true
                && backend["heard_ms_ago"].is_u64()
        };
        let condition = format!("had {name} in use");
        self.daemon
            .wait_for(&condition, SOON, |status| {
                daemon::backends(status).iter().any(in_use)
            })
            .map(drop)
    }
}

fn index(n: u8) -> usize {
    usize::from(n) - 1
}
