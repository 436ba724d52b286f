//! `cargo xtask bench`: what it costs, each figure beside a yardstick of the same run.

mod fastpath;

use clap::{Args, Subcommand};

use crate::Outcome;

/// Measure.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    /// Nanoseconds per packet in the XDP program, and what the verifier made of it.
    Fastpath(fastpath::Fastpath),
}

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        match &self.name {
            Name::Fastpath(bench) => bench.run(),
        }
    }
}
