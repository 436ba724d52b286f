//! The lab: a daemon with many backends behind one link, and a host beside them that floods.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use sip_forwarder::heartbeat;
use sip_forwarder_tests::{
    agent::MasterKey,
    heartbeats::{self, Chorus, Flaw, Voices},
    lab::{Backend, Daemon, DaemonSpec, Family, Host, Lab, daemon},
};

use super::flood::Flood;

const FAMILY: Family = Family::V4;
const SERVICE: &str = "lab";
/// How often each backend reports.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// Where the backends are: all at one address, at ports of their own.
const BACKENDS: Host = Host::Proxy(1);
const FLOODER: Host = Host::Proxy(2);
const FIRST_PORT: u16 = 10_000;
/// Backends that the flood speaks for.
const VICTIMS: usize = 100;
const SOON: Duration = Duration::from_secs(20);

/// All that is alive. It goes in this order.
pub(super) struct Room {
    pub(super) chorus: Chorus,
    pub(super) daemon: Daemon,
    key: heartbeat::MasterKey,
    names: Vec<String>,
    lab: Lab,
}

impl Room {
    /// Starts everything and waits until all backends are heard.
    pub(super) fn start(program: &Path, xdp: &Path, backends: u16) -> anyhow::Result<Self> {
        let lab = Lab::new(2)?;
        lab.accept_xdp(xdp)?;
        let key = MasterKey::new(&lab, program)?;
        let mut spec = DaemonSpec::of_lab(program, &lab, FAMILY);
        spec.forwarder_extra = key.heartbeats();
        spec.services[0].health = "agent";
        spec.services[0].backends = (1..=backends).map(backend).collect();
        let names: Vec<String> = spec.services[0]
            .backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect();
        let daemon = Daemon::start(&lab, &spec)?;
        let key = key.load()?;
        let voices = Voices {
            key: &key,
            service: SERVICE,
            backends: &names,
            interval: INTERVAL,
        };
        let chorus = Chorus::start(&lab, BACKENDS, FAMILY, voices)?;
        let room = Self {
            chorus,
            daemon,
            key,
            names,
            lab,
        };
        room.daemon
            .wait_for("had all backends heard and alive", SOON, |status| {
                daemon::backends(status).iter().all(|b| {
                    b["state"] == "alive" && b["resolved"] == true && b["heard_ms_ago"].is_u64()
                })
            })?;
        Ok(room)
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    /// Begins a flood of everything that is no good heartbeat.
    pub(super) fn flood(&self, per_second: u32) -> anyhow::Result<Flood> {
        let socket = heartbeats::socket(&self.lab, FLOODER, FAMILY)?;
        Flood::start(socket, self.bad_ones()?, per_second)
    }

    /// Every flaw for many backends, heartbeats of theirs that were recorded, and the first of one of them, which began
    /// no session, as often.
    fn bad_ones(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let recorded = self.chorus.recorded();
        let first = recorded.first().context("nothing was recorded")?;
        let mut datagrams = Vec::new();
        for (backend, replayed) in self.names.iter().zip(recorded.iter().rev()).take(VICTIMS) {
            for flaw in Flaw::ALL {
                datagrams.push(flaw.datagram(&self.key, SERVICE, backend)?);
            }
            datagrams.extend([replayed.clone(), first.clone()]);
        }
        Ok(datagrams)
    }

    /// How often the daemon's log says that a backend died.
    pub(super) fn deaths(&self) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.daemon.log())?;
        Ok(log.lines().filter(|line| line.contains(" is dead")).count())
    }
}

/// What the daemon counted of heartbeats for this reason.
pub(super) fn counted(status: &Value, reason: &str) -> u64 {
    status["heartbeats"][reason].as_u64().unwrap_or(0)
}

fn backend(n: u16) -> Backend {
    Backend {
        name: format!("b{n}"),
        address: BACKENDS.address(FAMILY),
        port: FIRST_PORT + n,
        weight: 1,
    }
}
