//! `cargo xtask bench architectures`: how a server in userspace had best divide its work over cores.
//!
//! Servers of all architectures do the same: the product's own step of mode `proxy`, over its own tables. Requests come
//! from two generators, one on each of two cores, as they would by two queues of a network card, and go to two sinks.
//! Generators, sinks and server share these cores, so a server that wastes time has less to send with. The rate is raised
//! until messages are lost; rounds of all architectures are interleaved, and medians count.

mod server;
mod steering;
mod tables;

use std::{net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sip_forwarder_tests::{
    flood::{Generator, Precedence, Sink, take_precedence},
    lab::{Family, Host, Lab, Process, process_tree, vip},
};

use self::server::{Architecture, Task};
use super::slowpath::search::{Excess, Measured, search};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

const FAMILY: Family = Family::V4;
const SIP_PORT: u16 = 5060;
/// Cores of everything.
const CORES: usize = 2;
const START: Duration = Duration::from_secs(10);
/// What is still under way may take this long to arrive.
const DRAIN: Duration = Duration::from_millis(300);
/// A rate is not clean if it was not in so many tries.
const TRIES: u32 = 3;
/// What the product has may take so much more CPU than the best.
const OF_BEST: f64 = 1.15;

/// Messages per second and CPU per message of server architectures around one and the same step.
#[derive(Args)]
pub(crate) struct Architectures {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Only these architectures; all without it.
    #[arg(long = "architecture", value_name = "ARCHITECTURE", value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Architecture>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds for each rate.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    milliseconds: u64,
    #[command(flatten)]
    serving: Serving,
}

/// This process is a server to be measured.
#[derive(Args)]
struct Serving {
    #[arg(long, hide = true, value_enum, requires_all = ["vip", "backends", "cores", "process"])]
    serve: Option<Architecture>,
    #[arg(long, hide = true)]
    vip: Option<SocketAddr>,
    #[arg(long = "backend", hide = true)]
    backends: Vec<SocketAddr>,
    #[arg(long, hide = true, default_value_t = CORES)]
    cores: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    process: usize,
}

impl Serving {
    fn task(&self) -> Option<Task> {
        Some(Task {
            architecture: self.serve?,
            vip: self.vip?,
            backends: self.backends.clone(),
            cores: self.cores,
            process: self.process,
        })
    }
}

/// What was measured of one architecture, round by round.
struct Samples {
    architecture: Architecture,
    rates: Vec<f64>,
    costs: Vec<f64>,
}

#[derive(Serialize)]
struct Row {
    architecture: Architecture,
    messages_per_s: f64,
    us_per_message: f64,
    /// Half of the rounds lie within so much.
    messages_per_s_spread: f64,
    us_per_message_spread: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    rounds: u32,
    cores: usize,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    broken: Vec<String>,
    not_measured: Unmeasured,
}

impl Architectures {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if let Some(task) = self.serving.task() {
            let never = server::serve(&task)?;
            match never {}
        }
        if !is_root() {
            bail!("network namespaces need root: sudo cargo xtask bench architectures");
        }
        if thread::available_parallelism()?.get() < CORES {
            bail!("architectures for several cores need {CORES} cores");
        }
        setup::lab_programs()?;
        let wanted = if self.only.is_empty() {
            Architecture::value_variants()
        } else {
            &self.only
        };
        let mut samples: Vec<Samples> = wanted.iter().map(|a| Samples::new(*a)).collect();
        let program = program::optimized_xtask()?;
        let lab = Lab::new(CORES as u8)?;
        // Servers, generators and sinks are started from here.
        take_precedence(0, Precedence::Program)?;
        let others = Others::watch()?;
        let mut not_measured = Unmeasured::default();
        for round in 0..self.rounds {
            samples.rotate_left(usize::from(round > 0));
            for one in &mut samples {
                let part = format!("{}, round {}", one.architecture.name(), round + 1);
                not_measured.attempt(part, self.sample(&lab, &program, one));
            }
            say(&format!("round {} of {}", round + 1, self.rounds));
        }
        samples.sort_by_key(|one| wanted.iter().position(|a| *a == one.architecture));
        let rows: Vec<Row> = samples.iter().filter_map(Samples::row).collect();
        let others = others.part()?;
        let faults = broken(&rows).into_iter().collect();
        self.show(&Report {
            broken: others::excuse(faults, others, &mut not_measured),
            others,
            rows,
            rounds: self.rounds,
            cores: CORES,
            not_measured,
        })
    }

    fn sample(&self, lab: &Lab, program: &Path, samples: &mut Samples) -> anyhow::Result<()> {
        let architecture = samples.architecture;
        let mut traffic = Traffic::start(lab, program, architecture)?;
        let time = Duration::from_millis(self.milliseconds);
        let (best, _) = search(|rate| traffic.measure_patiently(rate, time))
            .with_context(|| architecture.name().to_owned())?;
        let (rate, cost) = (best.rate(), best.cpu_per_message().as_secs_f64() * 1e6);
        say(&format!(
            "  {:<14} {rate:>8.0} messages/s {cost:>6.2} µs each",
            architecture.name()
        ));
        samples.rates.push(rate);
        samples.costs.push(cost);
        Ok(())
    }

    fn show(&self, report: &Report) -> anyhow::Result<Outcome> {
        eprintln!(
            "\nservers on {} cores, with generators and sinks; medians of {} rounds, ± half the distance of the quartiles\n",
            report.cores, report.rounds
        );
        for row in &report.rows {
            eprintln!(
                "  {:<14} {:>8.0} ± {:<6.0} messages/s {:>6.2} ± {:<5.2} µs of the server's CPU each",
                row.architecture.name(),
                row.messages_per_s,
                row.messages_per_s_spread / 2.0,
                row.us_per_message,
                row.us_per_message_spread / 2.0,
            );
        }
        for fault in &report.broken {
            eprintln!("not kept: {fault}");
        }
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        }
        report.not_measured.show();
        Ok(report.not_measured.outcome(report.broken.is_empty()))
    }
}

