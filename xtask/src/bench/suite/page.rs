//! What a bench's results come to for a reader: tables, promises, charts, and the figures for the README.

use std::fmt::Write as _;

use serde_json::Value;

use super::{super::others::DISTURBING, chart::Chart};

/// How the results of a bench are shown. Each bench has one, in [`super::pages::PAGES`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// The bench, as on the command line.
    pub(super) name: &'static str,
    /// What it tells.
    pub(super) title: &'static str,
    /// How it is measured, and what its words mean; Markdown.
    pub(super) about: &'static str,
    /// Reads what the bench printed with `--json`.
    pub(super) show: fn(&Value) -> serde_json::Result<Shown>,
}

/// Results, made readable.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) tables: Vec<Table>,
    pub(super) promises: Vec<Promise>,
    /// A picture, where one says more than the table.
    pub(super) chart: Option<Chart>,
    /// What the README says of it.
    pub(super) headlines: Vec<Headline>,
}

/// What is promised, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) found: String,
    pub(super) kept: bool,
    /// Could it be judged? What is not measured is neither kept nor broken.
    pub(super) measured: bool,
}

/// One line of the README's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headline {
    pub(super) what: String,
    pub(super) ours: String,
    /// The baseline, named, with its figure of the same run.
    pub(super) beside: String,
}

impl Promise {
    /// At most so much; `digits` behind the point, and a unit, for both figures.
    pub(super) fn at_most(
        what: impl Into<String>,
        limit: f64,
        found: f64,
        digits: usize,
        unit: &str,
    ) -> Self {
        Self {
            what: what.into(),
            wanted: format!("≤ {}", figure(limit, digits, unit)),
            found: figure(found, digits, unit),
            kept: found <= limit,
            measured: true,
        }
    }

    /// Less than so much.
    pub(super) fn below(
        what: impl Into<String>,
        limit: f64,
        found: f64,
        digits: usize,
        unit: &str,
    ) -> Self {
        Self {
            what: what.into(),
            wanted: format!("< {}", figure(limit, digits, unit)),
            found: figure(found, digits, unit),
            kept: found < limit,
            measured: true,
        }
    }

    /// At least so much.
    pub(super) fn at_least(
        what: impl Into<String>,
        limit: f64,
        found: f64,
        digits: usize,
        unit: &str,
    ) -> Self {
        Self {
            what: what.into(),
            wanted: format!("≥ {}", figure(limit, digits, unit)),
            found: figure(found, digits, unit),
            kept: found >= limit,
            measured: true,
        }
    }

    /// Beside other programs that had so much of the CPU, a promise that is not kept is not measured.
    pub(super) fn beside(mut self, others: Option<f64>) -> Self {
        if let Some(others) = others.filter(|others| *others > DISTURBING)
            && self.is_broken()
        {
            let busy = format!(" (other programs had {:.0} % of the CPU)", others * 100.0);
            self.found += &busy;
            self.measured = false;
        }
        self
    }

    /// Nothing that it could be judged by was measured.
    pub(super) fn unmeasured(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            wanted: "measured".to_owned(),
            found: "not measured".to_owned(),
            kept: false,
            measured: false,
        }
    }

    /// What is not kept, in words that say all.
    pub(super) fn broken(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            wanted: String::new(),
            found: String::new(),
            kept: false,
            measured: true,
        }
    }

    /// Tells whether it was judged and is not kept.
    pub(super) const fn is_broken(&self) -> bool {
        self.measured && !self.kept
    }

    /// In a line.
    pub(super) fn sentence(&self) -> String {
        if self.wanted.is_empty() {
            self.what.clone()
        } else {
            format!("{}: {}, found {}", self.what, self.wanted, self.found)
        }
    }

    /// None at all.
    pub(super) fn none(what: impl Into<String>, found: u64) -> Self {
        Self {
            what: what.into(),
            wanted: "0".to_owned(),
            found: found.to_string(),
            kept: found == 0,
            measured: true,
        }
    }
}

/// A table in Markdown: figures to the right, words to the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(super) fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self {
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub(super) fn push<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Does a column hold figures alone?
    fn is_figures(&self, at: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(at));
        cells.all(|cell| {
            cell.trim_start_matches('-')
                .starts_with(|first: char| first.is_ascii_digit())
                || cell.is_empty()
        })
    }

    /// As Markdown, ending with a line end.
    pub(super) fn markdown(&self) -> String {
        let mut text = line(&self.columns);
        let rule =
            (0..self.columns.len()).map(|at| if self.is_figures(at) { "---:" } else { "---" });
        text += &line(&rule.collect::<Vec<_>>());
        for row in &self.rows {
            text += &line(row);
        }
        text
    }
}

fn line(cells: &[impl AsRef<str>]) -> String {
    let mut text = String::from("|");
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(text, " {} |", cell.as_ref().replace('|', "\\|"));
    }
    text + "\n"
}

/// A figure for people: thousands apart, and its unit behind.
pub(super) fn figure(value: f64, digits: usize, unit: &str) -> String {
    let text = format!("{value:.digits$}");
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = match text.find('.') {
        Some(point) => text.split_at(point),
        None => (text, ""),
    };
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let space = if unit.is_empty() || unit == "×" {
        ""
    } else {
        " "
    };
    format!("{sign}{grouped}{fraction}{space}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_thousands_apart() {
        assert_eq!(figure(1_234_567.0, 0, "messages/s"), "1,234,567 messages/s");
        assert_eq!(figure(999.96, 1, "ns"), "1,000.0 ns");
        assert_eq!(figure(-12.5, 1, ""), "-12.5");
        assert_eq!(figure(0.95, 2, "×"), "0.95×");
    }

    #[test]
    fn a_limit_itself_is_kept() {
        assert!(Promise::at_most("x", 12.0, 12.0, 1, "").kept);
        assert!(!Promise::at_most("x", 12.0, 12.1, 1, "").kept);
        assert!(Promise::at_least("x", 0.95, 0.95, 2, "").kept);
        assert!(!Promise::at_least("x", 0.95, 0.949, 2, "").kept);
        assert!(!Promise::at_most("x", 12.0, f64::NAN, 1, "").kept);
    }

    #[test]
    fn a_busy_machine_breaks_no_promise() {
        let slow = || Promise::at_most("x", 12.0, 13.0, 1, "ns");
        assert!(slow().beside(None).is_broken());
        assert!(slow().beside(Some(0.05)).is_broken());
        let busy = slow().beside(Some(0.5));
        assert!(!busy.is_broken() && !busy.kept);
        assert!(busy.found.contains("50 % of the CPU"), "{}", busy.found);
        assert!(
            Promise::at_most("x", 12.0, 11.0, 1, "ns")
                .beside(Some(0.5))
                .kept
        );
    }

    #[test]
    fn promises_are_sentences() {
        let promise = Promise::at_most("an INVITE", 12.0, 12.5, 1, "ns");
        assert_eq!(promise.sentence(), "an INVITE: ≤ 12.0 ns, found 12.5 ns");
        assert_eq!(
            Promise::broken("a call was lost").sentence(),
            "a call was lost"
        );
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new(["box", "µs"]);
        table.push(["a|b", "1"]);
        table.push(["1 c", ""]);
        assert_eq!(
            table.markdown(),
            "| box | µs |\n| --- | ---: |\n| a\\|b | 1 |\n| 1 c |  |\n"
        );
    }
}
