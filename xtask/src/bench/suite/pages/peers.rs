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
    about: "One fixed call rate through different boxes in the same lab, and INVITEs alone. What one costs is all CPU time of \
            the box, that of the kernel in its name included, divided by their number. `direct` is plain routing, `bare-xdp` an \
            XDP program that redirects unread: the limit of what veth allows. Half of the rounds lie within the spread.",
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
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "box")]
    name: String,
    us_per_call: f64,
    /// Not of every box.
    us_per_invite: Option<f64>,
    us_per_call_spread: Option<f64>,
    us_per_invite_spread: Option<f64>,
}

/// A figure of a row, and its spread.
#[derive(Clone, Copy)]
struct Measured {
    us: f64,
    spread: Option<f64>,
}

/// What is measured in each box.
#[derive(Clone, Copy)]
enum Kind {
    Call,
    Invite,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Invite => "INVITE",
        }
    }

    fn of(self, row: &Row) -> Option<Measured> {
        let (us, spread) = match self {
            Self::Call => (Some(row.us_per_call), row.us_per_call_spread),
            Self::Invite => (row.us_per_invite, row.us_per_invite_spread),
        };
        Some(Measured { us: us?, spread })
    }
}

impl Report {
    fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    Ok(Shown {
        tables: vec![table(&report)],
        promises: vec![promise(&report, Kind::Call), promise(&report, Kind::Invite)],
        chart: Chart::of_bars([bars(&report, Kind::Call), bars(&report, Kind::Invite)]),
        headlines: headline(&report).into_iter().collect(),
    })
}

fn table(report: &Report) -> Table {
    let direct = report.find(DIRECT);
    let mut table = Table::new([
        "box",
        "µs per call",
        "of plain routing",
        "spread",
        "µs per INVITE",
        "spread",
    ]);
    let us = |us: Option<f64>, digits| us.map(|us| figure(us, digits, "")).unwrap_or_default();
    for row in &report.rows {
        table.push([
            row.name.clone(),
            us(Some(row.us_per_call), 1),
            us(direct.map(|direct| row.us_per_call / direct.us_per_call), 2),
            us(row.us_per_call_spread, 1),
            us(row.us_per_invite, 2),
            us(row.us_per_invite_spread, 2),
        ]);
    }
    table
}

/// What plain routing costs; where even the bare redirect costs more, that and a part of it.
fn limit(report: &Report, kind: Kind) -> Option<f64> {
    let us = |name| Some(kind.of(report.find(name)?)?.us);
    let direct = us(DIRECT)?;
    let bare = us(BARE).filter(|bare| *bare > direct);
    Some(bare.map_or(direct, |bare| bare * OF_BARE))
}

fn promise(report: &Report, kind: Kind) -> Promise {
    let what = format!(
        "CPU per {}: plain routing's, or {OF_BARE} times the bare redirect's where that costs more than routing",
        kind.name()
    );
    let ours = report.find(OURS).and_then(|row| kind.of(row));
    match ours.zip(limit(report, kind)) {
        Some((ours, limit)) => {
            Promise::at_most(what, limit, ours.us, 2, "µs").beside(report.others)
        }
        None => Promise::unmeasured(what),
    }
}

fn bars(report: &Report, kind: Kind) -> Bars {
    let bars = report.rows.iter().filter_map(|row| {
        let measured = kind.of(row)?;
        let (hue, limit) = if row.name == OURS {
            (Hue::Ours, limit(report, kind))
        } else {
            (Hue::Other, None)
        };
        let bar = Bar::new(row.name.as_str(), measured.us, hue).limit(limit);
        Some(bar.spread(measured.spread))
    });
    let title = format!("CPU per {} in the box between", kind.name());
    let axis = format!("µs per {}", kind.name());
    Bars::new(title, axis, 2, bars.collect())
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

    fn shown(ours: f64, bare: f64) -> Shown {
        show(&json!({"rows": [
            {"box": "ours", "us_per_call": ours, "us_per_invite": 2.0, "us_per_call_spread": 0.4},
            {"box": "direct", "us_per_call": 34.0, "us_per_invite": 2.1},
            {"box": "nft", "us_per_call": 41.0, "us_per_invite": 2.6},
            {"box": "kamailio", "us_per_call": 194.0, "us_per_invite": 28.0},
            {"box": "bare-xdp", "us_per_call": bare, "us_per_invite": 1.2},
        ], "broken": []}))
        .unwrap()
    }

    #[test]
    fn routing_is_the_measure_unless_the_bare_redirect_costs_more() {
        let kept = |ours: f64, bare: f64| shown(ours, bare).promises[0].kept;
        assert!(kept(34.0, 30.0));
        assert!(!kept(34.1, 30.0));
        assert!(kept(52.0, 40.0));
        assert!(!kept(52.1, 40.0));
        assert_eq!(shown(30.0, 20.0).promises[1].wanted, "≤ 2.10 µs");
    }

    #[test]
    fn nothing_is_promised_of_what_was_not_measured() {
        let shown = show(&json!({"rows": [{"box": "ours", "us_per_call": 9.0}]})).unwrap();
        assert!(
            shown
                .promises
                .iter()
                .all(|promise| promise.found == "not measured")
        );
    }

    #[test]
    fn boxes_stand_beside_each_other() {
        let shown = shown(27.0, 30.0);
        let table = shown.tables[0].markdown();
        assert!(
            table.contains("| ours | 27.0 | 0.79 | 0.4 | 2.00 |  |"),
            "{table}"
        );
        assert_eq!(
            shown.headlines[0].beside,
            "direct 34, nft 41, kamailio 194, bare-xdp 30"
        );
        assert_eq!(shown.chart.unwrap().panels.len(), 2);
    }
}
