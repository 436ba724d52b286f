//! `cargo xtask fuzz`: bytes that coverage guides, at what strangers' bytes reach first.
//!
//! libFuzzer without cargo-fuzz and without nightly: the coverage passes are LLVM's, and stable rustc
//! takes them. There is no address sanitizer, which needs nightly, and which code without `unsafe` can
//! do without: what is looked for is a panic, a wrong answer, an endless loop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::{
    Outcome, setup,
    shell::{cargo, output, root, run, say},
};

/// What cargo-fuzz gives rustc, less the sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Longest input, in bytes: longer than a jumbo frame's message tells nothing new.
const LONGEST: u32 = 10_000;
/// Seconds after which one input hangs.
const HANGS: u32 = 5;
/// Lines of libFuzzer's that a finding is shown with.
const SHOWN: usize = 40;

/// Feed the parsers with bytes that coverage guides.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Only this target.
    target: Option<Target>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The fast scan against the full reader.
    Scan,
    /// The full reader, and the answers made of what it reads.
    Reader,
    /// A worker's whole step.
    Step,
    /// The same in mode `proxy`, and the way back of what was sent on.
    Proxy,
    /// A stream of messages, in any pieces.
    Framing,
    /// Heartbeats: none that was made up, damaged or repeated is believed.
    Heartbeat,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Reader => "reader",
            Self::Step => "step",
            Self::Proxy => "proxy",
            Self::Framing => "framing",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// Is it fed with SIP?
    fn reads_sip(self) -> bool {
        self != Self::Heartbeat
    }
}

impl Fuzz {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        setup::fuzz_programs()?;
        let programs = build()?;
        let targets = self
            .target
            .map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
        let mut found = 0;
        for target in targets {
            say(&format!("fuzzing {} for {} s", target.name(), self.seconds));
            let fuzzing = Fuzzing::prepare(target, &programs)?;
            found += usize::from(!fuzzing.run(self.seconds)?);
        }
        Ok(if found == 0 {
            Outcome::Done
        } else {
            Outcome::Failed
        })
    }
}

/// Builds all targets with coverage counters, and returns their folder.
fn build() -> anyhow::Result<PathBuf> {
    say("building the fuzz targets with coverage counters (minutes the first time)");
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not tell its host")?;
    let folder = fuzz_folder();
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
        ])
        .arg(root().join("tests/fuzz/Cargo.toml"))
        // With a target given, build scripts and macros are left without counters, which they have
        // nobody to link with.
        .args(["--target", host, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(folder.join(host).join("release"))
}

fn fuzz_folder() -> PathBuf {
    root().join("target/fuzz")
}

/// One target with its folders.
struct Fuzzing {
    target: Target,
    program: PathBuf,
    /// What this machine found worth keeping; grows from run to run.
    corpus: PathBuf,
    /// What the findings' file names begin with.
    findings: PathBuf,
    log: PathBuf,
}

impl Fuzzing {
    fn prepare(target: Target, programs: &Path) -> anyhow::Result<Self> {
        let folder = fuzz_folder();
        let fuzzing = Self {
            target,
            program: programs.join(target.name()),
            corpus: folder.join("corpus").join(target.name()),
            findings: folder.join("findings").join(target.name()),
            log: folder.join(format!("{}.log", target.name())),
        };
        for path in [&fuzzing.corpus, &fuzzing.findings] {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(fuzzing)
    }

    /// Folders of seeds, the one that grows first.
    fn corpora(&self) -> Vec<PathBuf> {
        let tests = root().join("tests");
        let mut folders = vec![
            self.corpus.clone(),
            tests.join("fuzz/seeds").join(self.target.name()),
        ];
        if self.target.reads_sip() {
            folders.extend(["rfc4475", "rfc5118"].map(|rfc| tests.join("corpus").join(rfc)));
        }
        folders
    }

    /// Runs for so many seconds. False if something was found.
    fn run(&self, seconds: u64) -> anyhow::Result<bool> {
        let log = File::create(&self.log)
            .with_context(|| format!("cannot create {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-timeout={HANGS}"))
            .arg(format!("-artifact_prefix={}/", self.findings.display()))
            .arg("-print_final_stats=1");
        if self.target.reads_sip() {
            let words = root().join("tests/fuzz/sip.dict");
            command.arg(format!("-dict={}", words.display()));
        }
        let status = command
            .args(self.corpora())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let log =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        if status.success() {
            println!("{}: {}", self.target.name(), summary(&log));
            return Ok(true);
        }
        self.show_finding(&log)?;
        Ok(false)
    }

    fn show_finding(&self, log: &str) -> anyhow::Result<()> {
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
        let Some(input) = reproducer(log) else {
            bail!(
                "{} ended without a finding; see {}",
                self.program.display(),
                self.log.display()
            );
        };
        println!("{}: FOUND {input}", self.target.name());
        println!("  again: {} {input}", self.program.display());
        println!(
            "  once mended, keep it in tests/fuzz/seeds/{}",
            self.target.name()
        );
        Ok(())
    }
}

/// The file that libFuzzer wrote the offending input to.
fn reproducer(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| {
        line.split_once("Test unit written to ")
            .map(|(_, path)| path.trim())
    })
}

/// How much was tried, and how far it came.
fn summary(log: &str) -> String {
    let executed = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or("?", str::trim);
    let covered = log
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split_whitespace().next())
        .unwrap_or("?");
    format!("nothing found in {executed} inputs, {covered} edges covered")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_read() {
        let log = "#2\tINITED cov: 812 ft: 1200 corp: 1/1b\n#9\tDONE   cov: 915 ft: 2 corp: 7/9b\n\
            stat::number_of_executed_units: 123456\n";
        assert_eq!(
            summary(log),
            "nothing found in 123456 inputs, 915 edges covered"
        );
        assert_eq!(reproducer(log), None);
        let log = "SUMMARY: libFuzzer: deadly signal\n\
            artifact_prefix='/x/'; Test unit written to /x/crash-12\nBase64: AA==\n";
        assert_eq!(reproducer(log), Some("/x/crash-12"));
    }
}
