//! The workers, message by message.

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    chart::{Bar, Bars, Chart, Hue},
    page::{Headline, Page, Promise, Shown, Table, figure},
};

pub(super) const PAGE: Page = Page {
    name: "slowpath",
    title: "One worker in userspace",
    about: "A box on one core sends requests on to a sink; the rate is raised until messages are lost. What a message costs is \
            the CPU time of all processes of the box at the highest clean rate. Kamailio does a stateless `forward()` in one \
            child, nginx has one worker of its stream proxy. Where the generator could send no more, the box may be faster.",
    show,
};

/// What is promised, of Kamailio's rate.
const OF_KAMAILIO: f64 = 4.0;
/// Messages per second through 100 connections on one core.
const TCP: f64 = 20_000.0;
/// Memory, in MB, of connections without traffic.
const IDLE_MB: f64 = 150.0;
const OURS: &str = "ours";

#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
    attack: Option<Attacked>,
    /// The part of the CPU that other programs had meanwhile.
    others: Option<f64>,
}

/// The same calls, alone and beside attackers.
#[derive(Deserialize)]
struct Attacked {
    transport: String,
    #[serde(rename = "without")]
    alone: Calls,
    #[serde(rename = "with")]
    beside: Calls,
    attackers: u64,
    garbage_bytes_per_s: f64,
    memory_mb: f64,
}

#[derive(Deserialize)]
struct Calls {
    calls_per_s: f64,
    failed: u64,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "box")]
    name: String,
    transport: String,
    msgs_per_s: f64,
    us_per_msg: f64,
    limited_by: Option<String>,
    idle_connections: Option<u64>,
    idle_mb: Option<f64>,
}

impl Row {
    fn hue(&self) -> Hue {
        if self.name == OURS {
            Hue::Ours
        } else {
            Hue::Other
        }
    }

    fn label(&self) -> String {
        format!("{}, {}", self.name, self.transport)
    }
}

impl Report {
    fn find(&self, name: &str, transport: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.name == name && row.transport == transport)
    }

    /// Messages per second that are promised of a row.
    fn least(&self, row: &Row) -> Option<f64> {
        match (row.name.as_str(), row.transport.as_str()) {
            (OURS, "udp") => Some(self.find("kamailio", "udp")?.msgs_per_s * OF_KAMAILIO),
            (OURS, "tcp") => Some(TCP),
            _ => None,
        }
    }

    /// Microseconds per message that are promised of a row.
    fn most(&self, row: &Row) -> Option<f64> {
        let is_ours = row.name == OURS && row.transport == "udp";
        is_ours
            .then(|| self.find("nginx", "udp"))
            .flatten()
            .map(|nginx| nginx.us_per_msg)
    }
}

fn show(result: &Value) -> serde_json::Result<Shown> {
    let report = Report::deserialize(result)?;
    let rates = report
        .rows
        .iter()
        .map(|row| Bar::new(row.label(), row.msgs_per_s, row.hue()).limit(report.least(row)));
    let costs = report
        .rows
        .iter()
        .map(|row| Bar::new(row.label(), row.us_per_msg, row.hue()).limit(report.most(row)));
    Ok(Shown {
        tables: [Some(table(&report)), idle(&report), attack(&report)]
            .into_iter()
            .flatten()
            .collect(),
        promises: promises(&report),
        chart: Chart::of_bars([
            Bars::new(
                "Highest clean rate on one core",
                "messages/s",
                0,
                rates.collect(),
            )
            .at_least(),
            Bars::new("CPU of a message", "µs per message", 2, costs.collect()),
        ]),
        headlines: headline(&report).into_iter().collect(),
    })
}

