//! SIPp's highest clean rate.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "sipp",
    title: "SIPp's highest clean call rate",
    about: "Calls per second that SIPp makes without a failure (strict mode: no message of a call comes out of order), through \
            the forwarder, and with nothing between caller and callee.",
    show,
};

/// What is promised, of the rate with nothing between.
const RATIO: f64 = 0.95;

const PROMISE: &str = "calls/s, of the rate with nothing between";

#[derive(Deserialize)]
struct Report {
    direct_cps: f64,
    ours_cps: f64,
    ratio: Option<f64>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let mut table = Table::new(["between caller and callee", "calls/s", "of nothing"]);
    table.push([
        "nothing".to_owned(),
        figure(report.direct_cps, 0, ""),
        figure(1.0, 2, ""),
    ]);
    table.push([
        "ours".to_owned(),
        figure(report.ours_cps, 0, ""),
        report
            .ratio
            .map(|ratio| figure(ratio, 2, ""))
            .unwrap_or_default(),
    ]);
    let bars = vec![
        Bar::new("nothing between", report.direct_cps, Hue::Other),
        Bar::new("ours", report.ours_cps, Hue::Ours).limit(Some(report.direct_cps * RATIO)),
    ];
    Ok(Shown {
        tables: vec![table],
        promises: vec![report.ratio.map_or_else(
            || Promise::unmeasured(PROMISE),
            |ratio| Promise::at_least(PROMISE, RATIO, ratio, 2, "×").beside(report.others),
        )],
        chart: Chart::of_bars([Bars::new(PAGE.title, "calls/s", 0, bars).at_least()]),
        headlines: vec![Headline {
            what: "SIPp's highest clean rate, calls per second".to_owned(),
            ours: figure(report.ours_cps, 0, ""),
            beside: format!("{} with nothing between", figure(report.direct_cps, 0, "")),
        }],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_ratio_is_judged() {
        let kept = |ratio: f64| {
            let result =
                json!({"direct_cps": 10_000.0, "ours_cps": 10_000.0 * ratio, "ratio": ratio});
            show(&result).unwrap().promises[0].kept
        };
        assert!(kept(0.95));
        assert!(!kept(0.94));
        let none = json!({"direct_cps": 0, "ours_cps": 0, "ratio": null});
        assert!(!show(&none).unwrap().promises[0].measured);
    }
}
