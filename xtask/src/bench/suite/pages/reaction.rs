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
    pushes: Option<Times>,
    detections: Option<Times>,
    silence: Option<Times>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
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
    for (what, times) in &rows {
        let Some(times) = times else { continue };
        table.push([
            (*what).to_owned(),
            times.rounds.to_string(),
            figure(times.median_ms, 1, ""),
            figure(times.max_ms, 1, ""),
        ]);
    }
    let promise = |what: String, limit: f64, of: fn(&Times) -> f64, times: &Option<Times>| {
        times.as_ref().map_or_else(
            || Promise::unmeasured(&what),
            |times| Promise::at_most(&what, limit, of(times), 1, "ms").beside(report.others),
        )
    };
    let median = |what: &str, times: &Option<Times>| {
        let what = format!("{what}: median");
        promise(what, DETECTION_MS, |times| times.median_ms, times)
    };
    Ok(Shown {
        tables: vec![table],
        promises: vec![
            promise(
                "a weight was pushed: longest".to_owned(),
                PUSH_MS,
                |times| times.max_ms,
                &report.pushes,
            ),
            median("a proxy's process was killed", &report.detections),
            median("a proxy's host fell silent", &report.silence),
        ],
        chart: Chart::of_bars([Bars::new(PAGE.title, "ms", 1, bars(&report))]),
        headlines: headline(&report).into_iter().collect(),
    })
}

fn bars(report: &Report) -> Vec<Bar> {
    let bar = |label: String, value: f64, limit: Option<f64>| {
        Bar::new(label, value, Hue::Ours).limit(limit)
    };
    let pair = |(what, times, median, longest): (&str, &Option<Times>, _, _)| {
        let times = times.as_ref()?;
        Some([
            bar(format!("{what}, median"), times.median_ms, median),
            bar(format!("{what}, longest"), times.max_ms, longest),
        ])
    };
    [
        ("weight", &report.pushes, None, Some(PUSH_MS)),
        ("process", &report.detections, Some(DETECTION_MS), None),
        ("host", &report.silence, Some(DETECTION_MS), None),
    ]
    .into_iter()
    .filter_map(pair)
    .flatten()
    .collect()
}

fn headline(report: &Report) -> Option<Headline> {
    let silence = report.silence.as_ref()?;
    Some(Headline {
        what: "New calls leave a killed proxy after".to_owned(),
        ours: figure(report.detections.as_ref()?.median_ms, 1, "ms"),
        beside: format!(
            "{} if its host falls silent",
            figure(silence.median_ms, 0, "ms")
        ),
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

    #[test]
    fn a_part_may_be_missing() {
        let shown = show(&json!({
            "pushes": null,
            "detections": {"rounds": 20, "median_ms": 5.0, "max_ms": 9.0},
            "silence": null,
        }))
        .unwrap();
        let measured: Vec<bool> = shown.promises.iter().map(|p| p.measured).collect();
        assert_eq!(measured, [false, true, false]);
        assert!(shown.headlines.is_empty());
    }
}
