//! `cargo xtask bench pps`: packets per second through the forwarder, over veth, beside the bare redirect.
//!
//! Frames are made in the kernel (live frames, `BPF_F_TEST_XDP_LIVE_FRAMES`), of many calls, and their heads are
//! written afresh each time. They enter at the far end of one of the forwarder's links; on the forwarder's end
//! stands our program, or one that redirects and does nothing else; at the far end of the other link they are
//! counted and dropped. The core that makes the frames also forwards and counts them, so both rates have that in
//! them.
//!
//! INVITEs go to backends and responses to clients, measured apart. The rate in all is that of whole calls, of
//! which three messages go one way (INVITE, ACK, BYE) and four the other (100, 180, 200, 200).

//!
//! A round's rate is that of the median millisecond ([`windows`]). A round that cannot be measured is left out; too few
//! rounds are no figure. If other programs had much of the CPU, a ratio that is too low is called not measured.

mod room;
mod sending;
mod windows;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::room::{Direction, Front, Room};
use super::{
    others::{self, Others},
    timings::Timings,
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// Rounds are tried so many times as often as they are wanted, if some cannot be measured.
const TRIES: u32 = 3;
/// How often the frames of a round are doubled at most.
const LONGEST: usize = 4;
/// Rounds that a figure must be of.
const LEAST_ROUNDS: usize = 7;
/// The part of the bare redirect's rate that is promised.
const PROMISED: f64 = 0.60;

/// Packets per second through the forwarder, beside the bare redirect.
#[derive(Args)]
pub(crate) struct Pps {
    /// One JSON object on the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(7..=1_000))]
    rounds: u32,
    /// Frames from each core in each round.
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    frames: u32,
    /// Calls that the frames of one core belong to; rounded up to a power of two.
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    calls: u32,
}

/// Rates of one number of cores.
#[derive(Serialize)]
struct Rates {
    /// The bare redirect's.
    bare_pps: f64,
    ours_pps: f64,
    /// The median of the rounds' ratios.
    ratio: f64,
    /// Frames that did not arrive, in all rounds of ours.
    lost: u64,
    /// Half of the rounds lie within this.
    bare_spread_pps: f64,
    ours_spread_pps: f64,
    /// Each way by itself; nothing within one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    directions: Vec<OneWay>,
}

/// Rates of one direction.
#[derive(Serialize)]
struct OneWay {
    name: &'static str,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    one_core: Option<Rates>,
    /// Two queues, on two cores; not on a machine that has but one.
    two_cores: Option<Rates>,
    /// Our rate on two cores by that on one.
    scaling: Option<f64>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    missed: Vec<String>,
    not_measured: Unmeasured,
}

/// What became of all rounds with one number of cores.
#[derive(Default)]
struct Series {
    bare: Timings,
    ours: Timings,
    ratios: Timings,
    lost: u64,
    /// Why rounds could not be measured.
    faults: Vec<String>,
    directions: Vec<(&'static str, Series)>,
}

/// Messages of a call that go to a backend, and to the client.
const MESSAGES: [(Direction, f64); 2] = [(Direction::ToBackends, 3.0), (Direction::ToClients, 4.0)];

impl Pps {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("network namespaces and XDP need root: sudo cargo xtask bench pps");
        }
        setup::lab_programs()?;
        let (object, helpers) = (program::program()?, program::bench_programs()?);
        let mut cores = core_affinity::get_core_ids().context("cannot list the cores")?;
        cores.truncate(2);
        ensure!(!cores.is_empty(), "there is no core to run on");
        let mut room = Room::new((&object, &helpers), &cores, self.calls.next_power_of_two())?;
        say(&format!(
            "{} rounds of {} frames from each core, interleaved",
            self.rounds, self.frames
        ));
        let mut series: Vec<Series> = cores.iter().map(|_| Series::default()).collect();
        let others = Others::watch()?;
        for _ in 0..self.rounds * TRIES {
            for (cores, series) in (1..).zip(&mut series) {
                if series.bare.values().len() >= self.rounds as usize {
                    continue;
                }
                if let Err(error) = self.round(&mut room, cores, series) {
                    series.faults.push(format!("{error:#}"));
                }
            }
        }
        let report = Report::new(&series, others.part()?);
        report.show();
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        Ok(report.not_measured.outcome(report.missed.is_empty()))
    }

    fn round(&self, room: &mut Room, cores: usize, series: &mut Series) -> anyhow::Result<()> {
        let sent = (cores, self.frames.saturating_mul(series.longer()));
        // All of a round counts, or nothing: a direction without a figure leaves none for the whole.
        let mut measured = Vec::new();
        for (direction, messages) in MESSAGES {
            let bare = room.round(direction, Front::Bare, sent)?;
            let ours = room.round(direction, Front::Ours, sent)?;
            measured.push((direction, messages, bare, ours));
        }
        let (mut all, mut bare_time, mut ours_time) = (0.0, 0.0, 0.0);
        for (place, (direction, messages, bare, ours)) in measured.into_iter().enumerate() {
            all += messages;
            bare_time += messages / bare.pps;
            ours_time += messages / ours.pps;
            series.lost += ours.lost;
            if series.directions.len() == place {
                series
                    .directions
                    .push((direction.name(), Series::default()));
            }
            let one_way = &mut series.directions[place].1;
            one_way.push(bare.pps, ours.pps);
            one_way.lost += ours.lost;
        }
        series.push(all / bare_time, all / ours_time);
        Ok(())
    }
}