fn table(report: &Report) -> Table {
    let mut table = Table::new([
        "box",
        "transport",
        "messages/s",
        "µs per message",
        "limited by",
    ]);
    for row in &report.rows {
        table.push([
            row.name.clone(),
            row.transport.clone(),
            figure(row.msgs_per_s, 0, ""),
            figure(row.us_per_msg, 2, ""),
            row.limited_by.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// What connections without traffic cost.
fn idle(report: &Report) -> Option<Table> {
    let mut table = Table::new(["transport", "idle connections", "memory, MB"]);
    let mut rows = report
        .rows
        .iter()
        .filter_map(|row| Some((row, row.idle_connections?, row.idle_mb?)))
        .peekable();
    rows.peek()?;
    for (row, connections, mb) in rows {
        let connections = figure(connections as f64, 0, "");
        table.push([row.transport.clone(), connections, figure(mb, 1, "")]);
    }
    Some(table)
}

fn attack(report: &Report) -> Option<Table> {
    let attack = report.attack.as_ref()?;
    let head = format!("calls over {}", attack.transport);
    let beside = format!("beside {} attackers", attack.attackers);
    let mut table = Table::new([head.as_str(), "alone", &beside]);
    let both = |of: fn(&Calls) -> f64| {
        [&attack.alone, &attack.beside].map(|calls| figure(of(calls), 0, ""))
    };
    let [alone, attacked] = both(|calls| calls.calls_per_s);
    table.push(["calls/s".to_owned(), alone, attacked]);
    let [alone, attacked] = both(|calls| calls.failed as f64);
    table.push(["failed".to_owned(), alone, attacked]);
    let mb = |value: f64| [String::new(), figure(value, 1, "")];
    let [alone, attacked] = mb(attack.garbage_bytes_per_s / 1e6);
    table.push(["garbage, MB/s".to_owned(), alone, attacked]);
    let [alone, attacked] = mb(attack.memory_mb);
    table.push(["more memory, MB".to_owned(), alone, attacked]);
    Some(table)
}

fn promises(report: &Report) -> Vec<Promise> {
    let rate = |transport: &str| {
        let what = format!("messages/s of {OURS}, {transport}");
        let row = report.find(OURS, transport);
        match row.and_then(|row| Some((row, report.least(row)?))) {
            Some((row, least)) => {
                Promise::at_least(what, least, row.msgs_per_s, 0, "").beside(report.others)
            }
            None => Promise::unmeasured(what),
        }
    };
    let what = format!("CPU of a message of {OURS}, udp, beside nginx");
    let row = report.find(OURS, "udp");
    let cost = match row.and_then(|row| Some((row, report.most(row)?))) {
        Some((row, most)) => {
            Promise::at_most(what, most, row.us_per_msg, 2, "µs").beside(report.others)
        }
        None => Promise::unmeasured(what),
    };
    let idle = report.find(OURS, "tcp").and_then(|row| {
        let what = format!(
            "memory of {} idle connections",
            figure(row.idle_connections? as f64, 0, "")
        );
        Some(Promise::below(what, IDLE_MB, row.idle_mb?, 1, "MB"))
    });
    let attacked = report
        .attack
        .as_ref()
        .map(|attack| Promise::none("calls that failed beside attackers", attack.beside.failed));
    [rate("udp"), rate("tcp"), cost]
        .into_iter()
        .chain(idle)
        .chain(attacked)
        .collect()
}

fn headline(report: &Report) -> Option<Headline> {
    let ours = report.find(OURS, "udp")?;
    let others: Vec<String> = report
        .rows
        .iter()
        .filter(|row| row.name != OURS && row.transport == "udp")
        .map(|row| format!("{} {}", row.name, figure(row.msgs_per_s, 0, "")))
        .collect();
    Some(Headline {
        what: "One worker in userspace, UDP messages per second".to_owned(),
        ours: figure(ours.msgs_per_s, 0, ""),
        beside: others.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn udp_is_judged_by_others_and_tcp_by_a_figure() {
        let shown = show(&json!({"rows": [
            {"box": "ours", "transport": "udp", "msgs_per_s": 400_000.0, "us_per_msg": 2.5, "limited_by": "generator"},
            {"box": "kamailio", "transport": "udp", "msgs_per_s": 100_000.0, "us_per_msg": 9.0, "limited_by": "box"},
            {"box": "nginx", "transport": "udp", "msgs_per_s": 90_000.0, "us_per_msg": 2.4, "limited_by": "box"},
            {"box": "ours", "transport": "tcp", "msgs_per_s": 19_999.0, "us_per_msg": 20.0},
            {"box": "ours", "transport": "tls", "msgs_per_s": 15_000.0, "us_per_msg": 30.0},
        ]}))
        .unwrap();
        let kept: Vec<(&str, bool)> = shown
            .promises
            .iter()
            .map(|promise| (promise.what.as_str(), promise.kept))
            .collect();
        assert_eq!(
            kept,
            [
                ("messages/s of ours, udp", true),
                ("messages/s of ours, tcp", false),
                ("CPU of a message of ours, udp, beside nginx", false)
            ]
        );
        let alone = show(&json!({"rows": [
            {"box": "ours", "transport": "udp", "msgs_per_s": 400_000.0, "us_per_msg": 2.5, "limited_by": "box"},
        ]}))
        .unwrap();
        assert!(
            alone
                .promises
                .iter()
                .all(|promise| !promise.kept && promise.found == "not measured")
        );
        assert_eq!(alone.tables.len(), 1);
        assert_eq!(shown.headlines[0].beside, "kamailio 100,000, nginx 90,000");
        let table = shown.tables[0].markdown();
        assert!(
            table.contains("| ours | tls | 15,000 | 30.00 |  |"),
            "{table}"
        );
    }

    #[test]
    fn idle_connections_and_attackers_are_judged() {
        let shown = show(&json!({
            "rows": [{
                "box": "ours", "transport": "tcp", "msgs_per_s": 61_000.0, "us_per_msg": 15.0, "limited_by": "box",
                "idle_connections": 10_000, "idle_mb": 151.0,
            }],
            "attack": {
                "transport": "tcp", "rate": 200, "without": {"calls_per_s": 200.0, "failed": 0},
                "with": {"calls_per_s": 199.0, "failed": 2}, "attackers": 450, "garbage_bytes_per_s": 2.5e7,
                "memory_mb": 12.0,
            },
        }))
        .unwrap();
        let last: Vec<&str> = shown.promises[3..]
            .iter()
            .map(|promise| promise.found.as_str())
            .collect();
        assert_eq!(last, ["151.0 MB", "2"]);
        assert!(shown.promises[3..].iter().all(|promise| !promise.kept));
        let tables: String = shown.tables.iter().map(Table::markdown).collect();
        for wanted in [
            "| tcp | 10,000 | 151.0 |",
            "| calls over tcp | alone | beside 450 attackers |",
            "| failed | 0 | 2 |",
            "| garbage, MB/s |  | 25.0 |",
        ] {
            assert!(tables.contains(wanted), "{wanted}\n{tables}");
        }
    }
}
