//! `cargo xtask bench`: what it costs, each figure beside a yardstick of the same run.

mod architectures;
mod churn;
mod fastpath;
mod heartbeats;
mod oslb;
mod peers;
mod reaction;
mod sipp;
mod slowpath;

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
    /// Server architectures around one step: event loop, thread pool, process pool, a socket per core.
    Architectures(architectures::Architectures),
    /// Calls go on while gates, weights, proxies and the daemon come and go.
    Churn(churn::Churn),
    /// Nanoseconds per packet in the XDP program, and what the verifier made of it.
    Fastpath(fastpath::Fastpath),
    /// What heartbeats cost the daemon, alone and beside a flood of bad ones.
    Heartbeats(heartbeats::Heartbeats),
    /// Failed calls and balance when all is well, a proxy fails, a hog eats its CPU; beside Kamailio's dispatcher.
    Oslb(oslb::Oslb),
    /// CPU per call in a box before the proxies, beside plain routing, nftables, nginx, Kamailio.
    Peers(peers::Peers),
    /// How soon new calls see a pushed weight, and the death of a proxy.
    Reaction(reaction::Reaction),
    /// Highest clean rate of SIPp calls through the forwarder, and with nothing between.
    Sipp(sipp::Sipp),
    /// Messages per second and CPU per message of a box in userspace that sends everything on.
    Slowpath(slowpath::Slowpath),
}

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        match &self.name {
            Name::Architectures(bench) => bench.run(),
            Name::Churn(bench) => bench.run(),
            Name::Fastpath(bench) => bench.run(),
            Name::Heartbeats(bench) => bench.run(),
            Name::Oslb(bench) => bench.run(),
            Name::Peers(bench) => bench.run(),
            Name::Reaction(bench) => bench.run(),
            Name::Sipp(bench) => bench.run(),
            Name::Slowpath(bench) => bench.run(),
        }
    }
}

/// The median, and the distance of the quartiles.
fn median(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.75) - at(0.25))
}
