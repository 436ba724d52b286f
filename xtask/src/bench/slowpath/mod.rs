//! `cargo xtask bench slowpath`: what a message costs in userspace. A box on the VIP, on one core, sends requests of
//! some 500 bytes on to a sink; generator and sink have the other core. The rate is raised until messages are lost.
//! The same over 100 connections of TCP, TLS and WebSocket ([`streams`]), with the memory of connections that do
//! nothing; and what calls feel of attackers beside them ([`attack`]).
//!
//! The CPU of a message is what the kernel says all processes of the box had (`schedstat`), at the highest rate that
//! was clean, divided by the messages that arrived.

mod attack;
pub(super) mod search;
mod streams;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sip_forwarder_tests::{
    flood::{Generator, Sink, pin_processes},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, process_tree, vip},
    stateless::Stateless,
    stream::Transport,
};

use self::{
    attack::Attacked,
    search::{Excess, Measured, search},
    streams::Idle,
};
use super::{others::Others, unmeasured::Unmeasured};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

const FAMILY: Family = Family::V4;
const SIP_PORT: u16 = 5060;
/// The core of the box.
const BOX_CORE: usize = 0;
/// The core of generator and sink.
const TRAFFIC_CORE: usize = 1;
/// What is still under way may take this long to arrive.
const DRAIN: Duration = Duration::from_millis(300);

/// Messages per second and CPU per message of a box in userspace that sends everything on.
#[derive(Args)]
pub(crate) struct Slowpath {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Only these boxes; all without it.
    #[arg(long = "box", value_enum, num_args = 1.., value_delimiter = ',')]
    boxes: Vec<Front>,
    /// Only these transports; all without it.
    #[arg(long = "transport", value_enum, num_args = 1.., value_delimiter = ',')]
    transports: Vec<By>,
    /// Without the calls beside attackers.
    #[arg(long)]
    no_attack: bool,
    /// Seconds for each rate.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// A box before the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Front {
    /// One worker of ours, in mode `proxy`, without XDP.
    Ours,
    /// Kamailio, stateless `forward()`, one child.
    Kamailio,
    /// nginx, stream proxy, one worker.
    Nginx,
}

/// What was chosen, or all there is.
fn chosen<T: ValueEnum>(named: &[T]) -> &[T] {
    if named.is_empty() {
        T::value_variants()
    } else {
        named
    }
}

impl Front {
    /// Is there something to compare? Of the others, Kamailio's TCP.
    fn carries(self, by: By) -> bool {
        match self {
            Self::Ours => true,
            Self::Kamailio => matches!(by, By::Udp | By::Tcp),
            Self::Nginx => by == By::Udp,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Kamailio => "kamailio",
            Self::Nginx => "nginx",
        }
    }
}

/// What messages come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// Datagrams.
    Udp,
    /// 100 connections of TCP.
    Tcp,
    /// 100 connections of TLS.
    Tls,
    /// 100 connections of WebSocket.
    Ws,
}

impl By {
    const fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Ws => Transport::Ws,
        }
    }
}

#[derive(Serialize)]
struct Row {
    #[serde(rename = "box")]
    front: Front,
    transport: &'static str,
    msgs_per_s: f64,
    us_per_msg: f64,
    /// Did the box lose messages at higher rates, or could the generator send no more?
    limited_by: search::Limit,
    /// What connections without traffic cost; of ours only.
    #[serde(flatten)]
    idle: Option<Idle>,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    attack: Option<Attacked>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    not_measured: Unmeasured,
}

