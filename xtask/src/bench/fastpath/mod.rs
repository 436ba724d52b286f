//! `cargo xtask bench fastpath`: nanoseconds per packet, by `BPF_PROG_TEST_RUN`.
//!
//! The baseline is a program that swaps the MAC addresses and sends the frame back, timed in the
//! same rounds. A packet is seen again as the program left it, so backends listen on the VIP itself:
//! the rewrite is done in full and changes nothing but the time to live, which lasts for a round.
//! `mixed` is the mean of many packets, each in runs of its own like the others. `mixed-in-turn` gives the
//! same packets one after the other, which the processor cannot foresee: nothing is promised of it.
//!
//! The affinity map is as full as its promise: entries of other calls, in all slots but those of the
//! calls that are timed, which are at home.

//! With `--against REV` the program of an older revision is timed in the same rounds, cases and programs in a random
//! order, and each case's ratio of new to old is judged by its confidence interval.

mod against;
mod cases;
mod mixed;
mod packets;
mod subject;

use std::{collections::HashSet, net::SocketAddr, path::Path};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use sip_forwarder::{config::Config, dataplane::environment};
use sip_forwarder_tests::{
    baseline::Baseline,
    lab::{Family, Host, Lab, vip},
    messages,
    program::{Program, config_of, nat_service},
};

use self::{against::Against, cases::Cases, subject::Subject};
use super::{
    others::{self, Others},
    timings::Timings,
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program,
    revision::Revision,
    setup,
    shell::{is_root, say},
};

/// Runs in a row: fewer than a packet's hop limit.
const REPEAT: u32 = 200;
const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
/// Proxies in the tables.
const BACKENDS: u8 = 3;
/// Entries in the affinity map.
const AFFINITY_ENTRIES: u32 = 1_000_000;

/// The highest promised ratio to the baseline, by case.
const PROMISED: [(&str, f64); 7] = [
    ("invite", 12.0),
    ("bye", 12.0),
    ("ok", 12.0),
    ("invite-long", 22.0),
    ("mixed", 13.0),
    ("return", 8.0),
    ("return-request", 14.0),
];
/// How much more than IPv4 a case may cost with IPv6.
const V6_MORE: f64 = 1.1;
/// Instructions that the verifier may go through.
const VERIFIER_BUDGET: u32 = 250_000;

/// Nanoseconds per packet in the XDP program, and what the verifier made of it.
#[derive(Args)]
pub(crate) struct Fastpath {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Rounds; the median counts. 31 without it, and 101 with --against, whose intervals more rounds make narrow.
    #[arg(long, value_parser = clap::value_parser!(u32).range(7..=100_000))]
    rounds: Option<u32>,
    /// Compare with the program of this revision, such as a commit id; 1 if a case is clearly slower.
    #[arg(long, value_name = "REV")]
    against: Option<String>,
}

#[derive(Serialize)]
struct Report {
    baseline_ns: f64,
    cases: Vec<Case>,
    verified_insns: u32,
    jitted_bytes: u32,
    affinity_entries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    /// Promises that were not met.
    missed: Vec<String>,
    not_measured: Unmeasured,
}

#[derive(Serialize)]
struct Case {
    name: String,
    ns: f64,
    ratio: f64,
    /// Half of the rounds lie within this many nanoseconds.
    spread_ns: f64,
}

impl Fastpath {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("BPF_PROG_TEST_RUN needs root: sudo cargo xtask bench fastpath");
        }
        setup::lab_programs()?;
        let objects = (program::program()?, program::bench_programs()?);
        let revision = self.against.as_deref().map(Revision::find).transpose()?;
        // The way back asks the kernel's routing table: that of the lab's forwarder.
        let lab = Lab::new(1)?;
        say(&format!(
            "{} rounds of {REPEAT} runs each, interleaved",
            self.rounds()
        ));
        let report = lab.enter(Host::Forwarder, || {
            self.measure((&objects.0, &objects.1), revision.as_ref())
        })??;
        report.show();
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        Ok(report.not_measured.outcome(report.missed.is_empty()))
    }

    fn rounds(&self) -> u32 {
        let alone = if self.against.is_some() { 101 } else { 31 };
        self.rounds.unwrap_or(alone)
    }

    fn measure(
        &self,
        (object, helpers): (&Path, &Path),
        revision: Option<&Revision>,
    ) -> anyhow::Result<Report> {
        let mut subjects = vec![Subject::present(object, config())?];
        if let Some(revision) = revision {
            subjects.push(Subject::of_revision(revision, config())?);
        }
        let client = environment::interface_index("to-client").context("no to-client")?;
        say("filling the affinity map");
        for subject in &mut subjects {
            subject.prepare(client, AFFINITY_ENTRIES, &slots())?;
        }
        let mut all = Cases::new(subjects, Baseline::load(helpers)?, helpers)?;
        all.attach(&["to-client", "to-p1"])?;
        let others = Others::watch()?;
        for _ in 0..self.rounds() {
            all.round()?;
        }
        let others = others.part()?;
        all.timed.sort_by_key(|timed| order(&timed.name));
        let baseline_ns = all.baseline_timings.median();
        let cases: Vec<Case> = all
            .timed
            .iter()
            .filter_map(|timed| {
                let timings = timed.timings.first()?;
                Some(Case::new(timed.name.clone(), timings, baseline_ns))
            })
            .collect();
        let against = revision
            .map(|revision| Against::new(revision.commit(), &all.timed))
            .transpose()?;
        let (verified_insns, jitted_bytes) = all.present()?.size()?;
        let mut not_measured = Unmeasured::default();
        // How long a case takes beside the baseline depends on who shares the caches; with which program it takes longer
        // does not.
        let mut missed = others::excuse(too_slow(&cases), others, &mut not_measured);
        missed.extend(against.iter().flat_map(Against::missed));
        missed.extend(too_large(verified_insns));
        Ok(Report {
            baseline_ns,
            cases,
            verified_insns,
            jitted_bytes,
            affinity_entries: AFFINITY_ENTRIES,
            against,
            others,
            missed,
            not_measured,
        })
    }
}

