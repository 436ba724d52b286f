//! `cargo xtask bench peers`: what a call costs the box in the middle, beside all that a user would take instead.
//!
//! The same calls, at one rate, through one box after another in the same lab, round after round. `direct` is the
//! kernel's plain routing; `bare-xdp` an XDP program that only redirects, the least that any XDP program costs here.

mod promise;
mod room;

use std::{fmt, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::room::{Measured, Room};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, setup,
    shell::{is_root, say},
};

/// A round in which more than [`LOSS`] is lost is played again so often: the machine may have paused.
const TRIES: u32 = 3;
/// The part of calls and INVITEs that may be lost to that: what a veth's queue of 256 does not hold.
const LOSS: f64 = 0.01;
/// CPU per call and per INVITE in a box before the proxies: ours, routing, nftables, nginx, Kamailio, a bare redirect.
#[derive(Args)]
pub(crate) struct Peers {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Only these boxes; all without it.
    #[arg(long = "box", value_enum, num_args = 1.., value_delimiter = ',')]
    boxes: Vec<Front>,
    /// How frames come to the box.
    #[arg(long, value_enum, default_value_t = Links::Cable)]
    links: Links,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Calls per second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// INVITEs per second.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    invites: u32,
    /// Seconds of calls, and of INVITEs, in each round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// How frames come to the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Links {
    /// As from a network card: in pages of their own, which XDP takes as they are and the kernel wraps.
    Cable,
    /// As out of a plain veth: wrapped already, and copied before XDP may see them.
    Veth,
}

/// A box between caller and proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Front {
    /// The XDP program in mode `nat`.
    Ours,
    /// The kernel routes, nobody balances.
    Direct,
    /// nftables: destination NAT by `jhash`.
    Nft,
    /// nginx, stream proxy by a hash.
    Nginx,
    /// Kamailio's dispatcher, algorithm 0, stateless.
    Kamailio,
    /// An XDP program that redirects and does nothing else.
    BareXdp,
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "ours",
            Self::Direct => "direct",
            Self::Nft => "nft",
            Self::Nginx => "nginx",
            Self::Kamailio => "kamailio",
            Self::BareXdp => "bare-xdp",
        })
    }
}

/// What one box cost, round by round.
struct Samples {
    front: Front,
    rounds: Vec<Option<Sample>>,
}

/// What one box cost in one round.
#[derive(Clone, Copy)]
struct Sample {
    call: f64,
    invite: f64,
    lost: f64,
}

#[derive(Serialize)]
struct Row {
    #[serde(rename = "box")]
    front: Front,
    us_per_call: f64,
    us_per_invite: f64,
    /// Half of the rounds lie within so many microseconds.
    us_per_call_spread: f64,
    us_per_invite_spread: f64,
    /// What it is of plain routing in the same round: medians of all rounds, `None` without plain routing.
    call_to_direct: Option<f64>,
    invite_to_direct: Option<f64>,
    /// The part of calls or INVITEs that did not go well, whichever is more.
    lost: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    links: Links,
    rounds: u32,
    calls_per_s: u32,
    invites_per_s: u32,
    /// The promises that were not kept, in words.
    broken: Vec<String>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    not_measured: Unmeasured,
}

impl Peers {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("network namespaces and XDP need root: sudo cargo xtask bench peers");
        }
        setup::lab_programs()?;
        let room = Room::new(self.links)?;
        let boxes = if self.boxes.is_empty() {
            Front::value_variants()
        } else {
            &self.boxes
        };
        let mut samples: Vec<Samples> = boxes.iter().map(|front| Samples::new(*front)).collect();
        let others = Others::watch()?;
        let mut not_measured = Unmeasured::default();
        for round in 0..self.rounds {
            // Each round begins with another box: what comes in waves does not meet the same one.
            samples.rotate_left(usize::from(round > 0));
            for one in &mut samples {
                let part = format!("{}, round {}", one.front, round + 1);
                let sample = self.sample(&room, one.front);
                one.rounds.push(not_measured.attempt(part, sample));
            }
            say(&format!("round {} of {}", round + 1, self.rounds));
        }
        samples.sort_by_key(|one| boxes.iter().position(|front| *front == one.front));
        let rows = rows(&samples);
        let others = others.part()?;
        let report = Report {
            broken: others::excuse(promise::broken(&rows), others, &mut not_measured),
            others,
            rows,
            links: self.links,
            rounds: self.rounds,
            calls_per_s: self.rate,
            invites_per_s: self.invites,
            not_measured,
        };
        self.show(&report)
    }

    fn sample(&self, room: &Room, front: Front) -> anyhow::Result<Sample> {
        let time = Duration::from_secs(self.seconds);
        let standing = room.stand_up(front)?;
        let call = tried(|| room.calls(&standing, self.rate, time))
            .with_context(|| format!("calls through {front}"))?;
        let invite = tried(|| room.invites(&standing, self.invites.into(), time))
            .with_context(|| format!("INVITEs through {front}"))?;
        say(&format!(
            "  {front:<9} {:>7.2} µs a call, {:>7.3} an INVITE, {:.2} % lost",
            microseconds(call.cost),
            microseconds(invite.cost),
            call.lost.max(invite.lost) * 100.0
        ));
        Ok(Sample {
            call: microseconds(call.cost),
            invite: microseconds(invite.cost),
            lost: call.lost.max(invite.lost),
        })
    }

    fn show(&self, report: &Report) -> anyhow::Result<Outcome> {
        eprint!("{}", table(report));
        for promise in &report.broken {
            eprintln!("not kept: {promise}");
        }
        report.not_measured.show();
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        }
        Ok(report.not_measured.outcome(report.broken.is_empty()))
    }
}