impl Slowpath {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("network namespaces need root: sudo cargo xtask bench slowpath");
        }
        setup::lab_programs()?;
        let boxes = chosen(&self.boxes);
        let (mut rows, mut not_measured) = (Vec::new(), Unmeasured::default());
        let others = Others::watch()?;
        for &by in chosen(&self.transports) {
            for &front in boxes.iter().filter(|front| front.carries(by)) {
                rows.extend(self.row(front, by, &mut not_measured));
            }
        }
        let ours = boxes.contains(&Front::Ours);
        let attack = if ours && !self.no_attack {
            not_measured.attempt("calls beside attackers", attack::measure())
        } else {
            None
        };
        let report = Report {
            rows,
            attack,
            others: others.part()?,
            not_measured,
        };
        self.show(&report)?;
        Ok(report.not_measured.outcome(true))
    }

    /// One box over one transport, and what idle connections cost there.
    fn row(&self, front: Front, by: By, not_measured: &mut Unmeasured) -> Option<Row> {
        let transport = by.transport();
        let part = format!("{} over {transport}", front.name());
        say(&format!("measuring {part}"));
        let has_idle = front == Front::Ours && by != By::Udp;
        let idle = has_idle
            .then(|| streams::measure_idle(transport))
            .and_then(|idle| {
                not_measured.attempt(format!("idle connections over {transport}"), idle)
            });
        let row = match by {
            By::Udp => self.measure(front),
            _ => streams::measure(front, transport, self.time()),
        };
        let row = not_measured.attempt(part, row)?;
        Some(Row { idle, ..row })
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn measure(&self, front: Front) -> anyhow::Result<Row> {
        let lab = Lab::new(1)?;
        let standing = start(&lab, front)?;
        let pids = standing.pids();
        pin_processes(&pids, BOX_CORE)?;
        let mut traffic = Traffic::new(&lab, pids)?;
        let time = self.time();
        let (best, limited_by) = search(|rate| traffic.measure(rate, time))?;
        Ok(Row {
            front,
            transport: "udp",
            msgs_per_s: best.rate(),
            us_per_msg: best.cpu_per_message().as_secs_f64() * 1e6,
            limited_by,
            idle: None,
        })
    }

    fn show(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        for row in &report.rows {
            let limit = match row.limited_by {
                search::Limit::Box => "",
                search::Limit::Generator => " (the generator could send no more)",
            };
            let idle = row.idle.as_ref().map(Idle::to_string).unwrap_or_default();
            println!(
                "{:10} {:4} {:>8.0} messages/s  {:>6.2} µs each{limit}{idle}",
                row.front.name(),
                row.transport,
                row.msgs_per_s,
                row.us_per_msg
            );
        }
        if let Some(attack) = &report.attack {
            println!("{attack}");
        }
        for line in report.not_measured.lines() {
            println!("{line}");
        }
        Ok(())
    }
}

/// A box that stands on the VIP.
enum Standing {
    Ours(Daemon),
    Other(Stateless),
}

impl Standing {
    /// All of its processes.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Ours(daemon) => daemon.pid().map(process_tree::of).unwrap_or_default(),
            Self::Other(stateless) => stateless.pids(),
        }
    }
}

/// Starts a box on the VIP.
fn start(lab: &Lab, front: Front) -> anyhow::Result<Standing> {
    let next = Host::Proxy(1).socket(FAMILY, SIP_PORT);
    Ok(match front {
        Front::Ours => Standing::Ours(ours(lab)?),
        Front::Kamailio => Standing::Other(Stateless::kamailio(lab, FAMILY, next)?),
        Front::Nginx => {
            setup::nginx()?;
            Standing::Other(Stateless::nginx(lab, FAMILY, next)?)
        }
    })
}

/// The daemon without XDP, with one worker.
fn ours(lab: &Lab) -> anyhow::Result<Daemon> {
    let mut spec = DaemonSpec::of_lab(program::daemon()?, lab, FAMILY);
    spec.userspace = true;
    spec.forwarder_extra = "workers = 1\n".into();
    spec.services[0].extra = "mode = \"proxy\"\n".into();
    Daemon::start(lab, &spec)
}

/// Generator and sink around a box.
struct Traffic {
    generator: Generator,
    sink: Sink,
    pids: Vec<u32>,
}

impl Traffic {
    fn new(lab: &Lab, pids: Vec<u32>) -> anyhow::Result<Self> {
        let to = std::net::SocketAddr::new(vip(FAMILY), SIP_PORT);
        Ok(Self {
            sink: Sink::start(lab, Host::Proxy(1), FAMILY, SIP_PORT, TRAFFIC_CORE)?,
            generator: Generator::new(lab, FAMILY, to)?,
            pids,
        })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        process_tree::cpu_time(&self.pids).context("a process of the box has ended")
    }

    fn measure(&mut self, rate: f64, time: Duration) -> anyhow::Result<Measured> {
        let (cpu, arrived) = (self.cpu()?, self.sink.arrived());
        let sent = self.generator.send(rate, time, TRAFFIC_CORE)?;
        std::thread::sleep(DRAIN);
        let measured = Measured {
            wanted: rate,
            sent,
            arrived: self.sink.arrived() - arrived,
            time,
            cpu: self.cpu().map(|now| now.saturating_sub(cpu))?,
            excess: Excess::Lost,
        };
        say(&format!("  {measured}"));
        Ok(measured)
    }
}
