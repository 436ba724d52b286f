//! The checked-in file.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::compare::{TOLERANCE, TOLERANCE_OTHER_TOOLS};
use crate::shell::root;

/// What may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Budget {
    /// The XDP program: instructions the verifier went through, bytes of machine code.
    pub(super) program: Figures,
    /// The scanner as the host's compiler makes it, the full reader, and what mode `proxy` changes: instructions per
    /// message.
    pub(super) userspace: Figures,
}

/// Figures, and the tools they depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    /// What the machine code is for.
    pub(super) architecture: String,
    /// Versions of what makes it.
    pub(super) tools: BTreeMap<String, String>,
    pub(super) counts: BTreeMap<String, u64>,
}

impl Budget {
    /// The one that is checked in; nothing, if there is none yet.
    pub(super) fn load() -> anyhow::Result<Self> {
        let path = path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} is no budget; mend it, or delete it and use --bless",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Writes it.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let path = path();
        fs::write(&path, self.text()?).with_context(|| format!("cannot write {}", path.display()))
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(format!(
            "# What must not grow unseen: `cargo xtask budget` compares, and fails if a figure is exceeded by more than\n\
             # {TOLERANCE:.0} %; if other tools than those named here were used, by more than {TOLERANCE_OTHER_TOOLS:.0} %. \
             Another architecture is not compared.\n\
             # Written by `cargo xtask budget --bless`.\n\n{}",
            toml::to_string(self)?
        ))
    }
}

/// Where it lies.
pub(super) fn path() -> PathBuf {
    root().join("xtask/budget.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let figures = |name: &str| Figures {
            architecture: "x86_64".to_owned(),
            tools: [("rustc".to_owned(), "rustc 1.95.0".to_owned())].into(),
            counts: [(name.to_owned(), 2_049)].into(),
        };
        let budget = Budget {
            program: figures("verified-instructions"),
            userspace: figures("scan-invite"),
        };
        let text = budget.text().unwrap();
        assert!(text.contains("scan-invite = 2049"), "{text}");
        assert_eq!(Budget::parse(&text).unwrap(), budget);
        assert!(Budget::parse("[programme]\n").is_err());
    }

    #[test]
    fn the_checked_in_budget_can_be_read() {
        let budget = Budget::load().unwrap();
        assert!(
            budget
                .program
                .counts
                .contains_key("sip_forwarder-verified-instructions")
        );
        assert!(budget.userspace.counts.contains_key("scan-invite"));
    }
}