impl Series {
    /// Rounds in which cores did not send at the same time are followed by longer ones: on a busy machine one core
    /// begins long after the other.
    fn longer(&self) -> u32 {
        1 << self.faults.len().min(LONGEST)
    }

    fn push(&mut self, bare: f64, ours: f64) {
        self.bare.push(bare);
        self.ours.push(ours);
        self.ratios.push(ours / bare);
    }

    /// Fails if too few rounds could be measured.
    fn rates(&self) -> anyhow::Result<Rates> {
        let rounds = self.bare.values().len();
        ensure!(
            rounds >= LEAST_ROUNDS,
            "only {rounds} rounds could be measured, {LEAST_ROUNDS} are needed; the last that could not: {}",
            self.faults.last().map_or("there was none", String::as_str)
        );
        Ok(Rates::of(self))
    }
}

impl Rates {
    fn of(series: &Series) -> Self {
        let (bare_pps, ours_pps) = (series.bare.median(), series.ours.median());
        Self {
            bare_pps,
            ours_pps,
            ratio: series.ratios.median(),
            lost: series.lost,
            bare_spread_pps: series.bare.spread(),
            ours_spread_pps: series.ours.spread(),
            directions: series
                .directions
                .iter()
                .map(|(name, series)| OneWay {
                    name,
                    rates: Self::of(series),
                })
                .collect(),
        }
    }

    fn show(&self, what: &str) {
        eprintln!(
            "{what:<14} {:>12.0} {:>10.0} {:>12.0} {:>10.0} {:>7.2} {:>8}",
            self.bare_pps,
            self.bare_spread_pps,
            self.ours_pps,
            self.ours_spread_pps,
            self.ratio,
            self.lost
        );
        for one_way in &self.directions {
            one_way.rates.show(&format!("  {}", one_way.name));
        }
    }
}

impl Report {
    /// One core's series first; `others` is the part of the CPU that other programs had.
    fn new(series: &[Series], others: f64) -> Self {
        let mut not_measured = Unmeasured::default();
        let mut rates = ["one core", "two cores"]
            .into_iter()
            .zip(series)
            .map(|(part, series)| not_measured.attempt(part, series.rates()));
        let (one_core, two_cores) = (rates.next().flatten(), rates.next().flatten());
        drop(rates);
        let mut missed = Vec::new();
        if let Some(one) = one_core.as_ref().filter(|one| one.ratio < PROMISED) {
            let slow = format!(
                "{:.2} of the bare redirect's rate, less than {PROMISED:.2}",
                one.ratio
            );
            missed = others::excuse(vec![slow], others, &mut not_measured);
        }
        let lost: u64 = series.iter().map(|series| series.lost).sum();
        if lost > 0 {
            missed.push(format!("{lost} frames were lost"));
        }
        let both = one_core.as_ref().zip(two_cores.as_ref());
        Self {
            scaling: both.map(|(one, two)| two.ours_pps / one.ours_pps),
            one_core,
            two_cores,
            others,
            missed,
            not_measured,
        }
    }

    fn show(&self) {
        eprintln!(
            "{:<14} {:>12} {:>10} {:>12} {:>10} {:>7} {:>8}",
            "", "bare pps", "spread", "ours pps", "spread", "ratio", "lost"
        );
        if let Some(one) = &self.one_core {
            one.show("one core");
        }
        if let Some(two) = &self.two_cores {
            two.show("two cores");
        }
        if let Some(scaling) = self.scaling {
            eprintln!("two cores forward {scaling:.2} times as much as one");
        }
        eprintln!("other programs had {:.0} % of the CPU", self.others * 100.0);
        for missed in &self.missed {
            eprintln!("NOT MET: {missed}");
        }
        self.not_measured.show();
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAST_ROUNDS, Report, Series};

    fn series(bare: f64, ours: f64, lost: u64) -> Series {
        let mut series = Series {
            lost,
            ..Series::default()
        };
        for _ in 0..LEAST_ROUNDS {
            series.push(bare, ours);
        }
        series
    }

    #[test]
    fn a_low_rate_and_a_lost_frame_are_named() {
        let good = Report::new(&[series(100.0, 60.0, 0), series(180.0, 120.0, 0)], 0.0);
        assert!(good.missed.is_empty() && good.not_measured.is_empty());
        assert_eq!(good.scaling, Some(2.0));
        let bad = [series(100.0, 59.0, 0), series(180.0, 120.0, 1)];
        let quiet = Report::new(&bad, 0.05);
        assert_eq!(quiet.missed.len(), 2);
        assert!(quiet.not_measured.is_empty());
        // On a busy machine the rate says nothing, a lost frame does.
        let busy = Report::new(&bad, 0.5);
        assert_eq!(busy.missed, ["1 frames were lost"]);
        assert!(!busy.not_measured.is_empty());
    }

    #[test]
    fn too_few_rounds_are_no_figure() {
        let mut few = series(100.0, 60.0, 0);
        few.bare = [100.0].into_iter().collect();
        few.faults.push("no frames".to_owned());
        let report = Report::new(&[series(100.0, 60.0, 0), few], 0.0);
        assert!(report.one_core.is_some() && report.two_cores.is_none());
        assert!(report.missed.is_empty());
        let lines: Vec<String> = report.not_measured.lines().collect();
        assert!(
            lines[0].starts_with("NOT MEASURED: two cores: only 1 rounds")
                && lines[0].ends_with("no frames"),
            "{lines:?}"
        );
    }
}
