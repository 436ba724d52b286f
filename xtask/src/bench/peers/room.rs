//! The lab: one client, one box, and one host with two proxies, joined by cables, so that frames come to the box as they
//! do from a network card (see [`Lab::cabled`]), or by plain veth pairs.
//!
//! Each interface has a kernel thread of its own. The box has a core for itself, all else the other one, and both go
//! before what else runs on this machine. What a box costs is the CPU time of the kernel threads of its interfaces and of
//! its processes, to the nanosecond.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use sip_forwarder_tests::{
    balancers::Balancer,
    flood::{Generator, Precedence, Sink, pin_processes, take_precedence},
    lab::{
        Backend, Daemon, DaemonSpec, Family, Host, Lab, NapiThreads, Redirect, process_tree,
        redirect::Way, vip,
    },
    sipp::{CallOptions, Uac, Uas},
};

use super::{Front, Links};
use crate::{program, setup};

const FAMILY: Family = Family::V4;
const SERVERS: Host = Host::Proxy(1);
/// Where the two proxies listen.
const PORTS: [u16; 2] = [5060, 5062];
const VIP_PORT: u16 = 5060;
/// The core of the box.
const BOX_CORE: usize = 0;
/// The core of callers, proxies and their interfaces.
const TRAFFIC_CORE: usize = 1;
/// How long the daemon may take to know its next hops.
const RESOLVED: Duration = Duration::from_secs(15);
/// What is still under way may take this long to arrive.
const DRAIN: Duration = Duration::from_millis(300);
/// How long calls may take beyond the time in which they are begun.
const TAIL: Duration = Duration::from_secs(20);

/// What messages cost a box.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// CPU time of one that went well.
    pub(super) cost: Duration,
    /// The part that did not.
    pub(super) lost: f64,
}

impl Measured {
    fn new(cost: Duration, sent: u64, well: u64) -> anyhow::Result<Self> {
        ensure!(well > 0, "of {sent} nothing went well");
        Ok(Self {
            cost: cost.div_f64(well as f64),
            lost: 1.0 - well as f64 / sent as f64,
        })
    }
}

/// The lab, and the programs that run in it.
pub(super) struct Room {
    lab: Lab,
    threads: NapiThreads,
    daemon: PathBuf,
    xdp: PathBuf,
}

impl Room {
    /// Builds the programs and makes the lab.
    pub(super) fn new(links: Links) -> anyhow::Result<Self> {
        ensure!(
            std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2),
            "the box and what is around it need a core each: two cores or more"
        );
        let daemon = program::daemon()?;
        let xdp = program::bench_programs()?;
        let lab = match links {
            Links::Cable => Lab::cabled(1, &xdp)?,
            Links::Veth => {
                let lab = Lab::new(1)?;
                lab.accept_xdp(&xdp)?;
                lab
            }
        };
        let threads = lab.thread_napi()?;
        threads
            .all()
            .into_iter()
            .try_for_each(|thread| take_precedence(thread, Precedence::Card))?;
        // All that runs in the lab is started from here.
        take_precedence(0, Precedence::Program)?;
        pin_processes(&threads.of(Host::Forwarder), BOX_CORE)?;
        pin_processes(&threads.of_others(Host::Forwarder), TRAFFIC_CORE)?;
        Ok(Self {
            lab,
            threads,
            daemon,
            xdp,
        })
    }

    /// Puts a box between client and proxies.
    pub(super) fn stand_up(&self, front: Front) -> anyhow::Result<Standing> {
        let running = start(self, front).with_context(|| format!("{front} does not start"))?;
        let mut pids = running.pids();
        pin_processes(&pids, BOX_CORE)?;
        pids.extend(self.threads.of(Host::Forwarder));
        Ok(Standing {
            to: front.target(),
            pids,
            _running: running,
        })
    }

    /// Plays calls through a box.
    pub(super) fn calls(
        &self,
        standing: &Standing,
        rate: u32,
        time: Duration,
    ) -> anyhow::Result<Measured> {
        let mut servers = PORTS
            .map(|port| Uas::start(&self.lab, SERVERS, SERVERS.socket(FAMILY, port)))
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
        for server in &mut servers {
            pin_processes(&[server.process().pid()], TRAFFIC_CORE)?;
        }
        let options = CallOptions {
            calls: rate * time.as_secs() as u32,
            rate,
            deadline: time + TAIL,
            ..CallOptions::default()
        };
        let before = standing.cpu()?;
        let caller = Uac::start(&self.lab, &options, standing.to)?;
        pin_processes(&[caller.pid()], TRAFFIC_CORE)?;
        let report = caller.finish(&mut |_| {})?;
        let cost = standing.cpu()?.saturating_sub(before);
        Measured::new(cost, options.calls.into(), report.successful)
    }

    /// Sends INVITEs through a box that nobody answers.
    pub(super) fn invites(
        &self,
        standing: &Standing,
        rate: f64,
        time: Duration,
    ) -> anyhow::Result<Measured> {
        let sinks = PORTS
            .map(|port| Sink::start(&self.lab, SERVERS, FAMILY, port, TRAFFIC_CORE))
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut generator = Generator::new(&self.lab, FAMILY, standing.to)?;
        let before = standing.cpu()?;
        let sent = generator.send(rate, time, TRAFFIC_CORE)?;
        std::thread::sleep(DRAIN);
        let cost = standing.cpu()?.saturating_sub(before);
        let arrived: u64 = sinks.iter().map(Sink::arrived).sum();
        Measured::new(cost, sent, arrived)
    }
}

