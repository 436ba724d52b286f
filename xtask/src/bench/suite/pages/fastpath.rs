//! Nanoseconds per packet.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "fastpath",
    title: "The XDP program, packet by packet",
    about: "Nanoseconds per packet by `BPF_PROG_TEST_RUN`, medians of interleaved rounds. The baseline is a program that \
            swaps the MAC addresses and sends the frame back. Half of the rounds lie within the spread. `invite`, `bye` and \
            `ok` are SIPp's messages, `invite-long` has 1,400 bytes and ten Vias, `mixed` has all lengths by turns, `return` is \
            a backend's response on its way to the client, `return-request` a backend's own request.",
    show,
};

/// The highest promised ratio to the baseline, by case, for either family.
const LIMITS: [(&str, f64); 7] = [
    ("invite", 12.0),
    ("bye", 12.0),
    ("ok", 12.0),
    ("invite-long", 22.0),
    ("mixed", 13.0),
    ("return", 8.0),
    ("return-request", 14.0),
];
/// What IPv6 may cost, of IPv4.
const FAMILIES: f64 = 1.10;
/// Instructions the verifier may go through.
const VERIFIED: f64 = 250_000.0;
const V6: &str = "-v6";

#[derive(Deserialize)]
struct Report {
    baseline_ns: f64,
    cases: Vec<Case>,
    verified_insns: u32,
    jitted_bytes: u32,
    affinity_entries: Option<u32>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
    against: Option<Against>,
}

/// The comparison with an older revision.
#[derive(Deserialize)]
struct Against {
    revision: String,
    cases: Vec<Compared>,
}

#[derive(Deserialize)]
struct Compared {
    name: String,
    old_ns: f64,
    new_ns: f64,
    ratio: f64,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    ns: f64,
    ratio: f64,
    spread_ns: Option<f64>,
}

