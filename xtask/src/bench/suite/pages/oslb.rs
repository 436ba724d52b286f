//! The cases of the OSLB thesis.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "oslb",
    title: "Failed calls when a proxy fails or is busy",
    about: "Cases of the OSLB thesis, with two proxies. A: all is well. C: one proxy fails, its process or its host. E: \
            something else takes the CPU of one. Situations in which no call failed are not drawn. Beside the forwarder stands Kamailio's dispatcher, as it comes and with timers of \
            a second. `ours-ungated` is the forwarder without its gates, to see what they do. LBM, the load balance metric, is \
            the busiest proxy's CPU over the mean, second by second; 1 is even.",
    show,
};

#[derive(Deserialize)]
struct Report {
    cases: Vec<Run>,
    broken: Vec<String>,
    /// What could not be measured; the section tells it.
    #[serde(default)]
    not_measured: Vec<Value>,
}

#[derive(Deserialize)]
struct Run {
    case: String,
    #[serde(rename = "box")]
    name: String,
    fault: String,
    retransmission: bool,
    calls: u64,
    failed: u64,
    lbm: f64,
}

impl Run {
    fn percent(&self) -> f64 {
        self.failed as f64 * 100.0 / self.calls.max(1) as f64
    }

    /// Is it the forwarder as it is meant to be used?
    fn is_ours(&self) -> bool {
        matches!(self.name.as_str(), "ours-rr" | "ours-hash")
    }

    /// What it has in common with those it is compared with.
    fn situation(&self) -> String {
        let again = if self.retransmission {
            ", lost messages are sent again"
        } else {
            ""
        };
        let fault = match self.fault.as_str() {
            "none" => "all is well",
            "process" => "a proxy's process is killed",
            "host" => "a proxy's host is cut off",
            "hog" => "something else takes a proxy's CPU",
            other => other,
        };
        format!("Case {}: {fault}{again}", self.case)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let mut table = Table::new([
        "case",
        "fault",
        "sent again",
        "box",
        "calls",
        "failed",
        "%",
        "LBM",
    ]);
    for run in &report.cases {
        table.push([
            run.case.clone(),
            run.fault.clone(),
            if run.retransmission { "yes" } else { "no" }.to_owned(),
            run.name.clone(),
            figure(run.calls as f64, 0, ""),
            figure(run.failed as f64, 0, ""),
            figure(run.percent(), 2, ""),
            figure(run.lbm, 3, ""),
        ]);
    }
    Ok(Shown {
        tables: vec![table],
        promises: promises(&report),
        chart: Chart::of_bars(panels(&report)),
        headlines: headline(&report).into_iter().collect(),
    })
}

/// One panel for each situation in which a call failed.
fn panels(report: &Report) -> Vec<Bars> {
    let mut panels: Vec<Bars> = Vec::new();
    for run in &report.cases {
        let hue = if run.is_ours() { Hue::Ours } else { Hue::Other };
        let bar = Bar::new(run.name.as_str(), run.percent(), hue);
        let title = run.situation();
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.rows.push(bar),
            None => panels.push(Bars::new(title, "% of calls that failed", 2, vec![bar])),
        }
    }
    panels.retain(|panel| panel.rows.iter().any(|bar| bar.value > 0.0));
    panels
}

/// The bench knows its promises, and says which were not kept.
fn promises(report: &Report) -> Vec<Promise> {
    let broken = report.broken.iter().map(Promise::broken);
    let all = Promise {
        what: format!("all of {} runs", report.cases.len()),
        wanted: "as promised".to_owned(),
        found: "as promised".to_owned(),
        kept: true,
        measured: true,
    };
    match (report.broken.is_empty(), report.not_measured.is_empty()) {
        (false, _) => broken.collect(),
        (true, true) => vec![all],
        (true, false) => vec![Promise::unmeasured(all.what)],
    }
}

/// A killed proxy, nothing sent again: what the callers notice.
fn headline(report: &Report) -> Option<Headline> {
    let killed = |name: &str| {
        let found = report
            .cases
            .iter()
            .find(|run| run.name == name && run.fault == "process" && !run.retransmission);
        found.map(|run| run.failed)
    };
    Some(Headline {
        what: "Calls that fail with a proxy's process".to_owned(),
        ours: killed("ours-rr")?.to_string(),
        beside: format!(
            "Kamailio's dispatcher {}, tuned {}",
            killed("kamailio")?,
            killed("kamailio-tuned")?
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::super::chart::Panel, *};

    fn result(broken: &[&str]) -> Value {
        let run = |name: &str, failed: u64| {
            json!({
                "case": "C", "box": name, "fault": "process", "retransmission": false,
                "calls": 3_000, "failed": failed, "lbm": 1.01, "cpu": [0.1, 0.1], "retransmissions": 0,
            })
        };
        json!({
            "cases": [run("ours-rr", 8), run("kamailio", 1_100), run("kamailio-tuned", 150)],
            "broken": broken,
        })
    }

    #[test]
    fn what_the_bench_calls_broken_is_broken() {
        let shown = show(&result(&["case C: too many"])).unwrap();
        assert_eq!(shown.promises.len(), 1);
        assert!(!shown.promises[0].kept);
        assert!(show(&result(&[])).unwrap().promises[0].kept);
        let mut partly = result(&[]);
        partly["not_measured"] = json!([{"part": "E-ours-rr-hog", "why": "no cgroup"}]);
        assert!(!show(&partly).unwrap().promises[0].measured);
    }

    #[test]
    fn failed_calls_are_told_in_percent() {
        let shown = show(&result(&[])).unwrap();
        let table = shown.tables[0].markdown();
        assert!(
            table.contains("| C | process | no | kamailio | 3,000 | 1,100 | 36.67 | 1.010 |"),
            "{table}"
        );
        let panels = shown.chart.unwrap().panels;
        assert!(
            matches!(&panels[..], [Panel::Bars(bars)] if bars.title == "Case C: a proxy's process is killed"),
            "{panels:?}"
        );
        assert_eq!(
            shown.headlines[0].beside,
            "Kamailio's dispatcher 1100, tuned 150"
        );
    }
}
