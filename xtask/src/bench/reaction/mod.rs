//! `cargo xtask bench reaction`: how soon new calls see a pushed weight, and the death of a proxy.
//!
//! All new calls are to one callee and the service's key is To, so all of them go to one proxy. Each round makes
//! them go elsewhere, and lasts until the last of them arrived where they went before.

mod room;
mod traffic;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::Args;
use serde::Serialize;

use self::{
    room::Room,
    traffic::{RATE, Traffic},
};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// Within this, the new calls see a pushed weight.
pub(super) const PUSH_MS: f64 = 50.0;
/// Within this, by the median, a dead proxy gets no new calls.
pub(super) const DETECTION_MS: f64 = 350.0;
/// A proxy with this weight, beside others of 1, has nearly every slot.
const HEAVY: u16 = 1_000;
/// How often an agent reports. Rounds begin at moments spread over it, as deaths do.
const INTERVAL: Duration = Duration::from_millis(100);

/// How soon new calls see a pushed weight, and the death of a proxy.
#[derive(Args)]
pub(crate) struct Reaction {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// This `sip-forwarder` instead of one that is built now.
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

#[derive(Serialize)]
struct Report {
    /// From asking for another weight.
    pushes: Option<Times>,
    /// From the end of the proxy's process.
    detections: Option<Times>,
    /// From the end of all that comes from the proxy's host.
    silence: Option<Times>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    missed: Vec<String>,
    not_measured: Unmeasured,
}

#[derive(Serialize)]
struct Times {
    rounds: usize,
    median_ms: f64,
    max_ms: f64,
}

impl Reaction {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("the lab needs root: sudo cargo xtask bench reaction");
        }
        setup::lab_programs()?;
        let daemon = program::daemon_or(self.forwarder.as_deref())?;
        let mut room = Room::start(&daemon, &program::bench_programs()?)?;
        let traffic = Traffic::start(&room.lab)?;
        say(&format!("{RATE} new calls/s, {} rounds each", self.rounds));
        let others = Others::watch()?;
        let mut not_measured = Unmeasured::default();
        let pushes = self.pushes(&room, &traffic);
        let pushes = not_measured.attempt("pushed weights", pushes);
        let detections = self.deaths(&mut room, &traffic, Room::kill_process, Room::start_process);
        let detections = not_measured.attempt("killed processes", detections);
        let silence = self.deaths(&mut room, &traffic, Room::kill_agent, Room::start_agent);
        let silence = not_measured.attempt("silent hosts", silence);
        let others = others.part()?;
        let too_slow = too_slow([&pushes, &detections, &silence]);
        let report = Report {
            pushes,
            detections,
            silence,
            missed: others::excuse(too_slow, others, &mut not_measured),
            others,
            not_measured,
        };
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{}", table(&report));
        }
        for missed in &report.missed {
            eprintln!("not kept: {missed}");
        }
        report.not_measured.show();
        Ok(report.not_measured.outcome(report.missed.is_empty()))
    }

    /// Whoever has the calls becomes light again, and the next one heavy, by turns: each push moves them.
    fn pushes(&self, room: &Room, traffic: &Traffic) -> anyhow::Result<Times> {
        let light = traffic.settled()?;
        let heavy = light % room::PROXIES + 1;
        let mut times = Vec::new();
        for round in 0..self.rounds {
            let (from, weight) = if round % 2 == 0 {
                (light, HEAVY)
            } else {
                (heavy, 1)
            };
            ensure!(
                traffic.settled()? == from,
                "weight {weight} of p{heavy} did not move the calls"
            );
            let begin = room.push_weight(heavy, weight)?;
            times.push(traffic.left_after(from, begin)?);
        }
        room.push_weight(heavy, 1)?;
        Ok(Times::of(times))
    }

    fn deaths(
        &self,
        room: &mut Room,
        traffic: &Traffic,
        die: impl Fn(&mut Room, u8) -> anyhow::Result<Instant>,
        come_back: impl Fn(&mut Room, u8) -> anyhow::Result<()>,
    ) -> anyhow::Result<Times> {
        let mut times = Vec::new();
        for round in 0..self.rounds {
            let victim = traffic.settled()?;
            thread::sleep(INTERVAL * round / self.rounds);
            let begin = die(room, victim)?;
            let left = traffic.left_after(victim, begin);
            come_back(room, victim)?;
            times.push(left?);
        }
        Ok(Times::of(times))
    }
}

/// The promises that pushes, dead processes and silent hosts do not keep, in words.
fn too_slow([pushes, detections, silence]: [&Option<Times>; 3]) -> Vec<String> {
    let over = |what: &str, times: &Option<Times>, of: fn(&Times) -> f64, limit: f64| {
        let ms = of(times.as_ref()?);
        (ms > limit).then(|| format!("{what}: {ms:.1} ms, more than {limit:.0}"))
    };
    [
        over(
            "the longest after a pushed weight",
            pushes,
            |times| times.max_ms,
            PUSH_MS,
        ),
        over(
            "the median after a killed process",
            detections,
            |times| times.median_ms,
            DETECTION_MS,
        ),
        over(
            "the median after a silent host",
            silence,
            |times| times.median_ms,
            DETECTION_MS,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let ms = |at: usize| times.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3;
        Self {
            rounds: times.len(),
            // Of an even number the later of the two in the middle.
            median_ms: ms(times.len() / 2),
            max_ms: ms(times.len().saturating_sub(1)),
        }
    }
}

fn table(report: &Report) -> String {
    let row = |name: &str, times: &Option<Times>| {
        let Some(times) = times else {
            return format!("{name:<34}{:>8}\n", "not measured");
        };
        format!(
            "{name:<34}{:>8}{:>12.1}{:>12.1}\n",
            times.rounds, times.median_ms, times.max_ms
        )
    };
    format!(
        "\n{:<34}{:>8}{:>12}{:>12}\n{}{}{}",
        "until the last new call came, ms",
        "rounds",
        "median",
        "longest",
        row("  a weight was pushed", &report.pushes),
        row("  the proxy's process was killed", &report.detections),
        row("  the proxy's host fell silent", &report.silence),
    )
}

#[cfg(test)]
mod tests {
    use super::{Times, too_slow};

    #[test]
    fn the_longest_push_and_the_median_death_are_judged() {
        let times = |median_ms: f64, max_ms: f64| {
            Some(Times {
                rounds: 20,
                median_ms,
                max_ms,
            })
        };
        let (good, bad) = (times(5.0, 900.0), times(351.0, 380.0));
        assert!(too_slow([&times(3.0, 50.0), &good, &None]).is_empty());
        assert_eq!(too_slow([&good, &bad, &bad]).len(), 3);
    }
}
