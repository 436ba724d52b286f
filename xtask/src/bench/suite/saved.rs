//! What became of a bench, kept in a file of its own, so that nothing is lost when a later one fails.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::circumstances::Machine;

/// What became of a bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) end: End,
    /// Why it could not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// When, how long and on what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<Run>,
    /// What it printed with `--json`.
    pub(super) result: Option<Value>,
}

/// When, how long and on what a bench ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// In UTC.
    pub(super) began: String,
    pub(super) seconds: f64,
    pub(super) commit: String,
    pub(super) machine: Machine,
}

/// How a bench ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// Well.
    Done,
    /// It says itself that a promise is not kept.
    Failed,
    /// What it measured is kept, but it says that it could not measure all.
    NotMeasured,
    /// It measured nothing, or its result says nothing.
    CouldNotRun,
}

impl Saved {
    /// A bench that did not even start.
    pub(super) fn could_not_run(reason: impl Into<String>) -> Self {
        Self {
            end: End::CouldNotRun,
            reason: Some(reason.into()),
            run: None,
            result: None,
        }
    }

    /// Writes it into a folder, which is made if it is not there.
    pub(super) fn save(&self, folder: &Path, bench: &str) -> anyhow::Result<()> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file = file(folder, bench);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What a folder has of a bench: what [`Self::save`] wrote, or an object that the bench printed with `--json`.
    pub(super) fn load(folder: &Path, bench: &str) -> anyhow::Result<Option<Self>> {
        let file = file(folder, bench);
        if !file.exists() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON; delete it", file.display()))?;
        if value.get("end").is_none() {
            return Ok(Some(Self {
                end: End::Done,
                reason: None,
                run: None,
                result: Some(value),
            }));
        }
        let saved = serde_json::from_value(value).with_context(|| {
            format!("{} is not what this suite saves; delete it", file.display())
        })?;
        Ok(Some(saved))
    }
}

fn file(folder: &Path, bench: &str) -> PathBuf {
    folder.join(bench).with_extension("json")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("new");
        let saved = Saved {
            end: End::Failed,
            reason: None,
            run: Some(Run {
                began: "2026-11-20T20:00:00Z".to_owned(),
                seconds: 1.5,
                commit: "0123456789ab".to_owned(),
                machine: Machine::here(),
            }),
            result: Some(json!({"rows": []})),
        };
        saved.save(&inner, "peers").unwrap();
        assert_eq!(Saved::load(&inner, "peers").unwrap(), Some(saved));
        assert_eq!(Saved::load(&inner, "sipp").unwrap(), None);
    }

    #[test]
    fn what_a_bench_printed_will_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sipp.json"), "{\"ratio\": 0.97}\n").unwrap();
        let loaded = Saved::load(folder.path(), "sipp").unwrap().unwrap();
        assert_eq!(loaded.end, End::Done);
        assert_eq!(loaded.result, Some(json!({"ratio": 0.97})));
    }

    #[test]
    fn what_is_no_json_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sipp.json"), "ratio 0.97").unwrap();
        let error = Saved::load(folder.path(), "sipp").unwrap_err().to_string();
        assert!(error.contains("sipp.json is no JSON"), "{error}");
    }
}
