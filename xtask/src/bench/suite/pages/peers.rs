//! CPU of a call, in different boxes.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "peers",
    title: "CPU of a call in the box between",
    about: "One fixed call rate through different boxes in the same lab. What a call costs is all CPU time of the box, that of \
            the kernel in its name included, by call; what an INVITE costs is its way through the box. `direct` is plain \
            routing, `bare-xdp` an XDP program that redirects unread: the limit of what veth allows.",
    show,
};

/// Where veth's own copying stands in the way, so much of the bare redirect's is promised instead of plain routing's.
const OF_BARE: f64 = 1.3;
const OURS: &str = "ours";
const DIRECT: &str = "direct";
const BARE: &str = "bare-xdp";

#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "box")]
    name: String,
    us_per_call: f64,
    /// Not of every box.
    us_per_invite: Option<f64>,
}

impl Report {
    fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let per_call: fn(&Row) -> Option<f64> = |row| Some(row.us_per_call);
    let per_invite: fn(&Row) -> Option<f64> = |row| row.us_per_invite;
    Ok(Shown {
        tables: vec![table(&report)],
        promises: [
            ("CPU of a call", per_call),
            ("way of an INVITE", per_invite),
        ]
        .into_iter()
        .map(|(what, of)| promise(&report, what, of))
        .collect(),
        chart: Chart::of_bars([
            bars(
                &report,
                "CPU of a call in the box between",
                "µs of CPU per call",
                per_call,
            ),
            bars(
                &report,
                "An INVITE on its way through the box",
                "µs per INVITE",
                per_invite,
            ),
        ]),
        headlines: headline(&report).into_iter().collect(),
    })
}

fn table(report: &Report) -> Table {
    let direct = report.find(DIRECT);
    let mut table = Table::new(["box", "µs per call", "of plain routing", "µs per INVITE"]);
    for row in &report.rows {
        table.push([
            row.name.clone(),
            figure(row.us_per_call, 1, ""),
            direct
                .map(|direct| figure(row.us_per_call / direct.us_per_call, 2, ""))
                .unwrap_or_default(),
            row.us_per_invite
                .map(|us| figure(us, 1, ""))
                .unwrap_or_default(),
        ]);
    }
    table
}

/// What plain routing costs, or else what the bare redirect costs and a part more, whichever is more.
fn limit(report: &Report, of: fn(&Row) -> Option<f64>) -> Option<f64> {
    let direct = report.find(DIRECT).and_then(of);
    let bare = report.find(BARE).and_then(of).map(|us| us * OF_BARE);
    direct.into_iter().chain(bare).reduce(f64::max)
}

fn promise(report: &Report, what: &str, of: fn(&Row) -> Option<f64>) -> Promise {
    let what =
        format!("{what}: plain routing's, or {OF_BARE} times the bare redirect's if that is more");
    let ours = report.find(OURS).and_then(of);
    match ours.zip(limit(report, of)) {
        Some((ours, limit)) => Promise::at_most(what, limit, ours, 1, "µs"),
        None => Promise::unmeasured(what),
    }
}

fn bars(report: &Report, title: &str, axis: &str, of: fn(&Row) -> Option<f64>) -> Bars {
    let limit = limit(report, of);
    let bars = report.rows.iter().filter_map(|row| {
        let value = of(row)?;
        Some(if row.name == OURS {
            Bar::new(OURS, value, Hue::Ours).limit(limit)
        } else {
            Bar::new(row.name.as_str(), value, Hue::Other)
        })
    });
    Bars::new(title, axis, 1, bars.collect())
}

fn headline(report: &Report) -> Option<Headline> {
    let ours = report.find(OURS)?;
    let others: Vec<String> = report
        .rows
        .iter()
        .filter(|row| row.name != OURS)
        .map(|row| format!("{} {}", row.name, figure(row.us_per_call, 0, "")))
        .collect();
    Some(Headline {
        what: "CPU of a call in the box, µs".to_owned(),
        ours: figure(ours.us_per_call, 0, ""),
        beside: others.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(ours: f64) -> Shown {
        show(&json!({"rows": [
            {"box": "ours", "us_per_call": ours, "us_per_invite": 2.0},
            {"box": "direct", "us_per_call": 34.0, "us_per_invite": 2.1},
            {"box": "nft", "us_per_call": 41.0, "us_per_invite": 2.6},
            {"box": "kamailio", "us_per_call": 194.0, "us_per_invite": 28.0},
            {"box": "bare-xdp", "us_per_call": 30.0, "us_per_invite": 1.2},
        ]}))
        .unwrap()
    }

    #[test]
    fn the_larger_of_both_limits_counts() {
        assert!(shown(39.0).promises[0].kept);
        assert!(!shown(39.1).promises[0].kept);
        assert_eq!(shown(39.0).promises[1].wanted, "≤ 2.1 µs");
    }

    #[test]
    fn boxes_stand_beside_each_other() {
        let shown = shown(27.0);
        let table = shown.tables[0].markdown();
        assert!(table.contains("| ours | 27.0 | 0.79 | 2.0 |"), "{table}");
        assert_eq!(
            shown.headlines[0].beside,
            "direct 34, nft 41, kamailio 194, bare-xdp 30"
        );
        assert_eq!(shown.chart.unwrap().panels.len(), 2);
    }
}