impl Case {
    fn limit(&self) -> Option<f64> {
        let kind = self.name.strip_suffix(V6).unwrap_or(&self.name);
        let (_, limit) = LIMITS.iter().find(|(name, _)| *name == kind)?;
        Some(*limit)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    Ok(Shown {
        tables: [table(&report), size(&report)]
            .into_iter()
            .chain(report.against.as_ref().map(against))
            .collect(),
        promises: promises(&report),
        chart: chart(&report),
        headlines: headlines(&report),
    })
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(["packet", "ns", "× baseline", "spread, ns"]);
    table.push([
        "baseline".to_owned(),
        figure(report.baseline_ns, 0, ""),
        figure(1.0, 1, ""),
        String::new(),
    ]);
    for case in &report.cases {
        table.push([
            case.name.clone(),
            figure(case.ns, 0, ""),
            figure(case.ratio, 1, ""),
            case.spread_ns
                .map(|ns| figure(ns, 1, ""))
                .unwrap_or_default(),
        ]);
    }
    table
}

fn size(report: &Report) -> Table {
    let mut table = Table::new(["the program", ""]);
    table.push([
        "instructions the verifier went through".to_owned(),
        figure(report.verified_insns.into(), 0, ""),
    ]);
    if let Some(entries) = report.affinity_entries {
        table.push([
            "entries in the affinity map meanwhile".to_owned(),
            figure(entries.into(), 0, ""),
        ]);
    }
    table.push([
        "machine code".to_owned(),
        figure(report.jitted_bytes.into(), 0, "bytes"),
    ]);
    table
}

fn against(against: &Against) -> Table {
    let revision = against.revision.get(..12).unwrap_or(&against.revision);
    let old = format!("ns, {revision}");
    let mut table = Table::new(["packet", &old, "ns, now", "ratio", "95 % of it"]);
    for case in &against.cases {
        let interval = format!("{:.3} to {:.3}", case.low, case.high);
        table.push([
            case.name.clone(),
            figure(case.old_ns, 0, ""),
            figure(case.new_ns, 0, ""),
            figure(case.ratio, 3, ""),
            interval,
        ]);
    }
    table
}

fn promises(report: &Report) -> Vec<Promise> {
    let names = ["", V6].into_iter().flat_map(|family| {
        let named = move |(kind, limit): (&str, f64)| (format!("{kind}{family}"), limit);
        LIMITS.into_iter().map(named)
    });
    let ratios = names.map(|(name, limit)| {
        let what = format!("`{name}`");
        match report.cases.iter().find(|case| case.name == name) {
            Some(case) => {
                Promise::at_most(what, limit, case.ratio, 1, "× baseline").beside(report.others)
            }
            None => Promise::unmeasured(what),
        }
    });
    let families = report.cases.iter().filter_map(|six| {
        let name = six.name.strip_suffix(V6)?;
        let four = report.cases.iter().find(|case| case.name == name)?;
        let what = format!("`{}`, of `{name}`", six.name);
        let promise = Promise::at_most(what, FAMILIES, six.ns / four.ns, 2, "×");
        Some(promise.beside(report.others))
    });
    let verified = Promise::at_most(
        "instructions the verifier goes through",
        VERIFIED,
        report.verified_insns.into(),
        0,
        "",
    );
    ratios.chain(families).chain([verified]).collect()
}

fn chart(report: &Report) -> Option<Chart> {
    let baseline = Bar::new("baseline", report.baseline_ns, Hue::Other);
    let cases = report.cases.iter().map(|case| {
        let limit = case.limit().map(|ratio| ratio * report.baseline_ns);
        let bar = Bar::new(case.name.as_str(), case.ns, Hue::Ours).limit(limit);
        bar.spread(case.spread_ns)
    });
    let bars = [baseline].into_iter().chain(cases).collect();
    Chart::of_bars([Bars::new(PAGE.title, "ns per packet", 0, bars)])
}

fn headlines(report: &Report) -> Vec<Headline> {
    let case = report.cases.iter().find(|case| case.name == "invite");
    case.map(|case| Headline {
        what: "XDP program, SIPp's INVITE".to_owned(),
        ours: figure(case.ns, 0, "ns"),
        beside: format!(
            "{} to send the frame back unread",
            figure(report.baseline_ns, 0, "ns")
        ),
    })
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ratios_families_and_the_verifier_are_judged() {
        let shown = show(&json!({
            "baseline_ns": 10.0,
            "cases": [
                {"name": "invite", "ns": 110.0, "ratio": 11.0, "spread_ns": 4.0},
                {"name": "return", "ns": 90.0, "ratio": 9.0, "spread_ns": 4.0},
                {"name": "invite-v6", "ns": 122.0, "ratio": 12.2},
                {"name": "else", "ns": 900.0, "ratio": 90.0},
            ],
            "verified_insns": 163_296,
            "jitted_bytes": 31_632,
            "affinity_entries": 1_000_000,
            "against": {"revision": "e77b98801e86929a", "cases": [
                {"name": "invite", "old_ns": 100.0, "new_ns": 110.0, "ratio": 1.1, "low": 1.02, "high": 1.12},
            ]},
        }))
        .unwrap();
        let (unmeasured, judged): (Vec<_>, Vec<_>) = shown
            .promises
            .iter()
            .partition(|promise| promise.found == "not measured");
        let broken: Vec<&str> = judged
            .iter()
            .filter(|promise| !promise.kept)
            .map(|promise| promise.what.as_str())
            .collect();
        assert_eq!(
            broken,
            ["`return`", "`invite-v6`", "`invite-v6`, of `invite`"]
        );
        assert_eq!(judged.len(), 5);
        assert_eq!(unmeasured.len(), 2 * LIMITS.len() - 3);
        assert!(unmeasured.iter().all(|promise| !promise.kept));
        assert!(
            shown.tables[0]
                .markdown()
                .contains("| return | 90 | 9.0 | 4.0 |")
        );
        let against = shown.tables[2].markdown();
        assert!(
            against.contains("| invite | 100 | 110 | 1.100 | 1.020 to 1.120 |")
                && against.contains("ns, e77b98801e86 |"),
            "{against}"
        );
        assert_eq!(shown.headlines[0].ours, "110 ns");
        assert!(shown.chart.is_some());
    }
}
