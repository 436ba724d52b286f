//! The lab of one run: two proxies, the callee they relay to, and what stands before them.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::Context as _;
use sip_forwarder_tests::{
    agent::{Agent, AgentSpec, CpuSource, MasterKey},
    dispatcher::{Dispatcher, Tuning},
    kamailio::{Kamailio, RecordRoute, Relay, UAS_PORT},
    lab::{CpuGroup, Daemon, DaemonSpec, Family, Host, Lab, daemon},
    load::Server,
    sipp::Uas,
};

use super::{
    Health, Settings,
    plan::{Case, Front, Run},
};

const PROXIES: u8 = 2;
const FAMILY: Family = Family::V4;
const SERVICE: &str = "lab";
/// How long agents and probes may take to report all proxies alive.
const ALIVE: Duration = Duration::from_secs(15);

/// All that is alive during a run. It goes in this order.
pub(super) struct Room {
    _front: Standing,
    pub(super) proxies: Vec<Kamailio>,
    _callee: Uas,
    /// The proxies' CPUs, where they are limited.
    pub(super) groups: Vec<CpuGroup>,
    pub(super) lab: Lab,
}

/// What stands before the proxies: one of the two.
#[derive(Default)]
struct Standing {
    _daemon: Option<Daemon>,
    _agents: Vec<Agent>,
    _dispatcher: Option<Dispatcher>,
}

/// The programs a run needs.
#[derive(Clone, Copy)]
pub(super) struct Programs<'a> {
    pub(super) daemon: &'a Path,
    pub(super) xdp: &'a Path,
}

impl Room {
    /// Starts everything and waits until all proxies are in use.
    pub(super) fn start(
        programs: Programs<'_>,
        run: Run,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let lab = Lab::with_callee(PROXIES)?;
        let next = Host::Callee.socket(FAMILY, UAS_PORT);
        let callee = Uas::start_callee(&lab, next, run.retransmission)?;
        let record_route = match run.front {
            Front::Kamailio | Front::KamailioTuned => RecordRoute::Own,
            _ => RecordRoute::Vip,
        };
        let relay = Relay {
            family: FAMILY,
            next,
            record_route,
        };
        let proxies = hosts()
            .map(|host| Kamailio::relaying(&lab, host, &relay))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let cores = match run.case {
            Case::E => settings.cpu_limit,
            Case::A | Case::C => OWN_CORE,
        };
        let groups = limit(&lab, &proxies, cores)?;
        let front = stand_up(&lab, programs, run, settings.health, &proxies)?;
        Ok(Self {
            _front: front,
            proxies,
            _callee: callee,
            groups,
            lab,
        })
    }

    /// The proxies' processes.
    pub(super) fn servers(&self) -> Vec<Server> {
        hosts()
            .zip(&self.proxies)
            .map(|(host, proxy)| Server {
                host,
                pids: proxy.pids(),
            })
            .collect()
    }
}

fn hosts() -> impl Iterator<Item = Host> {
    (1..=PROXIES).map(Host::Proxy)
}

/// A proxy's CPU where nothing is short: one core of its own, so that its agent reports the proxy's load
/// and not that of everybody who shares this machine with it.
const OWN_CORE: f64 = 1.0;

fn limit(lab: &Lab, proxies: &[Kamailio], cores: f64) -> anyhow::Result<Vec<CpuGroup>> {
    hosts()
        .zip(proxies)
        .map(|(host, proxy)| {
            let group = CpuGroup::new(lab, host, cores)?;
            group.add(&proxy.pids())?;
            Ok(group)
        })
        .collect()
}

fn stand_up(
    lab: &Lab,
    programs: Programs<'_>,
    run: Run,
    health: Health,
    proxies: &[Kamailio],
) -> anyhow::Result<Standing> {
    let (policy, alpha) = match run.front {
        Front::OursRr => ("round-robin", None),
        Front::OursHash => ("hash", None),
        Front::OursUngated => ("round-robin", Some(1.0)),
        Front::Kamailio => return dispatcher(lab, Tuning::Default),
        Front::KamailioTuned => return dispatcher(lab, Tuning::Tuned),
    };
    lab.accept_xdp(programs.xdp)?;
    let mut spec = DaemonSpec::of_lab(programs.daemon, lab, FAMILY);
    let service = &mut spec.services[0];
    SERVICE.clone_into(&mut service.name);
    service.health = health.word();
    service.extra = format!("policy = \"{policy}\"\n");
    if let Some(alpha) = alpha {
        // Writing to a String cannot fail.
        let _ = writeln!(service.extra, "[service.gate]\nalpha = {alpha:?}");
    }
    let mut agents = Vec::new();
    if health == Health::Agent {
        let key = MasterKey::new(lab, programs.daemon)?;
        spec.forwarder_extra = key.heartbeats();
        for (host, proxy) in hosts().zip(proxies) {
            agents.push(Agent::start(
                &key,
                &AgentSpec {
                    service: SERVICE,
                    host,
                    family: FAMILY,
                    pid_file: proxy.pid_file(),
                    cpu: CpuSource::Auto,
                },
            )?);
        }
    }
    let daemon = Daemon::start(lab, &spec)?;
    daemon.wait_resolved(ALIVE)?;
    daemon
        .wait_for("had all proxies alive", ALIVE, |status| {
            health == Health::None
                || daemon::backends(status)
                    .iter()
                    .all(|backend| backend["state"] == "alive" && backend["open"] == true)
        })
        .context("the forwarder does not use all proxies")?;
    Ok(Standing {
        _daemon: Some(daemon),
        _agents: agents,
        ..Standing::default()
    })
}

fn dispatcher(lab: &Lab, tuning: Tuning) -> anyhow::Result<Standing> {
    Ok(Standing {
        _dispatcher: Some(Dispatcher::start(lab, FAMILY, tuning)?),
        ..Standing::default()
    })
}
