//! Messages over many connections, and connections without messages.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use sip_forwarder_tests::{
    certificates::Authority,
    flood::{Sink, pin_processes},
    lab::{Daemon, DaemonSpec, Host, Lab, process_tree, vip},
    stateless::Stateless,
    stream::{Target, TlsClient, Transport, flood::Connections},
};

use super::{
    BOX_CORE, DRAIN, FAMILY, Front, Row, SIP_PORT, Standing, TRAFFIC_CORE,
    search::{Excess, Measured, search},
};
use crate::{program, shell::say};

/// Connections that messages come by.
const BUSY: usize = 100;
/// Connections that do nothing.
const IDLE: usize = 10_000;
/// The sink has all once nothing came for so long.
const QUIET: Duration = Duration::from_millis(200);
/// What waits on connections may take this long to arrive.
const REST: Duration = Duration::from_secs(20);
/// The benchmark's connections all come from one address.
const LIMITS: &str = "workers = 1\n[connections]\nper_source = 20000\nhalf_open = 20000\n";

/// What connections without traffic cost.
#[derive(Serialize)]
pub(super) struct Idle {
    /// How many there were. Each had asked for something and got the answer.
    idle_connections: usize,
    /// How much more memory the daemon had in RAM, in MB. What the kernel keeps for each is not in it.
    idle_mb: f64,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "; {} idle connections: {:.1} MB",
            self.idle_connections, self.idle_mb
        )
    }
}

/// One box, over one transport.
pub(super) fn measure(front: Front, transport: Transport, time: Duration) -> anyhow::Result<Row> {
    let lab = Lab::new(1)?;
    let (standing, target) = start(&lab, front, transport)?;
    let pids = standing.pids();
    pin_processes(&pids, BOX_CORE)?;
    let mut traffic = Traffic {
        sink: Sink::start(&lab, Host::Proxy(1), FAMILY, SIP_PORT, TRAFFIC_CORE)?,
        connections: Connections::open(&lab, Host::Client, &target, BUSY)?,
        pids,
    };
    let (best, limited_by) = search(|rate| traffic.measure(rate, time))?;
    Ok(Row {
        front,
        transport: transport.name(),
        msgs_per_s: best.rate(),
        us_per_msg: best.cpu_per_message().as_secs_f64() * 1e6,
        limited_by,
        idle: None,
    })
}

fn start(lab: &Lab, front: Front, transport: Transport) -> anyhow::Result<(Standing, Target)> {
    let next = Host::Proxy(1).socket(FAMILY, SIP_PORT);
    match front {
        Front::Ours => {
            let (daemon, target) = ours(lab, transport)?;
            Ok((Standing::Ours(daemon), target))
        }
        Front::Kamailio if transport == Transport::Tcp => {
            let stateless = Stateless::kamailio_over_tcp(lab, FAMILY, next)?;
            Ok((Standing::Other(stateless), target(transport)))
        }
        _ => bail!("{} is not measured over {transport}", front.name()),
    }
}

fn target(transport: Transport) -> Target {
    Target {
        transport,
        address: SocketAddr::new(vip(FAMILY), transport.port()),
        tls: None,
    }
}

/// The daemon without XDP, with one worker, and where it listens.
pub(super) fn ours(lab: &Lab, transport: Transport) -> anyhow::Result<(Daemon, Target)> {
    let mut target = target(transport);
    let mut spec = DaemonSpec::of_lab(program::daemon()?, lab, FAMILY);
    spec.userspace = true;
    spec.forwarder_extra = LIMITS.into();
    let service = &mut spec.services[0];
    service.extra = format!(
        "mode = \"proxy\"\n[[service.listen]]\ntransport = \"{transport}\"\nport = {}\n",
        transport.port()
    );
    if transport.is_secure() {
        let authority = Authority::new(&lab.dir(), "authority")?;
        let server = authority.server("server", &[&vip(FAMILY).to_string()])?;
        service.extra += "[service.tls]\n";
        service.extra += &server.as_toml();
        target.tls = Some(TlsClient {
            authority: authority.file().to_owned(),
            name: None,
            certificate: None,
        });
    }
    Ok((Daemon::start(lab, &spec)?, target))
}

/// What connections without traffic cost the daemon.
pub(super) fn measure_idle(transport: Transport) -> anyhow::Result<Idle> {
    let lab = Lab::new(1)?;
    let (daemon, target) = ours(&lab, transport)?;
    let pid = daemon.pid().context("the daemon has ended")?;
    let memory = || process_tree::resident(pid).context("the daemon has ended");
    let before = memory()?;
    let connections = Connections::open_used(&lab, Host::Client, &target, IDLE)?;
    let grown = memory()?.saturating_sub(before);
    let idle = Idle {
        idle_connections: connections.count(),
        idle_mb: grown as f64 / 1e6,
    };
    say(&format!("  {idle}"));
    Ok(idle)
}

/// Connections and sink around a box.
struct Traffic {
    connections: Connections,
    sink: Sink,
    pids: Vec<u32>,
}

impl Traffic {
    fn cpu(&self) -> anyhow::Result<Duration> {
        process_tree::cpu_time(&self.pids).context("a process of the box has ended")
    }

    fn measure(&mut self, rate: f64, time: Duration) -> anyhow::Result<Measured> {
        let (cpu, before) = (self.cpu()?, self.sink.arrived());
        let (sent, time) = self.connections.send(rate, time, TRAFFIC_CORE)?;
        std::thread::sleep(DRAIN);
        let measured = Measured {
            wanted: rate,
            sent,
            arrived: self.sink.arrived() - before,
            time,
            cpu: self.cpu()?.saturating_sub(cpu),
            excess: Excess::Waits,
        };
        say(&format!("  {measured}"));
        self.wait_for_rest();
        Ok(measured)
    }

    /// What still waits would be taken for the next rate's.
    fn wait_for_rest(&self) {
        let end = Instant::now() + REST;
        let mut last = self.sink.arrived();
        while Instant::now() < end {
            std::thread::sleep(QUIET);
            let now = self.sink.arrived();
            if now == last {
                return;
            }
            last = now;
        }
    }
}
