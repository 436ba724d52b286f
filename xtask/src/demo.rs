//! `cargo xtask demo`: the lab, the real daemon, real calls, and what became of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use sip_forwarder_tests::{
    calls::BackendCalls,
    certificates::Authority,
    kamailio::Kamailio,
    lab::{Daemon, DaemonSpec, Family, Host, Lab},
    sipp::{self, CallOptions, CallReport, Progress, Uas},
    stream::{
        Target, TlsClient, Transport,
        load::{Load, LoadOptions},
    },
};

use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// Calls may take this long after the last one began.
const GRACE: Duration = Duration::from_secs(20);
/// How long the next hops may take to be resolved; in the lab they are permanent.
const RESOLVE: Duration = Duration::from_secs(5);
/// Connections that WebSocket calls go over.
const CONNECTIONS: u32 = 100;

/// Play real calls through XDP, in network namespaces, and tell what became of them.
#[derive(Args)]
pub(crate) struct Demo {
    /// How many calls.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// How many calls begin each second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// How many proxies; as many as there are weights, if those are given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
    backends: Option<u8>,
    /// The proxies' weights, one for each: 1,2,1.
    #[arg(long, value_delimiter = ',')]
    weights: Vec<u16>,
    /// What the proxies are.
    #[arg(long, value_enum, default_value_t = BackendKind::Sipp)]
    backend: BackendKind,
    /// What the calls come by. With anything but UDP the workers carry them, in mode proxy, and the proxies get UDP.
    #[arg(long, value_enum, default_value_t = By::Udp)]
    transport: By,
    /// Everything over IPv6.
    #[arg(long)]
    ipv6: bool,
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
}

/// What the proxies are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendKind {
    /// SIPp answers the calls itself.
    Sipp,
    /// Kamailio relays them to a SIPp on the same host.
    Kamailio,
}

/// What the calls come by.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Datagrams, through XDP.
    Udp,
    /// One TCP connection.
    Tcp,
    /// TLS, which a stunnel does for SIPp.
    Tls,
    /// Many WebSocket connections.
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

/// What became of the calls.
#[derive(Serialize)]
struct Summary {
    calls: u64,
    failed: u64,
    retransmissions: u64,
    split_calls: u64,
    messages: Messages,
    backends: Vec<BackendCalls>,
    xdp_mode: String,
    seconds: f64,
}

