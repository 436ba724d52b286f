//! Builds, loads, tests, benches and shows the forwarder.

mod bench;
mod budget;
mod demo;
mod digest;
mod fuzz;
mod lab;
mod load;
mod program;
mod revision;
mod setup;
mod shell;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::revision::Revision;

/// Builds, loads, tests, benches and shows the forwarder.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what building and testing need.
    Setup,
    /// Build the XDP program and the daemon with it inside.
    Build(Build),
    /// Play real calls through XDP, in network namespaces, and tell what became of them.
    Demo(demo::Demo),
    /// Run the tests: unit, packet tables, lab; with `--full` on other kernels, too.
    Test(test::Test),
    /// Run the tests that depend on the kernel on Linux 6.1 and 6.12, in a virtual machine.
    Vm(vm::Vm),
    /// Feed the parsers with bytes that coverage guides; 1 if anything is found.
    Fuzz(fuzz::Fuzz),
    /// Measure.
    Bench(bench::Bench),
    /// Compare what a message costs in instructions with what it may cost; 1 if it costs more.
    Budget(budget::Check),
    /// A lab of network namespaces that stays.
    Lab(lab::LabVerb),
    /// Run the forwarder on a real interface.
    Load(load::Load),
    /// Take the forwarder off.
    Unload(load::Unload),
}

/// Build the XDP program and the daemon with it inside.
#[derive(clap::Args)]
struct Build {
    /// Build those of an older revision, such as a commit id, into `target/revisions`, with today's toolchain.
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Build the older daemons that tests upgrade from.
    #[arg(long, conflicts_with = "revision")]
    pinned: bool,
}

impl Build {
    fn run(&self) -> anyhow::Result<Outcome> {
        match &self.revision {
            _ if self.pinned => revision::daemons_to_upgrade_from()?,
            None => program::daemon()?,
            Some(name) => Revision::find(name)?.daemon()?,
        };
        Ok(Outcome::Done)
    }
}

/// What a verb came to.
enum Outcome {
    /// Done.
    Done,
    /// The thing measured failed.
    Failed,
    /// Nothing failed, but a part could not be measured.
    NotMeasured,
}

fn main() -> ExitCode {
    match perform(Cli::parse().verb) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::NotMeasured) => ExitCode::from(3),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Setup => setup::setup().map(|_| Outcome::Done),
        Verb::Build(build) => build.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Test(test) => test.run(),
        Verb::Vm(vm) => vm.run(),
        Verb::Fuzz(fuzz) => fuzz.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Budget(check) => check.run(),
        Verb::Lab(verb) => verb.run(),
        Verb::Load(load) => load.run(),
        Verb::Unload(unload) => unload.run(),
    }
}
