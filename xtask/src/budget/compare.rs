//! What was, and what is.

use std::{collections::BTreeSet, fmt};

use super::file::Figures;

/// Percent that a figure may grow unseen: other C libraries copy memory in other ways.
pub(super) const TOLERANCE: f64 = 2.0;
/// Percent with other tools, which make other code of the same source.
pub(super) const TOLERANCE_OTHER_TOOLS: f64 = 10.0;

/// One table.
#[derive(Debug)]
pub(super) struct Compared {
    /// What the figures are of.
    head: &'static str,
    /// What differs of the tools, in words.
    other_tools: Vec<String>,
    tolerance: f64,
    rows: Vec<Row>,
}

/// A figure.
#[derive(Debug)]
struct Row {
    name: String,
    was: Option<u64>,
    is: Option<u64>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// It could be held to less.
    Less,
    Over,
    /// Nobody said what it may be.
    NoBudget,
    /// Nobody measures it any more.
    NotMeasured,
}

/// Holds what is against what may be.
pub(super) fn compare(head: &'static str, was: &Figures, is: &Figures) -> Compared {
    let tools: BTreeSet<&String> = was.tools.keys().chain(is.tools.keys()).collect();
    let tool = |figures: &Figures, name: &String| {
        let version = figures.tools.get(name);
        version.map_or("unknown", String::as_str).to_owned()
    };
    let other_tools: Vec<String> = tools
        .into_iter()
        .filter(|_| !was.counts.is_empty())
        .map(|name| (name, tool(was, name), tool(is, name)))
        .filter(|(_, was, is)| was != is)
        .map(|(name, was, is)| format!("{name} was {was}, is {is}"))
        .collect();
    let tolerance = if other_tools.is_empty() {
        TOLERANCE
    } else {
        TOLERANCE_OTHER_TOOLS
    };
    let names: BTreeSet<&String> = was.counts.keys().chain(is.counts.keys()).collect();
    let rows = names
        .into_iter()
        .map(|name| {
            let (was, is) = (was.counts.get(name).copied(), is.counts.get(name).copied());
            Row {
                name: name.clone(),
                was,
                is,
                standing: standing(was, is, tolerance),
            }
        })
        .collect();
    Compared {
        head,
        other_tools,
        tolerance,
        rows,
    }
}

fn standing(was: Option<u64>, is: Option<u64>, tolerance: f64) -> Standing {
    match (was, is) {
        (_, None) => Standing::NotMeasured,
        (None, Some(_)) => Standing::NoBudget,
        (Some(was), Some(is)) => match percent(was, is) {
            more if more > tolerance => Standing::Over,
            more if more < -tolerance => Standing::Less,
            _ => Standing::Good,
        },
    }
}

/// How much more it is.
fn percent(was: u64, is: u64) -> f64 {
    (is as f64 - was as f64) * 100.0 / (was as f64).max(1.0)
}

impl Compared {
    /// Is everything within the budget?
    pub(super) fn holds(&self) -> bool {
        let good = |row: &Row| matches!(row.standing, Standing::Good | Standing::Less);
        self.rows.iter().all(good)
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tool in &self.other_tools {
            writeln!(f, "{tool}: {:.0} % are let pass", self.tolerance)?;
        }
        writeln!(f, "{:<40}{:>10}{:>10}{:>10}", self.head, "was", "is", "%")?;
        for row in &self.rows {
            let number =
                |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
            let more = row
                .was
                .zip(row.is)
                .map(|(was, is)| format!("{:+.1}", percent(was, is)));
            let remark = match row.standing {
                Standing::Good => "",
                Standing::Less => "  less: --bless holds it there",
                Standing::Over => "  OVER",
                Standing::NoBudget => "  NO BUDGET: --bless",
                Standing::NotMeasured => "  NOT MEASURED: --bless if it is gone",
            };
            writeln!(
                f,
                "  {:<38}{:>10}{:>10}{:>10}{remark}",
                row.name,
                number(row.was),
                number(row.is),
                more.unwrap_or_default()
            )?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rustc: &str, values: &[(&str, u64)]) -> Figures {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        Figures {
            architecture: "x86_64".to_owned(),
            tools: [("rustc".to_owned(), rustc.to_owned())].into(),
            counts: values.collect(),
        }
    }

    fn compared(rustc: &str, is: &[(&str, u64)]) -> Compared {
        compare(
            "",
            &figures("1.95", &[("scan", 1_000)]),
            &figures(rustc, is),
        )
    }

    #[test]
    fn a_little_more_passes_and_more_does_not() {
        assert!(compared("1.95", &[("scan", 1_020)]).holds());
        assert!(!compared("1.95", &[("scan", 1_021)]).holds());
    }

    #[test]
    fn less_passes_and_is_told() {
        let compared = compared("1.95", &[("scan", 900)]);
        assert!(compared.holds());
        assert!(
            compared.to_string().contains("-10.0  less: --bless"),
            "{compared}"
        );
    }

    #[test]
    fn other_tools_are_named_and_have_more_room() {
        let compared_now = compared("1.96", &[("scan", 1_100)]);
        assert!(compared_now.holds());
        let text = compared_now.to_string();
        assert!(
            text.contains("rustc was 1.95, is 1.96: 10 % are let pass"),
            "{text}"
        );
        assert!(!compared("1.96", &[("scan", 1_101)]).holds());
    }

    #[test]
    fn what_has_no_counterpart_fails() {
        assert!(!compared("1.95", &[("scan", 1_000), ("new", 1)]).holds());
        assert!(!compared("1.95", &[]).holds());
    }
}