/// Messages sent on by each path, both directions.
#[derive(Clone, Copy, Default, Serialize)]
struct Messages {
    fast: u64,
    slow: u64,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let backends = self.backend_count()?;
        let (lab, mut spec) = if is_root() {
            self.in_namespaces(backends)?
        } else {
            self.on_loopback(backends)?
        };
        let target = self.connect(&lab, &mut spec)?;
        for (backend, &weight) in spec.services[0].backends.iter_mut().zip(&self.weights) {
            backend.weight = u32::from(weight);
        }
        let proxies = Proxies::start(&lab, self.backend, self.family())?;
        let daemon = Daemon::start(&lab, &spec)?;
        daemon.wait_resolved(RESOLVE)?;
        say(&format!(
            "lab up: 1 caller, 1 forwarder, {backends} proxies; {} calls at {}/s",
            self.calls, self.rate
        ));
        let report = self.play(&lab, &target, &proxies)?;
        let summary = summarize(&report, &daemon.status()?)?;
        drop(daemon);
        self.show(&summary)?;
        let good = summary.failed == 0 && summary.split_calls == 0;
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }

    /// Has the daemon listen by the transport, and gives where that is.
    fn connect(&self, lab: &Lab, spec: &mut DaemonSpec) -> anyhow::Result<Target> {
        let transport = self.transport.transport();
        let vip = lab.vip(self.family());
        let mut target = Target {
            transport,
            address: (vip, transport.port()).into(),
            tls: None,
        };
        if transport == Transport::Udp {
            return Ok(target);
        }
        spec.userspace = true;
        let listen = format!(
            "mode = \"proxy\"\n[[service.listen]]\ntransport = \"{transport}\"\nport = {}\n",
            transport.port()
        );
        spec.services[0].extra = listen;
        if transport.is_secure() {
            let authority = Authority::new(&lab.dir(), "authority")?;
            let server = authority.server("server", &[&vip.to_string()])?;
            spec.services[0].extra += "[service.tls]\n";
            spec.services[0].extra += &server.as_toml();
            target.tls = Some(TlsClient {
                authority: authority.file().to_owned(),
                name: None,
                certificate: None,
            });
        }
        Ok(target)
    }

    /// XDP, in network namespaces.
    fn in_namespaces(&self, backends: u8) -> anyhow::Result<(Lab, DaemonSpec)> {
        setup::lab_programs()?;
        let daemon = program::daemon()?;
        let lab = Lab::new(backends)?;
        lab.accept_xdp(&program::bench_programs()?)?;
        let spec = DaemonSpec::of_lab(daemon, &lab, self.family());
        Ok((lab, spec))
    }

    /// The workers alone, on the loopback: what can be had without root.
    fn on_loopback(&self, backends: u8) -> anyhow::Result<(Lab, DaemonSpec)> {
        if self.ipv6 || self.backend == BackendKind::Kamailio {
            bail!(
                "--ipv6 and --backend kamailio need network namespaces, so root: sudo cargo xtask demo"
            );
        }
        say(
            "not root: the workers forward alone, in mode proxy on the loopback. With root the calls go through XDP, in network namespaces: sudo cargo xtask demo",
        );
        setup::sipp()?;
        if self.transport == By::Tls {
            setup::stunnel()?;
        }
        let daemon = program::userspace_daemon()?;
        let lab = Lab::on_loopback(backends)?;
        let mut spec = DaemonSpec::of_lab(daemon, &lab, Family::V4);
        spec.userspace = true;
        spec.services[0].extra = "mode = \"proxy\"\n".into();
        Ok((lab, spec))
    }

    const fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    fn backend_count(&self) -> anyhow::Result<u8> {
        let weights =
            u8::try_from(self.weights.len()).context("too many weights; give at most 32")?;
        match (self.backends, weights) {
            (None, 0) => Ok(3),
            (None, weights) => Ok(weights),
            (Some(backends), weights) if weights == 0 || weights == backends => Ok(backends),
            (Some(backends), weights) => {
                bail!("{weights} weights for {backends} backends; give one for each")
            }
        }
    }

    fn play(&self, lab: &Lab, target: &Target, proxies: &Proxies) -> anyhow::Result<CallReport> {
        let bar = ProgressBar::new(u64::from(self.calls)).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} calls  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let mut show = |progress: Progress| {
            bar.set_position(progress.completed());
            bar.set_message(format!(
                "{} failed, {} sent again",
                progress.failed, progress.retransmissions
            ));
        };
        let report = match self.transport {
            By::Ws => self.by_our_callers(lab, target, &mut show),
            By::Udp | By::Tcp | By::Tls => self.by_sipp(lab, target, &mut show),
        };
        bar.finish_and_clear();
        report?.with_backends(&proxies.logs())
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(u64::from(self.calls / self.rate)) + GRACE
    }

    fn by_sipp(
        &self,
        lab: &Lab,
        target: &Target,
        show: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<CallReport> {
        let options = CallOptions {
            calls: self.calls,
            rate: self.rate,
            family: self.family(),
            deadline: self.deadline(),
            ..CallOptions::default()
        };
        sipp::Uac::start_by(lab, &options, target)?.finish(show)
    }

    /// SIPp speaks no WebSocket.
    fn by_our_callers(
        &self,
        lab: &Lab,
        target: &Target,
        show: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<CallReport> {
        let options = LoadOptions {
            calls: self.calls,
            rate: self.rate,
            connections: CONNECTIONS.min(self.calls),
            hold: Duration::ZERO,
            deadline: self.deadline(),
        };
        let load = Load::start(lab, Host::Client, target, &options)?;
        Ok(load.finish(show)?.calls)
    }

    fn show(&self, summary: &Summary) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(summary)?);
        } else {
            print!("{}", self.table(summary));
        }
        Ok(())
    }

    fn table(&self, s: &Summary) -> String {
        let all = (s.messages.fast + s.messages.slow).max(1);
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        let mut text = format!(
            "\n{} calls in {:.1} s (INVITE 100 180 200 ACK BYE 200)\n\n\
             \x20 failed            {:>8}\n\
             \x20 sent again        {:>8}   (a message was lost or late)\n\
             \x20 torn              {:>8}   (messages of one call at two proxies)\n\
             \x20 by XDP            {:>8}   messages, {:.2} %, {} mode\n\
             \x20 by the workers    {:>8}   messages\n\n",
            s.calls,
            s.seconds,
            s.failed,
            s.retransmissions,
            s.split_calls,
            s.messages.fast,
            percent(s.messages.fast, all),
            s.xdp_mode,
            s.messages.slow
        );
        let weights: u64 = self.weights.iter().map(|&w| u64::from(w)).sum();
        for (index, backend) in s.backends.iter().enumerate() {
            let share = percent(backend.calls as u64, s.calls);
            let wanted = match self.weights.get(index) {
                Some(&weight) => percent(u64::from(weight), weights),
                None => 100.0 / s.backends.len() as f64,
            };
            let line = format!(
                "  {:<16}  {:>8}   calls, {share:.1} % (its weight: {wanted:.1} %)\n",
                backend.name, backend.calls
            );
            text.push_str(&line);
        }
        text
    }
}

/// The proxies of a demo, alive as long as this.
enum Proxies {
    Sipp(Vec<Uas>),
    Kamailio(Vec<Kamailio>),
}

impl Proxies {
    fn start(lab: &Lab, kind: BackendKind, family: Family) -> anyhow::Result<Self> {
        Ok(match kind {
            BackendKind::Sipp => Self::Sipp(Uas::start_all(lab, family)?),
            BackendKind::Kamailio => Self::Kamailio(Kamailio::start_all(lab, family)?),
        })
    }

    fn logs(&self) -> Vec<sip_forwarder_tests::calls::CallLog> {
        match self {
            Self::Sipp(all) => all.iter().map(Uas::call_log).collect(),
            Self::Kamailio(all) => all.iter().map(Kamailio::call_log).collect(),
        }
    }
}

/// Puts SIPp's report and the daemon's counters together.
fn summarize(report: &CallReport, status: &Value) -> anyhow::Result<Summary> {
    let count = |path: &str| {
        status["messages"][path]
            .as_u64()
            .context("the daemon's status lacks messages")
    };
    Ok(Summary {
        calls: report.created,
        failed: report.failed,
        retransmissions: report.retransmissions,
        split_calls: report.split_calls,
        messages: Messages {
            fast: count("fast")?,
            slow: count("slow")?,
        },
        backends: report.backends.clone(),
        xdp_mode: status["xdp_mode"].as_str().unwrap_or("none").to_owned(),
        seconds: report.seconds,
    })
}
