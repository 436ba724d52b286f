//! Parts of a bench that could not be measured: they are named in the table and in the JSON object, the next part goes
//! on, and the exit status tells them apart from promises that are not kept.

use serde::{Deserialize, Serialize};

use crate::{Outcome, shell::say};

/// A part that could not be measured, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) part: String,
    pub(super) why: String,
}

/// All parts of a bench that could not be measured; a list in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Unmeasured(Vec<Part>);

impl Unmeasured {
    /// Returns what was measured, or notes why it was not.
    pub(super) fn attempt<T>(
        &mut self,
        part: impl Into<String>,
        result: anyhow::Result<T>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(part, format!("{error:#}"));
                None
            }
        }
    }

    /// Notes a part that was not measured.
    pub(super) fn note(&mut self, part: impl Into<String>, why: impl Into<String>) {
        let (part, why) = (part.into(), why.into());
        say(&format!("{part} was not measured: {why}"));
        self.0.push(Part { part, why });
    }

    /// Tells whether everything was measured.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns one line for each part.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .map(|Part { part, why }| format!("NOT MEASURED: {part}: {why}"))
    }

    /// Writes the parts to stderr.
    pub(super) fn show(&self) {
        for line in self.lines() {
            eprintln!("{line}");
        }
    }

    /// Returns what the bench came to: a promise that is not kept outweighs a part that was not measured.
    pub(super) fn outcome(&self, kept: bool) -> Outcome {
        match (kept, self.is_empty()) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::NotMeasured,
            (true, true) => Outcome::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use serde_json::json;

    use super::Unmeasured;
    use crate::Outcome;

    #[test]
    fn a_part_that_fails_is_named_and_the_next_goes_on() {
        let mut unmeasured = Unmeasured::default();
        assert_eq!(unmeasured.attempt("first", Ok(1)), Some(1));
        assert!(matches!(unmeasured.outcome(true), Outcome::Done));
        let failed = anyhow!("no socket").context("cannot open 100 connections");
        assert_eq!(unmeasured.attempt::<i32>("second", Err(failed)), None);
        assert!(matches!(unmeasured.outcome(true), Outcome::NotMeasured));
        assert!(matches!(unmeasured.outcome(false), Outcome::Failed));
        assert_eq!(
            json!(unmeasured),
            json!([{"part": "second", "why": "cannot open 100 connections: no socket"}])
        );
    }
}
