//! `cargo xtask test`: everything, with one line at the end that counts it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    Outcome, program, setup,
    shell::{cargo, is_root, say},
};

/// Run every test there is: unit, packet tables, lab.
#[derive(Args)]
pub(crate) struct Test {
    /// Only tests whose names contain this.
    filter: Option<String>,
}

/// Results of all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds what a test program says at its end: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line
            .trim()
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if is_root() {
            setup::lab_programs()?;
            program::daemon()?;
            program::bench_programs()?;
        } else {
            say(
                "not root: tests that need network namespaces and XDP are skipped; `sudo cargo xtask test` runs them too",
            );
        }
        let mut tally = Tally::default();
        let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
        arguments.extend(self.filter.as_deref());
        let succeeded = run_counted(cargo().args(&arguments), &mut tally)?;
        if tally.passed + tally.failed == 0 {
            say("no test ran; the filter matches none");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            tally.passed, tally.failed, tally.skipped
        );
        let good = succeeded && tally.failed == 0 && tally.passed > 0;
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }
}

/// Runs a command, shows what it prints and counts the results in it.
fn run_counted(command: &mut Command, tally: &mut Tally) -> anyhow::Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what the tests print")?;
            println!("{line}");
            tally.add_line(&line);
        }
    }
    Ok(child.wait().context("cargo test was lost")?.success())
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn results_add_up() {
        let mut tally = Tally::default();
        tally.add_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.add_line("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s");
        tally.add_line("test foo ... ok");
        assert_eq!(
            tally,
            Tally {
                passed: 5,
                failed: 1,
                skipped: 1
            }
        );
    }
}
