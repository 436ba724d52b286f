//! Ways to build the workers.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Page, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "architectures",
    title: "Ways to build the workers",
    about: "The server architectures of Singh and Schulzrinne (2007, table 1), each sending the same messages on. Nothing is \
            promised of them: this is why the workers are built as they are.",
    show,
};

#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    architecture: String,
    messages_per_s: f64,
    us_per_message: f64,
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let mut table = Table::new(["architecture", "messages/s", "µs per message"]);
    for row in &report.rows {
        table.push([
            row.architecture.clone(),
            figure(row.messages_per_s, 0, ""),
            figure(row.us_per_message, 2, ""),
        ]);
    }
    let bars = |of: fn(&Row) -> f64| -> Vec<Bar> {
        let bar = |row: &Row| Bar::new(row.architecture.as_str(), of(row), Hue::Ours);
        report.rows.iter().map(bar).collect()
    };
    Ok(Shown {
        tables: vec![table],
        chart: Chart::of_bars([
            Bars::new(
                "Highest clean rate",
                "messages/s",
                0,
                bars(|row| row.messages_per_s),
            ),
            Bars::new(
                "CPU of a message",
                "µs per message",
                2,
                bars(|row| row.us_per_message),
            ),
        ]),
        ..Shown::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn architectures_are_shown_and_not_judged() {
        let shown = show(&json!({"rows": [
            {"architecture": "event-loop", "messages_per_s": 120_000.0, "us_per_message": 7.25},
            {"architecture": "reuseport-per-core", "messages_per_s": 240_000.0, "us_per_message": 6.5},
        ]}))
        .unwrap();
        let table = shown.tables[0].markdown();
        assert!(table.contains("| event-loop | 120,000 | 7.25 |"), "{table}");
        assert_eq!(shown.promises, []);
        assert_eq!(shown.chart.unwrap().panels.len(), 2);
    }
}
