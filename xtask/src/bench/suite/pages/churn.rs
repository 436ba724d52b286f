//! Calls while everything changes.

use serde::Deserialize;
use serde_json::Value;

use super::super::page::{Headline, Page, Promise, Shown, Table, figure};

pub(super) const PAGE: Page = Page {
    name: "churn",
    title: "Calls while everything around them changes",
    about: "Calls of 2 s without a pause, while a gate closes and opens, weights are pushed, proxies drain, die, return and join, \
            and the daemon restarts. A split call left a proxy that lived; a moved one left a proxy that died.",
    show,
};

#[derive(Deserialize)]
struct Report {
    calls: u64,
    failed: u64,
    split_calls: u64,
    moved_calls: u64,
    retransmissions: u64,
    gate_flips: u64,
    weight_pushes: u64,
    drains: u64,
    deaths: u64,
    joins: u64,
    daemon_restarts: u64,
    seconds: f64,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let counts = |head: &str, rows: &[(&str, u64)]| {
        let mut table = Table::new([head, ""]);
        for (what, count) in rows {
            table.push([(*what).to_owned(), figure(*count as f64, 0, "")]);
        }
        table
    };
    let calls = [
        ("calls", report.calls),
        ("failed", report.failed),
        ("split", report.split_calls),
        ("moved", report.moved_calls),
        ("messages sent again", report.retransmissions),
    ];
    let changes = [
        ("gate flips", report.gate_flips),
        ("weights pushed", report.weight_pushes),
        ("drained and enabled", report.drains),
        ("killed and returned", report.deaths),
        ("joined", report.joins),
        ("daemon restarts", report.daemon_restarts),
    ];
    let head = format!("in {}", figure(report.seconds, 0, "s"));
    let happened: u64 = changes.iter().map(|(_, count)| count).sum();
    Ok(Shown {
        tables: vec![counts(&head, &calls), counts("meanwhile", &changes)],
        promises: vec![
            Promise::none("calls that failed", report.failed),
            Promise::none("calls that left a proxy that lived", report.split_calls),
        ],
        chart: None,
        headlines: vec![Headline {
            what: "Calls that failed or changed a living proxy".to_owned(),
            ours: figure((report.failed + report.split_calls) as f64, 0, ""),
            beside: format!(
                "of {}, during {} changes",
                figure(report.calls as f64, 0, ""),
                figure(happened as f64, 0, "")
            ),
        }],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn failed_and_split_calls_are_judged() {
        let shown = show(&json!({
            "calls": 18_000, "failed": 0, "split_calls": 1, "moved_calls": 190, "retransmissions": 3,
            "gate_flips": 24, "weight_pushes": 5, "drains": 1, "deaths": 1, "joins": 1, "daemon_restarts": 1,
            "backends": [{"name": "p1", "calls": 9_000}], "seconds": 62.0,
        }))
        .unwrap();
        let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [true, false]);
        assert_eq!(shown.headlines[0].beside, "of 18,000, during 33 changes");
        assert!(shown.tables[0].markdown().contains("| calls | 18,000 |"));
    }
}
