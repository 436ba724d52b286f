//! What is.

use std::{collections::BTreeMap, env, env::consts::ARCH, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use sip_forwarder_tests::{
    lab::{Family, Host, vip},
    program::{Program, StageSize, config_of, nat_service},
};

use super::file::Figures;
use crate::{
    program, setup,
    shell::{cargo, is_root, output, root, run, say},
};

/// The program whose instructions are counted.
const EXAMPLE: &str = "instructions";
const SIP_PORT: u16 = 5060;
/// How often each case is done, and how often once more: the difference is free of what a start costs.
const TIMES: u64 = 100;

/// A part of the budget.
pub(super) enum Part {
    Measured(Figures),
    /// Why not.
    Skipped(String),
}

/// The XDP program, as this kernel's verifier and compiler see it.
pub(super) fn program() -> anyhow::Result<Part> {
    if !is_root() {
        return Ok(Part::Skipped("loading it needs root".to_owned()));
    }
    let object = program::program()?;
    let backend = ("p1".to_owned(), Host::Proxy(1).socket(Family::V4, SIP_PORT));
    let address = (vip(Family::V4), SIP_PORT).into();
    let service = nat_service("budget", address, [backend]);
    let stages = Program::load(&object, config_of(vec![service]))?.sizes()?;
    let mut tools = BTreeMap::from([("kernel".to_owned(), kernel()?)]);
    if let Some((rustc, _)) = setup::find_compiler()? {
        tools.insert("rustc".to_owned(), version(&rustc)?);
    }
    Ok(Part::Measured(Figures {
        architecture: ARCH.to_owned(),
        tools,
        counts: stages.iter().flat_map(figures).collect(),
    }))
}

/// What is counted of a stage.
fn figures(stage: &StageSize) -> [(String, u64); 2] {
    [
        (
            format!("{}-verified-instructions", stage.stage),
            stage.verified.into(),
        ),
        (format!("{}-jitted-bytes", stage.stage), stage.jitted.into()),
    ]
}

fn kernel() -> anyhow::Result<String> {
    Ok(output(Command::new("uname").arg("-r"))?.trim().to_owned())
}

fn version(rustc: &Path) -> anyhow::Result<String> {
    Ok(output(Command::new(rustc).arg("-V").current_dir(root()))?
        .trim()
        .to_owned())
}

/// Instructions per message in userspace.
pub(super) fn userspace() -> anyhow::Result<Part> {
    match setup::valgrind() {
        Ok(()) => {}
        Err(error) if !is_root() => return Ok(Part::Skipped(error.to_string())),
        Err(error) => return Err(error),
    }
    say("building what is counted");
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "sip-forwarder-tests",
        ])
        .args(["--example", EXAMPLE]))?;
    let example = root().join("target/release/examples").join(EXAMPLE);
    let cases = output(&mut Command::new(&example))?;
    let mut counts = BTreeMap::new();
    for case in cases.lines() {
        let (once, twice) = (
            count(&example, case, TIMES)?,
            count(&example, case, 2 * TIMES)?,
        );
        let each = twice
            .checked_sub(once)
            .context("twice the work took fewer instructions")?;
        counts.insert(case.to_owned(), each / TIMES);
    }
    ensure!(!counts.is_empty(), "{} names no case", example.display());
    Ok(Part::Measured(Figures {
        architecture: ARCH.to_owned(),
        tools: BTreeMap::from([("rustc".to_owned(), host_compiler()?)]),
        counts,
    }))
}

/// The compiler that cargo uses.
fn host_compiler() -> anyhow::Result<String> {
    version(Path::new(
        &env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
    ))
}

/// All instructions of one run.
fn count(example: &Path, case: &str, times: u64) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(example)
        .args([case, &times.to_string()]);
    let said = command.output().context("cannot start valgrind")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(
        said.status.success(),
        "valgrind failed at {case}: {}",
        text.trim()
    );
    collected(&text).with_context(|| format!("valgrind did not count at {case}: {}", text.trim()))
}

/// `==123== Collected : 8735521`
fn collected(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::collected;

    #[test]
    fn callgrinds_count_is_found() {
        let text = "==7== Events    : Ir\n==7== Collected : 8735521\n==7== \n==7== I   refs:      8,735,521\n";
        assert_eq!(collected(text), Some(8_735_521));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
