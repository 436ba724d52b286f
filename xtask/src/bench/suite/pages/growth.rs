//! Cost of a packet as things grow, and of a ring.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Chart, Curve, Panel},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "growth",
    title: "The XDP program, and the daemon's rings, as things grow",
    about: "What a packet costs in the XDP program, with more and more of one thing and the rest as it was; and how long the \
            daemon takes from an order until the ring that obeys it is live. What is promised is that the most costs next to \
            what the least costs; of bytes before the Call-ID, what each one costs; of a ring, its time. Entries in the \
            affinity map are of other calls in other slots; those in the same slots are there to see what a lookup costs.",
    show,
};

/// Series that are promised to be flat.
const FLAT: [&str; 3] = ["backends", "services", "affinity-entries"];
/// What the most may cost, of the least.
const FLATNESS: f64 = 1.10;
/// Nanoseconds that one more byte before the Call-ID may cost.
const BYTE_NS: f64 = 0.2;
/// The series of the time that a ring takes; others of rings begin like it.
const RING: &str = "ring-rebuild";
/// Milliseconds that it may take.
const RING_MS: f64 = 50.0;
const NS_PER_MS: f64 = 1e6;

#[derive(Deserialize)]
struct Report {
    series: Vec<Point>,
    #[serde(default)]
    memory: Vec<Memory>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

/// One point of the series of that name.
#[derive(Deserialize)]
struct Point {
    what: String,
    x: f64,
    ns: f64,
}

/// Of the daemon.
#[derive(Deserialize)]
struct Memory {
    backends: f64,
    resident_bytes: f64,
    peak_bytes: f64,
}

/// What grew, and its points by size.
struct Series<'a> {
    what: &'a str,
    points: Vec<(f64, f64)>,
}

/// What is promised of a series.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flat,
    Bytes,
    Ring,
    /// Nothing.
    Other,
}

impl Series<'_> {
    fn kind(&self) -> Kind {
        match self.what {
            RING => Kind::Ring,
            what if FLAT.contains(&what) => Kind::Flat,
            what if what.contains("byte") => Kind::Bytes,
            _ => Kind::Other,
        }
    }

    fn name(&self) -> String {
        self.what.replace('-', " ")
    }

    /// Rings are told in milliseconds, packets in nanoseconds: divisor and words.
    fn unit(&self) -> (f64, &'static str) {
        if self.what.starts_with(RING) {
            (NS_PER_MS, "ms per ring")
        } else {
            (1.0, "ns per packet")
        }
    }

    /// The first and the last point, if there is more than one.
    fn ends(&self) -> Option<[(f64, f64); 2]> {
        match self.points[..] {
            [first, .., last] => Some([first, last]),
            _ => None,
        }
    }

    fn most(&self) -> f64 {
        let ns = self.points.iter().map(|(_, ns)| *ns);
        ns.fold(f64::MIN_POSITIVE, f64::max)
    }

    /// The most that is promised at either end, in the series' unit.
    fn limit(&self) -> Option<(f64, f64)> {
        let [(from, ns), (to, _)] = self.ends()?;
        match self.kind() {
            Kind::Flat => Some((ns * FLATNESS, ns * FLATNESS)),
            Kind::Bytes => Some((ns, ns + (to - from) * BYTE_NS)),
            Kind::Ring => Some((RING_MS, RING_MS)),
            Kind::Other => None,
        }
    }

    fn promise(&self) -> Option<Promise> {
        let [(from, small), (to, large)] = self.ends()?;
        let name = self.name();
        let range = format!("{name}, {} to {}", figure(from, 0, ""), figure(to, 0, ""));
        match self.kind() {
            Kind::Flat => Some(Promise::at_most(
                range,
                FLATNESS,
                self.most() / small,
                2,
                "×",
            )),
            Kind::Bytes => {
                let each = (large - small) / (to - from);
                Some(Promise::at_most(range, BYTE_NS, each, 2, "ns per byte"))
            }
            Kind::Ring => {
                let what = format!("{name}, {} backends", figure(to, 0, ""));
                Some(Promise::at_most(
                    what,
                    RING_MS,
                    self.most() / NS_PER_MS,
                    1,
                    "ms",
                ))
            }
            Kind::Other => None,
        }
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let all = sorted(&report.series);
    let panels: Vec<Panel> = all
        .iter()
        .filter(|one| one.ends().is_some())
        .map(curve)
        .collect();
    let missing = FLAT
        .into_iter()
        .filter(|what| {
            !all.iter()
                .any(|one| one.what == *what && one.ends().is_some())
        })
        .map(Promise::unmeasured);
    Ok(Shown {
        tables: all.iter().map(table).chain(memory(&report)).collect(),
        promises: all
            .iter()
            .filter_map(Series::promise)
            .map(|promise| promise.beside(report.others))
            .chain(missing)
            .collect(),
        chart: (!panels.is_empty()).then_some(Chart { panels }),
        headlines: all.iter().filter_map(headline).collect(),
    })
}

