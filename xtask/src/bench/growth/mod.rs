//! `cargo xtask bench growth`: what a packet costs as things grow, and what the daemon's rings do.
//!
//! Every packet is made anew and is another call's than the one before; what that costs is measured with the
//! baseline behind it, and taken off. So a figure is a packet's, caches and all, over many calls.

mod daemon;
mod points;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use sip_forwarder_tests::{
    baseline::Baseline,
    lab::{Host, Lab},
};

use self::{
    daemon::Rings,
    points::{BYTES, Point},
};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// How much more than the smallest a series may cost at any size.
const FLAT: f64 = 1.10;
/// Nanoseconds that a byte before the Call-ID may cost.
const PER_BYTE: f64 = 0.2;
/// Nanoseconds in which a ring for the most backends must be there.
const REBUILD: f64 = 50e6;

/// What a packet costs as backends, services, calls and messages grow; and what rings cost the daemon.
#[derive(Args)]
pub(crate) struct Growth {
    /// One JSON object on the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u32).range(7..=100_000))]
    rounds: u32,
    /// Calls that packets are of, in turn; rounded up to a power of two.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    calls: u32,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    /// What grows.
    pub(super) what: &'static str,
    /// How large it is.
    pub(super) x: u64,
    pub(super) ns: f64,
    /// Half of the rounds lie within this.
    pub(super) spread_ns: f64,
}

#[derive(Serialize)]
struct Report {
    series: Vec<Figure>,
    baseline_ns: f64,
    ns_per_byte: f64,
    memory: Vec<daemon::Memory>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    missed: Vec<String>,
    not_measured: Unmeasured,
}

impl Growth {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("BPF_PROG_TEST_RUN needs root: sudo cargo xtask bench growth");
        }
        setup::lab_programs()?;
        let sip_forwarder = program::daemon()?;
        let (object, helpers) = (program::program()?, program::bench_programs()?);
        say("measuring the daemon's rings");
        let mut not_measured = Unmeasured::default();
        let rings = Rings::measure(&sip_forwarder, self.rounds);
        let rings = not_measured
            .attempt("the daemon's rings", rings)
            .unwrap_or_default();
        let lab = Lab::new(1)?;
        let others = Others::watch()?;
        let (mut series, baseline_ns) = lab.enter(Host::Forwarder, || {
            say("loading the program for every size");
            let baseline = Baseline::load(&helpers)?;
            let calls = self.calls.next_power_of_two();
            let mut points = points::all((&object, &helpers), &baseline, calls)?;
            say(&format!("{} rounds, interleaved", self.rounds));
            points::measure(&mut points, &baseline, self.rounds)?;
            let first = points.first().context("there is nothing to measure")?;
            let figures: Vec<_> = points.iter().map(Point::figure).collect();
            anyhow::Ok((figures, first.baseline_ns()))
        })??;
        let ns_per_byte = slope(&series, BYTES);
        series.extend(rings.figures);
        let others = others.part()?;
        let report = Report {
            missed: others::excuse(missed(&series, ns_per_byte), others, &mut not_measured),
            others,
            not_measured,
            series,
            baseline_ns,
            ns_per_byte,
            memory: rings.memory,
        };
        report.show();
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        Ok(report.not_measured.outcome(report.missed.is_empty()))
    }
}

impl Report {
    fn show(&self) {
        eprintln!("baseline {:.0} ns", self.baseline_ns);
        eprintln!("{:<24} {:>10} {:>12} {:>10}", "what", "x", "ns", "spread");
        for figure in &self.series {
            eprintln!(
                "{:<24} {:>10} {:>12.0} {:>10.0}",
                figure.what, figure.x, figure.ns, figure.spread_ns
            );
        }
        eprintln!("a byte before the Call-ID: {:.3} ns", self.ns_per_byte);
        for memory in &self.memory {
            eprintln!(
                "daemon with {} backends: {:.1} MB, {:.1} MB at most",
                memory.backends,
                memory.resident_bytes as f64 / 1e6,
                memory.peak_bytes as f64 / 1e6
            );
        }
        eprintln!("other programs had {:.0} % of the CPU", self.others * 100.0);
        for missed in &self.missed {
            eprintln!("NOT MET: {missed}");
        }
        self.not_measured.show();
    }
}

/// Promises that these figures do not meet.
fn missed(series: &[Figure], ns_per_byte: f64) -> Vec<String> {
    let mut missed = Vec::new();
    for what in points::FLAT_SERIES {
        let mut points = series.iter().filter(|figure| figure.what == what);
        let Some(smallest) = points.next() else {
            missed.push(format!("{what} was not measured"));
            continue;
        };
        for point in points.filter(|point| point.ns > smallest.ns * FLAT) {
            missed.push(format!(
                "{what}: {:.0} ns at {}, more than a tenth above {:.0} ns at {}",
                point.ns, point.x, smallest.ns, smallest.x
            ));
        }
    }
    if ns_per_byte > PER_BYTE {
        missed.push(format!(
            "a byte before the Call-ID costs {ns_per_byte:.3} ns, more than {PER_BYTE}"
        ));
    }
    let rings = series
        .iter()
        .filter(|figure| figure.what == daemon::REBUILD);
    for ring in rings.filter(|ring| ring.ns > REBUILD) {
        missed.push(format!(
            "a ring of {} backends takes {:.1} ms, more than {:.0}",
            ring.x,
            ring.ns / 1e6,
            REBUILD / 1e6
        ));
    }
    missed
}

/// Nanoseconds for one more of what grows: the slope of the line with the least squares.
fn slope(series: &[Figure], what: &str) -> f64 {
    let points: Vec<_> = series
        .iter()
        .filter(|figure| figure.what == what)
        .map(|figure| (figure.x as f64, figure.ns))
        .collect();
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_ns = points.iter().map(|(_, ns)| ns).sum::<f64>() / count;
    let above: f64 = points
        .iter()
        .map(|(x, ns)| (x - mean_x) * (ns - mean_ns))
        .sum();
    let below: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    above / below
}

#[cfg(test)]
mod tests {
    use super::{BYTES, Figure, daemon, missed, points, slope};

    fn figure(what: &'static str, x: u64, ns: f64) -> Figure {
        Figure {
            what,
            x,
            ns,
            spread_ns: 0.0,
        }
    }

    fn flat() -> Vec<Figure> {
        points::FLAT_SERIES
            .into_iter()
            .flat_map(|what| [figure(what, 1, 100.0), figure(what, 1_000, 110.0)])
            .chain([figure(daemon::REBUILD, 1_024, 49e6)])
            .collect()
    }

    #[test]
    fn what_grows_is_named() {
        assert!(missed(&flat(), 0.2).is_empty());
        let mut steep = flat();
        steep[1].ns = 111.0;
        steep.pop();
        steep.push(figure(daemon::REBUILD, 1_024, 51e6));
        assert_eq!(missed(&steep, 0.21).len(), 3);
        assert_eq!(missed(&[], 0.1).len(), points::FLAT_SERIES.len());
    }

    #[test]
    fn the_slope_is_that_of_the_line() {
        let line = [100, 200, 400].map(|x| figure(BYTES, x, x as f64 * 0.25 + 300.0));
        assert!((slope(&line, BYTES) - 0.25).abs() < 1e-9);
    }
}
