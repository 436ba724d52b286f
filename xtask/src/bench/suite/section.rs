//! A bench, what became of it, and what that means.

use serde_json::Value;

use super::{
    super::unmeasured::Part,
    page::{Page, Promise, Shown},
    saved::{End, Saved},
};

/// A bench and what became of it.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) page: &'static Page,
    pub(super) saved: Saved,
    pub(super) shown: Option<Shown>,
    /// What the bench says it could not measure.
    pub(super) not_measured: Vec<Part>,
    pub(super) standing: Standing,
}

/// How a bench stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It ran, and nothing was broken.
    Good,
    /// Promises are not kept: so many by its page, or the bench itself says so.
    Broken(usize),
    /// No promise is broken, but so many parts or promises could not be measured.
    Partly(usize),
    /// There is no result, or none that says anything, for this reason.
    Missing(String),
}

impl Section {
    pub(super) fn new(page: &'static Page, saved: Saved) -> Self {
        let (mut shown, unread) = match saved.result.as_ref().map(page.show) {
            Some(Ok(shown)) => (Some(shown), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, Some("there is no result".to_owned())),
        };
        if let (Some(shown), Some(result)) = (&mut shown, &saved.result)
            && !shown.promises.iter().any(Promise::is_broken)
        {
            shown.promises.extend(said(result));
        }
        let broken = shown
            .iter()
            .flat_map(|shown| &shown.promises)
            .filter(|promise| promise.is_broken())
            .count();
        let not_measured = not_measured(saved.result.as_ref());
        let open = shown
            .iter()
            .flat_map(|shown| &shown.promises)
            .filter(|promise| !promise.measured)
            .count()
            .max(not_measured.len());
        let standing = match (saved.end, unread) {
            (End::CouldNotRun, unread) => {
                Standing::Missing(saved.reason.clone().or(unread).unwrap_or_default())
            }
            (_, Some(error)) => Standing::Missing(format!("its result cannot be read: {error}")),
            (End::Failed, None) => Standing::Broken(broken),
            (_, None) if broken > 0 => Standing::Broken(broken),
            (End::Done, None) if open == 0 => Standing::Good,
            (_, None) => Standing::Partly(open),
        };
        Self {
            page,
            saved,
            shown,
            not_measured,
            standing,
        }
    }

    /// In a few words.
    pub(super) fn verdict(&self) -> String {
        let promises = self.shown.as_ref().map_or(0, |shown| shown.promises.len());
        match &self.standing {
            Standing::Good if promises == 0 => "measured; nothing is promised".to_owned(),
            Standing::Good => format!("kept: {promises} of {promises} promises"),
            Standing::Broken(0) => "not kept: the bench itself says so".to_owned(),
            Standing::Broken(broken) => format!("not kept: {broken} of {promises} promises"),
            Standing::Partly(open) => {
                format!("not measured: {open}; what was measured is kept")
            }
            Standing::Missing(reason) if self.saved.result.is_some() => {
                format!("cannot be judged: {reason}")
            }
            Standing::Missing(reason) => format!("could not run: {reason}"),
        }
    }
}

/// What the bench itself says it could not measure.
fn not_measured(result: Option<&Value>) -> Vec<Part> {
    result
        .and_then(|result| result.get("not_measured"))
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default()
}

/// What the bench itself says is not kept. Where its page finds something, that says more.
fn said(result: &Value) -> impl Iterator<Item = Promise> {
    let lists = ["broken", "missed"]
        .into_iter()
        .filter_map(|key| result.get(key)?.as_array());
    lists
        .flatten()
        .filter_map(Value::as_str)
        .map(Promise::broken)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bench::suite::pages;

    fn section(end: End, result: Option<Value>) -> Section {
        let saved = Saved {
            end,
            reason: (end == End::CouldNotRun).then(|| "no root".to_owned()),
            run: None,
            result,
        };
        Section::new(pages::find("sipp").unwrap(), saved)
    }

    fn rate(ratio: f64) -> Value {
        json!({"direct_cps": 1_000.0, "ours_cps": 1_000.0 * ratio, "ratio": ratio})
    }

    #[test]
    fn the_page_and_the_bench_must_both_be_content() {
        assert_eq!(section(End::Done, Some(rate(1.0))).standing, Standing::Good);
        assert_eq!(
            section(End::Done, Some(rate(0.5))).standing,
            Standing::Broken(1)
        );
        assert_eq!(
            section(End::Failed, Some(rate(1.0))).standing,
            Standing::Broken(0)
        );
    }

    #[test]
    fn what_is_not_measured_is_neither_kept_nor_broken() {
        let mut result = rate(1.0);
        result["not_measured"] = json!([{"part": "IPv6", "why": "no address"}]);
        let partly = section(End::NotMeasured, Some(result.clone()));
        assert_eq!(partly.standing, Standing::Partly(1));
        assert_eq!(
            partly.verdict(),
            "not measured: 1; what was measured is kept"
        );
        assert_eq!(partly.not_measured[0].why, "no address");
        result["ratio"] = json!(0.5);
        let broken = section(End::Failed, Some(result));
        assert_eq!(broken.standing, Standing::Broken(1));
    }

    #[test]
    fn what_only_the_bench_finds_is_told() {
        let mut result = rate(1.0);
        result["broken"] = json!(["a call was reordered"]);
        let section = section(End::Failed, Some(result));
        assert_eq!(section.standing, Standing::Broken(1));
        let promises = section.shown.unwrap().promises;
        assert_eq!(promises[1].what, "a call was reordered");
    }

    #[test]
    fn what_cannot_be_read_is_missing() {
        let verdict = section(End::Done, Some(json!({"ratio": "high"}))).verdict();
        assert!(
            verdict.starts_with("cannot be judged: its result cannot be read: "),
            "{verdict}"
        );
        let verdict = section(End::CouldNotRun, None).verdict();
        assert_eq!(verdict, "could not run: no root");
        let verdict = section(End::CouldNotRun, Some(rate(1.0))).verdict();
        assert_eq!(verdict, "cannot be judged: no root");
    }
}
