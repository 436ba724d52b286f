//! Cost of a packet as things grow.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Chart, Curve, Panel},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "growth",
    title: "The XDP program as things grow",
    about: "Nanoseconds per packet by `BPF_PROG_TEST_RUN`, with more and more of one thing and the rest as it was. What is \
            promised is that the largest costs next to what the smallest costs; of bytes that are read, what each one costs.",
    show,
};

/// What the largest may cost, of the smallest.
const FLAT: f64 = 1.10;
/// Nanoseconds that one more byte before the Call-ID may cost.
const BYTE_NS: f64 = 0.2;

#[derive(Deserialize)]
struct Report {
    series: Vec<Point>,
}

/// One point of the series of that name.
#[derive(Deserialize)]
struct Point {
    what: String,
    x: f64,
    ns: f64,
}

/// What grew, and its points by size.
struct Series<'a> {
    what: &'a str,
    points: Vec<(f64, f64)>,
}

impl Series<'_> {
    fn is_bytes(&self) -> bool {
        self.what.contains("byte") || self.what.contains("offset")
    }

    /// The first and the last point, if there is more than one.
    fn ends(&self) -> Option<[(f64, f64); 2]> {
        match self.points[..] {
            [first, .., last] => Some([first, last]),
            _ => None,
        }
    }

    /// The most that is promised at either end.
    fn limit(&self) -> Option<(f64, f64)> {
        let [(from, ns), (to, _)] = self.ends()?;
        Some(if self.is_bytes() {
            (ns, ns + (to - from) * BYTE_NS)
        } else {
            (ns * FLAT, ns * FLAT)
        })
    }

    fn promise(&self) -> Option<Promise> {
        let [(from, small), (to, large)] = self.ends()?;
        let what = format!(
            "{} from {} to {}",
            self.what,
            figure(from, 0, ""),
            figure(to, 0, "")
        );
        Some(if self.is_bytes() {
            let each = (large - small) / (to - from);
            Promise::at_most(what, BYTE_NS, each, 2, "ns per byte")
        } else {
            Promise::at_most(what, FLAT, large / small, 2, "×")
        })
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
    Ok(Shown {
        tables: all.iter().map(table).collect(),
        promises: all.iter().filter_map(Series::promise).collect(),
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

fn table(series: &Series<'_>) -> Table {
    let mut table = Table::new([series.what, "ns per packet"]);
    for (x, ns) in &series.points {
        table.push([figure(*x, 0, ""), figure(*ns, 0, "")]);
    }
    table
}

fn curve(series: &Series<'_>) -> Panel {
    Panel::Curve(Curve {
        title: format!("Growing: {}", series.what),
        x: series.what.to_owned(),
        y: "ns per packet".to_owned(),
        points: series.points.clone(),
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
    fn each_series_is_judged_by_its_ends() {
        let shown = show(&json!({"series": [
            {"what": "backends", "x": 1024, "ns": 111.0},
            {"what": "backends", "x": 2, "ns": 100.0},
            {"what": "bytes before the Call-ID", "x": 200, "ns": 100.0},
            {"what": "bytes before the Call-ID", "x": 1200, "ns": 290.0},
            {"what": "services", "x": 1, "ns": 100.0},
        ]}))
        .unwrap();
        let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [false, true]);
        assert_eq!(shown.promises[1].found, "0.19 ns per byte");
        assert_eq!(shown.tables.len(), 3);
        assert_eq!(shown.chart.unwrap().panels.len(), 2);
        assert_eq!(shown.headlines[0].beside, "100 ns with 2");
    }
}