/// The product's architecture must not cost much more than the best that works on all cores.
fn broken(rows: &[Row]) -> Option<String> {
    let product = rows
        .iter()
        .find(|row| row.architecture == Architecture::ReusePort)?;
    let best = rows
        .iter()
        .filter(|row| row.architecture != Architecture::EventLoop)
        .min_by(|a, b| a.us_per_message.total_cmp(&b.us_per_message))?;
    (product.us_per_message > best.us_per_message * OF_BEST).then(|| {
        format!(
            "{} takes {:.2} µs for a message, {} only {:.2}",
            product.architecture.name(),
            product.us_per_message,
            best.architecture.name(),
            best.us_per_message
        )
    })
}

impl Samples {
    const fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            rates: Vec::new(),
            costs: Vec::new(),
        }
    }

    /// Returns what all rounds come to; nothing if no round could be measured.
    fn row(&self) -> Option<Row> {
        if self.rates.is_empty() {
            return None;
        }
        let (messages_per_s, messages_per_s_spread) = super::median(&self.rates);
        let (us_per_message, us_per_message_spread) = super::median(&self.costs);
        Some(Row {
            architecture: self.architecture,
            messages_per_s,
            us_per_message,
            messages_per_s_spread,
            us_per_message_spread,
        })
    }
}

/// A server, with generators and sinks around it.
struct Traffic {
    generators: Vec<Generator>,
    sinks: Vec<Sink>,
    pids: Vec<u32>,
    _server: Process,
}

impl Traffic {
    fn start(lab: &Lab, program: &Path, architecture: Architecture) -> anyhow::Result<Self> {
        let to = SocketAddr::new(vip(FAMILY), SIP_PORT);
        let hosts = (1..=CORES as u8).map(Host::Proxy);
        let task = Task {
            architecture,
            vip: to,
            backends: hosts.clone().map(|h| h.socket(FAMILY, SIP_PORT)).collect(),
            cores: CORES,
            process: 0,
        };
        let mut command = lab.command(Host::Forwarder, program)?;
        command.args(server::arguments(&task));
        let log = lab.dir().join(format!("{}.log", architecture.name()));
        let mut server = Process::start(lab, Host::Forwarder, command, &log)?;
        server.wait_for_udp_port(SIP_PORT, START)?;
        let processes = match architecture {
            Architecture::ProcessPool => CORES,
            _ => 1,
        };
        let mut pids = Vec::new();
        let root = server.pid();
        server.wait_until("has all its processes", START, || {
            pids = process_tree::of(root);
            Ok(pids.len() == processes)
        })?;
        Ok(Self {
            sinks: hosts
                .zip(0..)
                .map(|(host, core)| Sink::start(lab, host, FAMILY, SIP_PORT, core))
                .collect::<anyhow::Result<_>>()?,
            generators: (0..CORES as u16)
                .map(|number| Generator::numbered(lab, FAMILY, to, number))
                .collect::<anyhow::Result<_>>()?,
            pids,
            _server: server,
        })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        process_tree::cpu_time(&self.pids).context("the server has ended")
    }

    fn arrived(&self) -> u64 {
        self.sinks.iter().map(Sink::arrived).sum()
    }

    /// Measures again what is not clean: this machine may have paused.
    fn measure_patiently(&mut self, rate: f64, time: Duration) -> anyhow::Result<Measured> {
        let mut measured = self.measure(rate, time)?;
        for _ in 1..TRIES {
            if measured.is_clean() {
                break;
            }
            measured = self.measure(rate, time)?;
        }
        Ok(measured)
    }

    fn measure(&mut self, rate: f64, time: Duration) -> anyhow::Result<Measured> {
        let (cpu, arrived) = (self.cpu()?, self.arrived());
        let share = rate / self.generators.len() as f64;
        let sent = thread::scope(|scope| {
            let senders: Vec<_> = self
                .generators
                .iter_mut()
                .enumerate()
                .map(|(core, generator)| scope.spawn(move || generator.send(share, time, core)))
                .collect();
            senders
                .into_iter()
                .map(|sender| sender.join().map_err(|_| anyhow!("a generator panicked"))?)
                .sum::<anyhow::Result<u64>>()
        })?;
        thread::sleep(DRAIN);
        Ok(Measured {
            wanted: rate,
            sent,
            arrived: self.arrived() - arrived,
            time,
            cpu: self.cpu()?.saturating_sub(cpu),
            excess: Excess::Lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(architecture: Architecture, us_per_message: f64) -> Row {
        Row {
            architecture,
            messages_per_s: 1.0,
            us_per_message,
            messages_per_s_spread: 0.0,
            us_per_message_spread: 0.0,
        }
    }

    #[test]
    fn the_products_architecture_is_near_the_best_on_all_cores() {
        for (product, faults) in [(5.7, false), (5.8, true)] {
            let rows = [
                row(Architecture::EventLoop, 1.0),
                row(Architecture::ThreadPool, 6.0),
                row(Architecture::ReusePort, product),
                row(Architecture::ReusePortCpu, 5.0),
            ];
            assert_eq!(broken(&rows).is_some(), faults, "{product}");
        }
    }
}
