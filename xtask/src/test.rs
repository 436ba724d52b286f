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
    tally::Tally,
};

/// Run every test there is: unit, packet tables, lab.
#[derive(Args)]
pub(crate) struct Test {
    /// Only tests whose names contain this.
    filter: Option<String>,
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
        if !tally.ran() {
            say("no test ran; the filter matches none");
        }
        println!("{tally}");
        let good = succeeded && tally.is_good();
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
