//! Packets per second.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "pps",
    title: "Packets per second through veth",
    about: "The kernel makes the packets itself (live frames), with fresh headers each time. The baseline is an XDP program \
            that redirects every packet unread, in the same lab.",
    show,
};

/// What is promised, of the bare redirect.
const RATIO: f64 = 0.6;

#[derive(Deserialize)]
struct Report {
    #[serde(flatten)]
    one_core: Option<Rates>,
    /// Two queues, on two cores.
    two_cores: Option<Rates>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

/// Rates of one number of cores.
#[derive(Deserialize)]
struct Rates {
    bare_pps: f64,
    ours_pps: f64,
    ratio: f64,
    /// Packets that did not arrive.
    lost: u64,
    bare_spread_pps: Option<f64>,
    ours_spread_pps: Option<f64>,
}

impl Report {
    /// Each number of cores, in words.
    fn all(&self) -> impl Iterator<Item = (&'static str, &Rates)> {
        let one = self.one_core.as_ref().map(|rates| ("one core", rates));
        let two = self.two_cores.as_ref().map(|rates| ("two cores", rates));
        one.into_iter().chain(two)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let one = report.one_core.as_ref();
    let missing = one
        .is_none()
        .then(|| Promise::unmeasured("packets/s on one core"));
    let bars = report.all().flat_map(|(cores, rates)| rates.bars(cores));
    Ok(Shown {
        tables: vec![table(&report)],
        promises: report
            .all()
            .flat_map(|(cores, rates)| rates.promises(cores, report.others))
            .chain(missing)
            .collect(),
        chart: Chart::of_bars([Bars::new(PAGE.title, "packets/s", 0, bars.collect()).at_least()]),
        headlines: one
            .map(|one| Headline {
                what: "Packets per second through veth, one core".to_owned(),
                ours: figure(one.ours_pps, 0, ""),
                beside: format!("{} redirected unread", figure(one.bare_pps, 0, "")),
            })
            .into_iter()
            .collect(),
    })
}

impl Rates {
    fn bars(&self, cores: &str) -> [Bar; 2] {
        let bare = Bar::new(format!("bare redirect, {cores}"), self.bare_pps, Hue::Other);
        let ours = Bar::new(format!("ours, {cores}"), self.ours_pps, Hue::Ours);
        [
            bare.spread(self.bare_spread_pps),
            ours.spread(self.ours_spread_pps)
                .limit(Some(self.bare_pps * RATIO)),
        ]
    }

    fn promises(&self, cores: &str, others: Option<f64>) -> [Promise; 2] {
        let what = format!("packets/s on {cores}, of the bare redirect's");
        [
            Promise::at_least(what, RATIO, self.ratio, 2, "×").beside(others),
            Promise::none(format!("packets lost on {cores}"), self.lost),
        ]
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "program",
        "cores",
        "packets/s",
        "spread",
        "of the bare redirect",
        "lost",
    ]);
    let spread = |spread: Option<f64>| spread.map(|pps| figure(pps, 0, "")).unwrap_or_default();
    for (cores, rates) in report.all() {
        table.push([
            "bare redirect".to_owned(),
            cores.to_owned(),
            figure(rates.bare_pps, 0, ""),
            spread(rates.bare_spread_pps),
            figure(1.0, 2, ""),
            String::new(),
        ]);
        table.push([
            "ours".to_owned(),
            cores.to_owned(),
            figure(rates.ours_pps, 0, ""),
            spread(rates.ours_spread_pps),
            figure(rates.ratio, 2, ""),
            rates.lost.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rate_and_loss_are_judged() {
        let of = |ratio: f64, lost: u64| {
            let result =
                json!({"bare_pps": 1e7, "ours_pps": 1e7 * ratio, "ratio": ratio, "lost": lost});
            let shown = show(&result).unwrap();
            let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
            kept
        };
        assert_eq!(of(0.6, 0), [true, true]);
        assert_eq!(of(0.59, 1), [false, false]);
    }

    #[test]
    fn two_cores_stand_beside_one() {
        let shown = show(&json!({
            "bare_pps": 1e7, "ours_pps": 7e6, "ratio": 0.7, "lost": 0, "bare_spread_pps": 1e5, "ours_spread_pps": 2e5,
            "two_cores": {"bare_pps": 1.9e7, "ours_pps": 1e7, "ratio": 0.526, "lost": 3},
            "scaling": 1.43, "missed": [],
        }))
        .unwrap();
        let kept: Vec<bool> = shown.promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [true, true, false, false]);
        let table = shown.tables[0].markdown();
        assert!(
            table.contains("| ours | two cores | 10,000,000 |  | 0.53 | 3 |"),
            "{table}"
        );
    }
}
