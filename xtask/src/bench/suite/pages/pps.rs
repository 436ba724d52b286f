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
    about: "The kernel makes the packets itself (live frames), with fresh headers each time. The yardstick is an XDP program \
            that redirects every packet unread, in the same lab.",
    show,
};

/// What is promised, of the bare redirect.
const RATIO: f64 = 0.6;

#[derive(Deserialize)]
struct Report {
    bare_pps: f64,
    ours_pps: f64,
    ratio: f64,
    /// Packets that did not arrive.
    lost: u64,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let mut table = Table::new(["program", "packets/s", "of the bare redirect", "lost"]);
    table.push([
        "bare redirect".to_owned(),
        figure(report.bare_pps, 0, ""),
        figure(1.0, 2, ""),
        String::new(),
    ]);
    table.push([
        "ours".to_owned(),
        figure(report.ours_pps, 0, ""),
        figure(report.ratio, 2, ""),
        report.lost.to_string(),
    ]);
    let bars = vec![
        Bar::new("bare redirect", report.bare_pps, Hue::Other),
        Bar::new("ours", report.ours_pps, Hue::Ours).limit(Some(report.bare_pps * RATIO)),
    ];
    Ok(Shown {
        tables: vec![table],
        promises: vec![
            Promise::at_least(
                "packets/s, of the bare redirect's",
                RATIO,
                report.ratio,
                2,
                "×",
            ),
            Promise::none("packets lost", report.lost),
        ],
        chart: Chart::of_bars([Bars::new(PAGE.title, "packets/s", 0, bars).at_least()]),
        headlines: vec![Headline {
            what: "Packets per second through veth".to_owned(),
            ours: figure(report.ours_pps, 0, ""),
            beside: format!("{} redirected unread", figure(report.bare_pps, 0, "")),
        }],
    })
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
}
