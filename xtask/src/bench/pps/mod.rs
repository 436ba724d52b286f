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

mod room;
mod sending;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::room::{Direction, Front, Room};
use super::timings::Timings;
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

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
    one_core: Rates,
    /// Two queues, on two cores; not on a machine that has but one.
    two_cores: Option<Rates>,
    /// Our rate on two cores by that on one.
    scaling: Option<f64>,
    missed: Vec<String>,
}

/// What became of all rounds with one number of cores.
#[derive(Default)]
struct Series {
    bare: Timings,
    ours: Timings,
    lost: u64,
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
        for _ in 0..self.rounds {
            for (cores, series) in (1..).zip(&mut series) {
                self.round(&mut room, cores, series)?;
            }
        }
        let report = Report::new(&series).context("no rounds were run")?;
        report.show();
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        Ok(if report.missed.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed
        })
    }

    fn round(&self, room: &mut Room, cores: usize, series: &mut Series) -> anyhow::Result<()> {
        let sent = (cores, self.frames);
        let (mut all, mut bare_time, mut ours_time) = (0.0, 0.0, 0.0);
        for (place, (direction, messages)) in MESSAGES.into_iter().enumerate() {
            let bare = room.round(direction, Front::Bare, sent)?;
            let ours = room.round(direction, Front::Ours, sent)?;
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
            one_way.bare.push(bare.pps);
            one_way.ours.push(ours.pps);
            one_way.lost += ours.lost;
        }
        series.bare.push(all / bare_time);
        series.ours.push(all / ours_time);
        Ok(())
    }
}

impl Rates {
    fn of(series: &Series) -> Self {
        let (bare_pps, ours_pps) = (series.bare.median(), series.ours.median());
        Self {
            bare_pps,
            ours_pps,
            ratio: ours_pps / bare_pps,
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
    /// One core's series first.
    fn new(series: &[Series]) -> Option<Self> {
        let mut rates = series.iter().map(Rates::of);
        let (one_core, two_cores) = (rates.next()?, rates.next());
        let mut missed = Vec::new();
        if one_core.ratio < PROMISED {
            missed.push(format!(
                "{:.2} of the bare redirect's rate, less than {PROMISED:.2}",
                one_core.ratio
            ));
        }
        let lost = one_core.lost + two_cores.as_ref().map_or(0, |rates| rates.lost);
        if lost > 0 {
            missed.push(format!("{lost} frames were lost"));
        }
        let scaling = two_cores
            .as_ref()
            .map(|two| two.ours_pps / one_core.ours_pps);
        Some(Self {
            one_core,
            two_cores,
            scaling,
            missed,
        })
    }

    fn show(&self) {
        eprintln!(
            "{:<14} {:>12} {:>10} {:>12} {:>10} {:>7} {:>8}",
            "", "bare pps", "spread", "ours pps", "spread", "ratio", "lost"
        );
        self.one_core.show("one core");
        if let Some(two) = &self.two_cores {
            two.show("two cores");
        }
        if let Some(scaling) = self.scaling {
            eprintln!("two cores forward {scaling:.2} times as much as one");
        }
        for missed in &self.missed {
            eprintln!("NOT MET: {missed}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Series};

    fn series(bare: f64, ours: f64, lost: u64) -> Series {
        Series {
            bare: [bare].into_iter().collect(),
            ours: [ours].into_iter().collect(),
            lost,
            directions: Vec::new(),
        }
    }

    #[test]
    fn a_low_rate_and_a_lost_frame_are_named() {
        let good = Report::new(&[series(100.0, 60.0, 0), series(180.0, 120.0, 0)]);
        let good = good.expect("there are rounds");
        assert!(good.missed.is_empty());
        assert_eq!(good.scaling, Some(2.0));
        let bad = Report::new(&[series(100.0, 59.0, 0), series(180.0, 120.0, 1)]);
        assert_eq!(bad.expect("there are rounds").missed.len(), 2);
        assert!(Report::new(&[]).is_none());
    }
}