/// A measurement, made again if much is lost: then the best of them.
fn tried(mut measure: impl FnMut() -> anyhow::Result<Measured>) -> anyhow::Result<Measured> {
    let mut best = measure()?;
    for _ in 1..TRIES {
        if best.lost <= LOSS {
            break;
        }
        let next = measure()?;
        if next.lost < best.lost {
            best = next;
        }
    }
    Ok(best)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Samples {
    fn new(front: Front) -> Self {
        Self {
            front,
            rounds: Vec::new(),
        }
    }

    /// Returns what all rounds come to; nothing if no round could be measured.
    fn row(&self, direct: Option<&Self>) -> Option<Row> {
        let all =
            |of: fn(&Sample) -> f64| -> Vec<f64> { self.rounds.iter().flatten().map(of).collect() };
        if all(|sample| sample.call).is_empty() {
            return None;
        }
        let (us_per_call, us_per_call_spread) = super::median(&all(|sample| sample.call));
        let (us_per_invite, us_per_invite_spread) = super::median(&all(|sample| sample.invite));
        let to_direct = |of| direct.and_then(|direct| ratio(&self.rounds, &direct.rounds, of));
        Some(Row {
            front: self.front,
            us_per_call,
            us_per_invite,
            us_per_call_spread,
            us_per_invite_spread,
            call_to_direct: to_direct(|sample| sample.call),
            invite_to_direct: to_direct(|sample| sample.invite),
            lost: super::median(&all(|sample| sample.lost)).0,
        })
    }
}

fn rows(samples: &[Samples]) -> Vec<Row> {
    let direct = samples.iter().find(|one| one.front == Front::Direct);
    samples.iter().filter_map(|one| one.row(direct)).collect()
}

/// The median of the rounds' ratios: what else this machine does, it does to both of a round.
/// Rounds in which one of the two could not be measured do not count.
fn ratio(
    ours: &[Option<Sample>],
    direct: &[Option<Sample>],
    of: fn(&Sample) -> f64,
) -> Option<f64> {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(direct)
        .filter_map(|(ours, direct)| Some(of(ours.as_ref()?) / of(direct.as_ref()?)))
        .collect();
    (!ratios.is_empty()).then(|| super::median(&ratios).0)
}

fn table(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "\nCPU in the box, µs; medians of {} rounds, ± half the distance of the quartiles; × direct in the same round\n\n  {:<10} {:>22} {:>24}\n",
        report.rounds,
        "box",
        format!("call ({}/s)", report.calls_per_s),
        format!("INVITE ({}/s)", report.invites_per_s),
    );
    let times = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    for row in &report.rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:<10} {:>8.1} ± {:<5.1} {:>5} {:>10.2} ± {:<5.2} {:>5}",
            row.front,
            row.us_per_call,
            row.us_per_call_spread / 2.0,
            times(row.call_to_direct),
            row.us_per_invite,
            row.us_per_invite_spread / 2.0,
            times(row.invite_to_direct),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Front, Sample, Samples, rows};

    #[test]
    fn a_round_without_one_of_the_two_is_left_out() {
        let samples = |front, costs: &[Option<f64>]| Samples {
            front,
            rounds: costs
                .iter()
                .map(|cost| {
                    cost.map(|call| Sample {
                        call,
                        invite: call,
                        lost: 0.0,
                    })
                })
                .collect(),
        };
        let rows = rows(&[
            samples(Front::Ours, &[Some(1.0), None, Some(6.0)]),
            samples(Front::Direct, &[Some(2.0), Some(1.0), Some(3.0)]),
            samples(Front::Nginx, &[None, None, None]),
        ]);
        assert_eq!(rows.len(), 2);
        // The later one of two in the middle.
        assert_eq!(rows[0].call_to_direct, Some(2.0));
    }
}
