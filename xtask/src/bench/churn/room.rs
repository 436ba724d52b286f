//! The lab: three proxies in use and a fourth that can join, the callee, an agent on each proxy, the daemon.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use sip_forwarder_tests::{
    agent::{Agent, AgentSpec, CpuDial, MasterKey},
    calls::CallLog,
    history::Death,
    kamailio::{Kamailio, RecordRoute, Relay, UAS_PORT},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, daemon},
    sipp::Uas,
};

/// The service.
pub(super) const SERVICE: &str = "lab";
const FAMILY: Family = Family::V4;
/// In use from the start.
const PROXIES: u8 = 3;
/// With the one that joins.
const ALL: u8 = 4;
/// How long anything may take to show in the status.
const SOON: Duration = Duration::from_secs(15);

/// All that is alive. It goes in this order.
pub(super) struct Room {
    pub(super) daemon: Daemon,
    agents: Vec<Agent>,
    dials: Vec<CpuDial>,
    /// By number; those that ended are no longer there.
    proxies: Vec<(u8, Kamailio)>,
    /// Of every proxy that ever was.
    logs: Vec<CallLog>,
    _callee: Uas,
    spec: DaemonSpec,
    key: MasterKey,
    pub(super) lab: Lab,
}

impl Room {
    /// Starts everything and waits until the first three proxies are in use.
    pub(super) fn start(daemon: &Path, xdp: &Path) -> anyhow::Result<Self> {
        let lab = Lab::with_callee(ALL)?;
        lab.accept_xdp(xdp)?;
        let callee = Uas::start_callee(&lab, Host::Callee.socket(FAMILY, UAS_PORT), true)?;
        let key = MasterKey::new(&lab, daemon)?;
        let mut spec = DaemonSpec::of_lab(daemon, &lab, FAMILY);
        spec.forwarder_extra = key.heartbeats();
        let service = &mut spec.services[0];
        SERVICE.clone_into(&mut service.name);
        service.health = "agent";
        service.backends.truncate(PROXIES.into());
        let daemon = Daemon::start(&lab, &spec)?;
        let mut room = Self {
            daemon,
            agents: Vec::new(),
            dials: Vec::new(),
            proxies: Vec::new(),
            logs: Vec::new(),
            _callee: callee,
            spec,
            key,
            lab,
        };
        for n in 1..=PROXIES {
            room.start_proxy(n)?;
            room.start_agent(n)?;
        }
        for n in 1..=PROXIES {
            room.wait_in_use(n)?;
        }
        Ok(room)
    }

    /// Kamailio on a proxy, for the first time or again.
    pub(super) fn start_proxy(&mut self, n: u8) -> anyhow::Result<()> {
        let relay = Relay {
            family: FAMILY,
            next: Host::Callee.socket(FAMILY, UAS_PORT),
            record_route: RecordRoute::Vip,
        };
        let proxy = Kamailio::relaying(&self.lab, Host::Proxy(n), &relay)?;
        self.logs.push(proxy.call_log());
        self.proxies.push((n, proxy));
        Ok(())
    }

    fn start_agent(&mut self, n: u8) -> anyhow::Result<()> {
        let host = Host::Proxy(n);
        let dial = CpuDial::new(&self.lab, &host.to_string())?;
        let spec = AgentSpec {
            service: SERVICE,
            host,
            family: FAMILY,
            pid_file: self.proxy(n)?.pid_file(),
            cpu: dial.source(),
        };
        self.agents.push(Agent::start(&self.key, &spec)?);
        self.dials.push(dial);
        Ok(())
    }

    /// Kills all processes of a proxy.
    pub(super) fn kill_proxy(&mut self, n: u8) -> anyhow::Result<Death> {
        let index = self
            .proxies
            .iter()
            .position(|(number, _)| *number == n)
            .with_context(|| format!("p{n} does not run"))?;
        let (_, mut proxy) = self.proxies.swap_remove(index);
        Death::by(Host::Proxy(n), || proxy.kill())
    }

    /// The fourth proxy: it runs, its agent reports, and the configuration names it from now on.
    pub(super) fn join(&mut self) -> anyhow::Result<()> {
        self.start_proxy(ALL)?;
        self.start_agent(ALL)?;
        self.spec.services[0].backends = DaemonSpec::of_lab("", &self.lab, FAMILY)
            .services
            .remove(0)
            .backends;
        self.daemon.configure(&self.spec)?;
        self.daemon.run(&["reload"])?;
        self.wait_in_use(ALL)
    }

    /// Waits until a proxy is alive and the fast path knows the way to it.
    pub(super) fn wait_in_use(&self, n: u8) -> anyhow::Result<()> {
        self.wait(n, "is alive", |backend| {
            backend["resolved"] == true
                && backend["state"] != "dead"
                && backend["heard_ms_ago"] != Value::Null
        })
    }

    /// Waits until a proxy's entry in the status is so; `condition` finishes the sentence "p1 …".
    pub(super) fn wait(
        &self,
        n: u8,
        condition: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let name = Host::Proxy(n).to_string();
        self.daemon
            .wait_for(&format!("told that {name} {condition}"), SOON, |status| {
                daemon::backends(status)
                    .into_iter()
                    .any(|backend| backend["name"] == name.as_str() && holds(backend))
            })
            .map(drop)
    }

    /// Makes a proxy's CPU look busy, from 0 to 1.
    pub(super) fn set_load(&self, n: u8, load: f64) {
        if let Some(dial) = self.dials.get(usize::from(n) - 1) {
            dial.set(load);
        }
    }

    /// The logs of all proxies there ever were.
    pub(super) fn logs(&self) -> Vec<CallLog> {
        self.logs.clone()
    }

    fn proxy(&self, n: u8) -> anyhow::Result<&Kamailio> {
        self.proxies
            .iter()
            .find_map(|(number, proxy)| (*number == n).then_some(proxy))
            .with_context(|| format!("p{n} does not run"))
    }
}
