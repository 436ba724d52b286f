//! How soon calls follow.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};
use crate::bench::reaction::{DETECTION_MS, PUSH_MS};

pub(super) const PAGE: Page = Page {
    name: "reaction",
    title: "How soon new calls go elsewhere",
    about: "From an event until the last new call arrives where it should not go any more: a weight was pushed, a proxy's process \
            was killed, a proxy's host fell silent.",
    show,
};

#[derive(Deserialize)]
struct Report {
    pushes: Times,
    detections: Times,
    silence: Times,
}

#[derive(Deserialize)]
struct Times {
    rounds: u32,
    median_ms: f64,
    max_ms: f64,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let rows = [
        ("a weight was pushed", &report.pushes),
        ("a proxy's process was killed", &report.detections),
        ("a proxy's host fell silent", &report.silence),
    ];
    let mut table = Table::new(["event", "rounds", "median, ms", "longest, ms"]);
    for (what, times) in rows {
        table.push([
            what.to_owned(),
            times.rounds.to_string(),
            figure(times.median_ms, 1, ""),
            figure(times.max_ms, 1, ""),
        ]);
    }
    let median = |what: &str, times: &Times| {
        Promise::at_most(
            format!("{what}: median"),
            DETECTION_MS,
            times.median_ms,
            1,
            "ms",
        )
    };
    let bar = |label: &str, value: f64, limit: Option<f64>| {
        Bar::new(label, value, Hue::Ours).limit(limit)
    };
    let bars = vec![
        bar("weight, median", report.pushes.median_ms, None),
        bar("weight, longest", report.pushes.max_ms, Some(PUSH_MS)),
        bar(
            "process, median",
            report.detections.median_ms,
            Some(DETECTION_MS),
        ),
        bar("process, longest", report.detections.max_ms, None),
        bar("host, median", report.silence.median_ms, Some(DETECTION_MS)),
        bar("host, longest", report.silence.max_ms, None),
    ];
    Ok(Shown {
        tables: vec![table],
        promises: vec![
            Promise::at_most(
                "a weight was pushed: longest",
                PUSH_MS,
                report.pushes.max_ms,
                1,
                "ms",
            ),
            median("a proxy's process was killed", &report.detections),
            median("a proxy's host fell silent", &report.silence),
        ],
        chart: Chart::of_bars([Bars::new(PAGE.title, "ms", 1, bars)]),
        headlines: vec![Headline {
            what: "New calls leave a killed proxy after".to_owned(),
            ours: figure(report.detections.median_ms, 1, "ms"),
            beside: format!(
                "{} if its host falls silent",
                figure(report.silence.median_ms, 0, "ms")
            ),
        }],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_push_and_the_median_death_are_judged() {
        let times =
            |median: f64, max: f64| json!({"rounds": 20, "median_ms": median, "max_ms": max});
        let shown = show(&json!({
            "pushes": times(3.0, 51.0),
            "detections": times(5.0, 900.0),
            "silence": times(351.0, 380.0),
        }))
        .unwrap();
        let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [false, true, false]);
        assert_eq!(shown.headlines[0].ours, "5.0 ms");
    }
}