impl Report {
    fn show(&self) {
        eprintln!(
            "baseline (swap MAC addresses, send back): {:.0} ns; {} entries in the affinity map",
            self.baseline_ns, self.affinity_entries
        );
        eprintln!(
            "{:<18} {:>8} {:>8} {:>12}",
            "packet", "ns", "ratio", "spread ns"
        );
        for case in &self.cases {
            eprintln!(
                "{:<18} {:>8.0} {:>8.1} {:>12.1}",
                case.name, case.ns, case.ratio, case.spread_ns
            );
        }
        eprintln!(
            "verified instructions of the largest stage {}, machine code of all {} bytes",
            self.verified_insns, self.jitted_bytes
        );
        if let Some(against) = &self.against {
            against.show();
        }
        eprintln!("other programs had {:.0} % of the CPU", self.others * 100.0);
        for missed in &self.missed {
            eprintln!("NOT MET: {missed}");
        }
        self.not_measured.show();
    }
}

impl Case {
    fn new(name: String, timings: &Timings, baseline_ns: f64) -> Self {
        let ns = timings.median();
        Self {
            name,
            ns,
            ratio: ns / baseline_ns,
            spread_ns: timings.spread(),
        }
    }
}

/// IPv4 before IPv6, and then as promised; what is not promised comes last.
fn order(name: &str) -> (bool, usize) {
    let plain = name.strip_suffix("-v6");
    let place = PROMISED
        .iter()
        .position(|(promised, _)| *promised == plain.unwrap_or(name));
    (plain.is_some(), place.unwrap_or(PROMISED.len()))
}

/// The promises of time that these figures do not meet.
fn too_slow(cases: &[Case]) -> Vec<String> {
    let find = |name: &str| cases.iter().find(|case| case.name == name);
    let mut missed = Vec::new();
    for (name, most) in PROMISED {
        let v6 = format!("{name}-v6");
        for case in [find(name), find(&v6)].into_iter().flatten() {
            if case.ratio > most {
                missed.push(format!(
                    "{} costs {:.1} times the baseline, more than {most}",
                    case.name, case.ratio
                ));
            }
        }
        if let (Some(v4), Some(v6)) = (find(name), find(&v6))
            && v6.ns > v4.ns * V6_MORE
        {
            missed.push(format!(
                "{} costs {:.0} ns, more than a tenth above IPv4's {:.0} ns",
                v6.name, v6.ns, v4.ns
            ));
        }
    }
    missed
}

/// The verifier's promise, if it is not met.
fn too_large(verified_insns: u32) -> Option<String> {
    (verified_insns > VERIFIER_BUDGET)
        .then(|| format!("{verified_insns} instructions verified, more than {VERIFIER_BUDGET}"))
}

/// Slots of all calls that are timed.
fn slots() -> HashSet<u32> {
    let ids = mixed::call_ids().chain([messages::CALL_ID.to_owned()]);
    ids.map(|id| Program::slot_of(&id)).collect()
}

/// A service of each family whose backends listen on the VIP.
fn config() -> Config {
    let service = |name: &str, family| {
        let address = SocketAddr::new(vip(family), SIP_PORT);
        let backends = (1..=BACKENDS).map(|n| (format!("p{n}"), address));
        nat_service(name, address, backends)
    };
    config_of(vec![
        service("four", Family::V4),
        service("six", Family::V6),
    ])
}

#[cfg(test)]
mod tests {
    use super::{Case, PROMISED, too_large, too_slow};

    fn cases(change: impl Fn(&mut Case)) -> Vec<Case> {
        let names = PROMISED
            .iter()
            .flat_map(|(name, _)| [(*name).to_owned(), format!("{name}-v6")]);
        names
            .map(|name| {
                let mut case = Case {
                    name,
                    ns: 80.0,
                    ratio: 8.0,
                    spread_ns: 1.0,
                };
                change(&mut case);
                case
            })
            .collect()
    }

    #[test]
    fn what_is_not_met_is_named() {
        assert!(too_slow(&cases(|_| {})).is_empty() && too_large(250_000).is_none());
        let slow = cases(|case| {
            if case.name == "return-v6" {
                (case.ns, case.ratio) = (89.0, 8.9);
            }
        });
        assert_eq!(too_slow(&slow).len(), 2, "{:?}", too_slow(&slow));
        assert!(too_large(250_001).is_some());
    }
}