/// A box in its place, until dropped.
pub(super) struct Standing {
    to: SocketAddr,
    pids: Vec<u32>,
    _running: Running,
}

impl Standing {
    fn cpu(&self) -> anyhow::Result<Duration> {
        process_tree::cpu_time(&self.pids).context("a process of the box has ended")
    }
}

/// What makes the namespace in the middle a box.
enum Running {
    /// Nothing: the kernel routes.
    Kernel,
    Ours(Daemon),
    Other(Balancer),
    Redirects {
        _both: [Redirect; 2],
    },
}

impl Running {
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Kernel | Self::Redirects { .. } => Vec::new(),
            Self::Ours(daemon) => daemon.pid().map(process_tree::of).unwrap_or_default(),
            Self::Other(balancer) => balancer.pids(),
        }
    }
}

impl Front {
    /// Where callers send to.
    fn target(self) -> SocketAddr {
        match self {
            Self::Direct | Self::BareXdp => SERVERS.socket(FAMILY, PORTS[0]),
            _ => SocketAddr::new(vip(FAMILY), VIP_PORT),
        }
    }
}

fn start(room: &Room, front: Front) -> anyhow::Result<Running> {
    let lab = &room.lab;
    let proxies = PORTS.map(|port| SERVERS.socket(FAMILY, port));
    Ok(match front {
        Front::Ours => Running::Ours(ours(room, &proxies)?),
        Front::Direct => Running::Kernel,
        Front::Nft => {
            setup::nft()?;
            Running::Other(Balancer::nft(lab, &proxies)?)
        }
        Front::Nginx => {
            setup::nginx()?;
            Running::Other(Balancer::nginx(lab, &proxies)?)
        }
        Front::Kamailio => Running::Other(Balancer::kamailio(lab, &proxies)?),
        Front::BareXdp => Running::Redirects {
            _both: [
                redirect(room, Host::Client, SERVERS)?,
                redirect(room, SERVERS, Host::Client)?,
            ],
        },
    })
}

fn ours(room: &Room, proxies: &[SocketAddr]) -> anyhow::Result<Daemon> {
    let mut spec = DaemonSpec::of_lab(&room.daemon, &room.lab, FAMILY);
    spec.services[0].backends = (1..)
        .zip(proxies)
        .map(|(number, proxy)| Backend {
            name: format!("p{number}"),
            address: proxy.ip(),
            port: proxy.port(),
            weight: 1,
        })
        .collect();
    let daemon = Daemon::start(&room.lab, &spec)?;
    daemon.wait_resolved(RESOLVED)?;
    Ok(daemon)
}

/// What comes from one host goes to the other, as it is.
fn redirect(room: &Room, from: Host, to: Host) -> anyhow::Result<Redirect> {
    let interface = |host: Host| host.forwarder_interface().context("a host without a link");
    let way = Way {
        from: &interface(from)?,
        to: &interface(to)?,
        macs: (to.mac(), to.forwarder_mac()),
    };
    Redirect::attach(&room.lab, &room.xdp, Host::Forwarder, &way)
}