fn sorted(points: &[Point]) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    for point in points {
        let at = all.iter().position(|one| one.what == point.what);
        let at = at.unwrap_or_else(|| {
            all.push(Series {
                what: &point.what,
                points: Vec::new(),
            });
            all.len() - 1
        });
        all[at].points.push((point.x, point.ns));
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

/// What the points of a series are the sizes of.
fn grown(series: &Series<'_>) -> String {
    if series.what.starts_with(RING) {
        "backends".to_owned()
    } else {
        series.name()
    }
}

fn table(series: &Series<'_>) -> Table {
    let (divisor, unit) = series.unit();
    let head = if series.what.starts_with(RING) {
        format!("{} ({})", series.name(), grown(series))
    } else {
        series.name()
    };
    let mut table = Table::new([head.as_str(), unit]);
    let digits = if divisor > 1.0 { 2 } else { 0 };
    for (x, ns) in &series.points {
        table.push([figure(*x, 0, ""), figure(*ns / divisor, digits, "")]);
    }
    table
}

fn memory(report: &Report) -> Option<Table> {
    let mut table = Table::new(["backends", "the daemon's memory, MB", "the most it had, MB"]);
    for memory in &report.memory {
        table.push([
            figure(memory.backends, 0, ""),
            figure(memory.resident_bytes / 1e6, 1, ""),
            figure(memory.peak_bytes / 1e6, 1, ""),
        ]);
    }
    (!report.memory.is_empty()).then_some(table)
}

fn curve(series: &Series<'_>) -> Panel {
    let (divisor, unit) = series.unit();
    let points = series.points.iter().map(|(x, ns)| (*x, *ns / divisor));
    Panel::Curve(Curve {
        title: format!("Growing: {}", series.name()),
        x: grown(series),
        y: unit.to_owned(),
        points: points.collect(),
        limit: series.limit(),
    })
}

/// Of the backends alone: one line is enough.
fn headline(series: &Series<'_>) -> Option<Headline> {
    let [(from, small), (to, large)] = series.ends()?;
    (series.what == "backends").then(|| Headline {
        what: format!("XDP program, {} backends", figure(to, 0, "")),
        ours: figure(large, 0, "ns"),
        beside: format!("{} with {}", figure(small, 0, "ns"), figure(from, 0, "")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_series_is_judged_by_its_kind() {
        let shown = show(&json!({
            "series": [
                {"what": "backends", "x": 1024, "ns": 105.0, "spread_ns": 3.0},
                {"what": "backends", "x": 32, "ns": 111.0},
                {"what": "backends", "x": 2, "ns": 100.0},
                {"what": "bytes-before-call-id", "x": 200, "ns": 100.0},
                {"what": "bytes-before-call-id", "x": 1200, "ns": 290.0},
                {"what": "affinity-entries-same-slots", "x": 0, "ns": 100.0},
                {"what": "affinity-entries-same-slots", "x": 1_000_000, "ns": 400.0},
                {"what": "ring-rebuild", "x": 2, "ns": 9e6},
                {"what": "ring-rebuild", "x": 1024, "ns": 51e6},
                {"what": "services", "x": 1, "ns": 100.0},
            ],
            "memory": [{"backends": 1024, "resident_bytes": 25_500_000, "peak_bytes": 31_000_000}],
        }))
        .unwrap();
        let judged: Vec<(&str, &str, bool)> = shown
            .promises
            .iter()
            .map(|promise| (promise.what.as_str(), promise.found.as_str(), promise.kept))
            .collect();
        assert_eq!(
            judged,
            [
                ("backends, 2 to 1,024", "1.11×", false),
                (
                    "bytes before call id, 200 to 1,200",
                    "0.19 ns per byte",
                    true
                ),
                ("ring rebuild, 1,024 backends", "51.0 ms", false),
                ("services", "not measured", false),
                ("affinity-entries", "not measured", false),
            ]
        );
        assert_eq!(shown.chart.unwrap().panels.len(), 4);
        assert_eq!(shown.headlines[0].beside, "100 ns with 2");
        let tables: String = shown.tables.iter().map(Table::markdown).collect();
        for wanted in [
            "| ring rebuild (backends) | ms per ring |",
            "| 1,024 | 51.00 |",
            "| 1,024 | 25.5 | 31.0 |",
        ] {
            assert!(tables.contains(wanted), "{wanted}\n{tables}");
        }
    }
}
