//! `cargo xtask bench sipp`: the highest rate of calls between two `SIPp` at which all goes well, through the forwarder
//! and with nothing between them.
//!
//! Nothing is sent again, so a message that is lost fails its call; and `SIPp` is strict, so one that overtakes another
//! fails it, too. `SIPp` itself is the limit: a rate is clean only if it kept up with it. The searches for both take turns,
//! run by run, and the median of several counts.

mod search;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use sip_forwarder_tests::{
    lab::{Daemon, DaemonSpec, Family, Host, Lab, Shortcut, vip},
    sipp::{CallOptions, Uac, Uas},
};

use self::search::{Run, Search};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

const FAMILY: Family = Family::V4;
const SERVER: Host = Host::Proxy(1);
const SIP_PORT: u16 = 5060;
/// Calls per second that the first search begins with.
const FIRST: u32 = 4_000;
/// The part of the wanted rate that `SIPp` must reach.
const REACHED: f64 = 0.95;
/// How long the last calls may take.
const TAIL: Duration = Duration::from_secs(2);
/// How long the daemon may take to know its next hop.
const RESOLVED: Duration = Duration::from_secs(15);
/// The promised part of what is clean with nothing between.
const RATIO: f64 = 0.95;

/// Highest clean rate of SIPp calls through the forwarder, and with nothing between.
#[derive(Args)]
pub(crate) struct Sipp {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Searches of each; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    searches: u32,
    /// Seconds for each rate.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// This `sip-forwarder` instead of one that is built now.
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
}

/// What is between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// One veth pair.
    Direct,
    /// The forwarder.
    Ours,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
        })
    }
}

#[derive(Serialize)]
struct Report {
    /// Calls per second.
    direct_cps: u32,
    ours_cps: u32,
    /// Nothing without a clean rate of both.
    ratio: Option<f64>,
    /// What each search found.
    direct_searches: Vec<u32>,
    ours_searches: Vec<u32>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    missed: Vec<String>,
    not_measured: Unmeasured,
}

/// The lab, and the forwarder in it.
struct Room {
    _daemon: Daemon,
    lab: Lab,
}

impl Sipp {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("network namespaces and XDP need root: sudo cargo xtask bench sipp");
        }
        setup::lab_programs()?;
        let room = Room::new(program::daemon_or(self.forwarder.as_deref())?)?;
        let mut searches = [Path::Direct, Path::Ours].map(|path| (path, Search::from(FIRST)));
        let (mut direct, mut ours) = (Vec::new(), Vec::new());
        let others = Others::watch()?;
        let mut not_measured = Unmeasured::default();
        for number in 1..=self.searches {
            let part = format!("search {number} of {}", self.searches);
            let result = self.search(&room, &mut searches);
            if not_measured.attempt(part, result).is_none() {
                searches = [Path::Direct, Path::Ours].map(|path| (path, Search::from(FIRST)));
                continue;
            }
            let [found_direct, found_ours] = searches.each_ref().map(|(_, s)| s.highest());
            say(&format!(
                "search {number} of {}: direct {found_direct}, ours {found_ours} calls/s",
                self.searches
            ));
            direct.push(found_direct);
            ours.push(found_ours);
            searches = searches.map(|(path, search)| (path, search.again(FIRST)));
        }
        let (direct_cps, ours_cps) = (median(&direct), median(&ours));
        if direct_cps == 0 {
            not_measured.note(
                "calls per second",
                "no rate was clean without a forwarder; is another load on this machine?",
            );
        }
        let ratio = (direct_cps > 0).then(|| f64::from(ours_cps) / f64::from(direct_cps));
        let others = others.part()?;
        let slow = ratio.filter(|ratio| *ratio < RATIO).map(|ratio| {
            format!("{ratio:.2} of what is clean with nothing between, less than {RATIO}")
        });
        let missed = others::excuse(slow.into_iter().collect(), others, &mut not_measured);
        self.show(&Report {
            direct_cps,
            ours_cps,
            ratio,
            direct_searches: direct,
            ours_searches: ours,
            others,
            missed,
            not_measured,
        })
    }

    /// Both searches by turns, until both are done: what else this machine does meets both.
    fn search(&self, room: &Room, searches: &mut [(Path, Search)]) -> anyhow::Result<()> {
        loop {
            let mut done = true;
            for (path, search) in &mut *searches {
                if let Some(rate) = search.next() {
                    search.tell(self.play(room, *path, rate)?);
                    done = false;
                }
            }
            if done {
                return Ok(());
            }
        }
    }

    fn play(&self, room: &Room, path: Path, rate: u32) -> anyhow::Result<Run> {
        let options = CallOptions {
            calls: rate * self.seconds,
            rate,
            retransmit: false,
            deadline: Duration::from_secs(self.seconds.into()) + TAIL,
            ..CallOptions::default()
        };
        let lab = &room.lab;
        let own = SERVER.socket(FAMILY, SIP_PORT);
        let (_shortcut, to) = match path {
            Path::Direct => (Some(Shortcut::new(lab, Host::Client, SERVER)?), own),
            Path::Ours => (None, SocketAddr::new(vip(FAMILY), SIP_PORT)),
        };
        let _server = Uas::start_strict(lab, SERVER, own)?;
        let report = Uac::start(lab, &options, to)?.finish(&mut |_| {})?;
        let reached = report.successful as f64 / report.elapsed.as_secs_f64().max(f64::EPSILON);
        let clean = report.failed == 0 && reached >= f64::from(rate) * REACHED;
        say(&format!(
            "  {path:<6} {rate:>6}/s: {reached:>6.0}/s reached, {} failed",
            report.failed
        ));
        Ok(if clean { Run::Clean } else { Run::Unclean })
    }

    fn show(&self, report: &Report) -> anyhow::Result<Outcome> {
        eprintln!(
            "\ndirect {:>6} calls/s (searches: {})\nours   {:>6} calls/s (searches: {})\nratio  {:>6.2}",
            report.direct_cps,
            list(&report.direct_searches),
            report.ours_cps,
            list(&report.ours_searches),
            report.ratio.unwrap_or(f64::NAN)
        );
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        }
        for missed in &report.missed {
            eprintln!("not kept: {missed}");
        }
        report.not_measured.show();
        Ok(report.not_measured.outcome(report.missed.is_empty()))
    }
}

impl Room {
    fn new(forwarder: PathBuf) -> anyhow::Result<Self> {
        let lab = Lab::new(1)?;
        let daemon = Daemon::start(&lab, &DaemonSpec::of_lab(forwarder, &lab, FAMILY))?;
        daemon.wait_resolved(RESOLVED)?;
        Ok(Self {
            _daemon: daemon,
            lab,
        })
    }
}

/// The median; 0 without values.
fn median(values: &[u32]) -> u32 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn list(values: &[u32]) -> String {
    let words: Vec<_> = values.iter().map(ToString::to_string).collect();
    words.join(", ")
}
