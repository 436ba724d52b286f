//! Every seed of the fuzz targets, and every torture message, through every target, without a fuzzer:
//! what fuzzing once found stays mended.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    corpus,
    fuzz::{TARGETS, Target},
};

use crate::support::{anywhere, root};

pub(crate) fn trials() -> Vec<Trial> {
    TARGETS
        .into_iter()
        .map(|(name, target)| anywhere(&format!("fuzz_seeds::{name}"), move || feed(name, target)))
        .collect()
}

/// A target panics at what it does not hold true of, and the input is in what it says.
fn feed(name: &str, target: Target) -> Result<()> {
    let seeds = seeds(name)?;
    ensure!(!seeds.is_empty(), "{name} has no seeds");
    for seed in &seeds {
        let bytes = fs::read(seed).with_context(|| seed.display().to_string())?;
        target(&bytes);
    }
    corpus::all().for_each(|message| target(message.bytes));
    Ok(())
}

fn seeds(name: &str) -> Result<Vec<PathBuf>> {
    let folder = root().join("tests/fuzz/seeds").join(name);
    fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
