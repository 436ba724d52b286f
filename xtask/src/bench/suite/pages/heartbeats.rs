//! What heartbeats cost.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};
use crate::bench::heartbeats::{CORE_PERCENT, LONGEST_DELAY, MEMORY_KIB};

pub(super) const PAGE: Page = Page {
    name: "heartbeats",
    title: "What heartbeats cost the daemon",
    about: "The CPU of the whole daemon while many backends report ten times a second, alone and beside a flood of bad heartbeats; \
            how late the good ones are believed meanwhile, and what becomes of the bad ones.",
    show,
};

#[derive(Deserialize)]
struct Report {
    backends: u32,
    per_second: f64,
    core_percent: f64,
    flood: Flood,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

#[derive(Deserialize)]
struct Flood {
    per_second: f64,
    core_percent: f64,
    good_late: u64,
    good_lost: u64,
    max_delay_ms: f64,
    deaths: u64,
    rss_growth_kib: i64,
    ignored: BTreeMap<String, u64>,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let bars = vec![
        Bar::new("alone", report.core_percent, Hue::Ours).limit(Some(CORE_PERCENT)),
        Bar::new("in a flood", report.flood.core_percent, Hue::Ours),
    ];
    Ok(Shown {
        tables: vec![table(&report), ignored(&report.flood)],
        promises: promises(&report),
        chart: Chart::of_bars([Bars::new(PAGE.title, "% of a core", 1, bars)]),
        headlines: vec![Headline {
            what: format!(
                "Heartbeats of {} backends, part of a core",
                figure(report.backends.into(), 0, "")
            ),
            ours: figure(report.core_percent, 1, "%"),
            beside: format!(
                "{} in a flood of {}",
                figure(report.flood.core_percent, 0, "%"),
                figure(report.flood.per_second, 0, "bad ones a second")
            ),
        }],
    })
}

fn table(report: &Report) -> Table {
    let flood = &report.flood;
    let backends = figure(report.backends.into(), 0, "backends");
    let mut table = Table::new([backends.as_str(), "alone", "in a flood"]);
    let count = |value: u64| figure(value as f64, 0, "");
    for (what, alone, flooded) in [
        (
            "good ones a second",
            figure(report.per_second, 0, ""),
            String::new(),
        ),
        (
            "bad ones a second",
            count(0),
            figure(flood.per_second, 0, ""),
        ),
        (
            "% of a core, whole daemon",
            figure(report.core_percent, 1, ""),
            figure(flood.core_percent, 1, ""),
        ),
        (
            "longest delay, ms",
            String::new(),
            figure(flood.max_delay_ms, 0, ""),
        ),
        ("late by an interval", String::new(), count(flood.good_late)),
        ("lost", String::new(), count(flood.good_lost)),
        ("deaths", String::new(), count(flood.deaths)),
        (
            "memory grew by, KiB",
            String::new(),
            figure(flood.rss_growth_kib as f64, 0, ""),
        ),
    ] {
        table.push([what.to_owned(), alone, flooded]);
    }
    table
}

fn ignored(flood: &Flood) -> Table {
    let mut table = Table::new(["why bad ones are not believed", "how many"]);
    for (reason, count) in &flood.ignored {
        table.push([reason.replace('_', " "), figure(*count as f64, 0, "")]);
    }
    table
}

fn promises(report: &Report) -> Vec<Promise> {
    let flood = &report.flood;
    let delay = LONGEST_DELAY.as_millis() as f64;
    let uncounted = flood.ignored.values().filter(|count| **count == 0).count();
    vec![
        Promise::below(
            "CPU, alone",
            CORE_PERCENT,
            report.core_percent,
            1,
            "% of a core",
        )
        .beside(report.others),
        Promise::none("deaths", flood.deaths),
        Promise::below(
            "longest delay in a flood",
            delay,
            flood.max_delay_ms,
            0,
            "ms",
        )
        .beside(report.others),
        Promise::below(
            "memory",
            MEMORY_KIB as f64,
            flood.rss_growth_kib as f64,
            0,
            "KiB",
        ),
        Promise::none("kinds of bad ones that were not counted", uncounted as u64),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quiet_and_flood_are_judged() {
        let shown = show(&json!({
            "backends": 1_000, "per_second": 9_998.0, "core_percent": 5.0, "threads_percent": {},
            "flood": {
                "per_second": 99_870.0, "sent": 1, "core_percent": 37.0, "threads_percent": {}, "good_late": 0,
                "good_lost": 0, "max_delay_ms": 40, "looks": 80, "deaths": 1, "rss_growth_kib": -12,
                "ignored": {"forged": 10, "wrong_version": 0},
            },
        }))
        .unwrap();
        let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [false, false, true, true, false]);
        assert_eq!(
            shown.headlines[0].beside,
            "37 % in a flood of 99,870 bad ones a second"
        );
        assert!(shown.tables[1].markdown().contains("| wrong version | 0 |"));
    }
}
