//! `cargo xtask test`: all tests that this machine's own kernel runs, and with `--full` those on other kernels, with one
//! line at the end that counts them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    Outcome, program, revision, setup,
    shell::{cargo, is_root, say},
    tally::Tally,
    vm,
};

/// Run the tests: unit, packet tables, lab.
#[derive(Args)]
pub(crate) struct Test {
    /// What is heavy, too: upgrades from older daemons, and other kernels in virtual machines.
    #[arg(long)]
    full: bool,
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
        if self.full && is_root() {
            revision::daemons_to_upgrade_from()?;
        }
        let mut tally = Tally::default();
        let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
        arguments.extend(self.filter.as_deref());
        let succeeded = run_counted(cargo().args(&arguments), &mut tally)?;
        tally.add(self.heavy()?);
        if !tally.ran() {
            say("no test ran; the filter matches none");
        }
        println!("{tally}");
        let good = succeeded && tally.is_good();
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }
}

impl Test {
    /// Runs what is heavy, or counts it as skipped and says so.
    fn heavy(&self) -> anyhow::Result<Tally> {
        let filter = self.filter.as_deref();
        if self.full {
            return vm::run_short(filter);
        }
        let skipped = vm::count_short(filter);
        if skipped > 0 {
            say(&format!(
                "left out: {skipped} tests on other kernels, in virtual machines; `cargo xtask test --full` or `cargo xtask vm` runs them"
            ));
        }
        Ok(Tally {
            skipped,
            ..Tally::default()
        })
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
