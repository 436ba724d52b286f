//! `cargo xtask bench`: what it costs, each figure beside a baseline of the same run.

mod architectures;
mod calls;
mod churn;
mod fastpath;
mod growth;
mod heartbeats;
mod interval;
mod oslb;
mod others;
mod peers;
mod pps;
mod reaction;
mod sipp;
mod slowpath;
mod suite;
mod timings;
mod unmeasured;

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
    /// Every bench, one after the other; with --report also docs/BENCHMARKS.md and its plots.
    All(suite::All),
    /// Server architectures around one step: event loop, thread pool, process pool, a socket per core.
    Architectures(architectures::Architectures),
    /// Calls go on while gates, weights, proxies and the daemon come and go.
    Churn(churn::Churn),
    /// Nanoseconds per packet in the XDP program, and what the verifier made of it.
    Fastpath(fastpath::Fastpath),
    /// What a packet costs as backends, services, calls and messages grow; and what rings cost the daemon.
    Growth(growth::Growth),
    /// What heartbeats cost the daemon, alone and beside a flood of bad ones.
    Heartbeats(heartbeats::Heartbeats),
    /// Failed calls and balance when all is well, a proxy fails, a hog eats its CPU; beside Kamailio's dispatcher.
    Oslb(oslb::Oslb),
    /// Packets per second through the forwarder, beside the bare redirect.
    Pps(pps::Pps),
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
            Name::All(suite) => suite.run(Name::has_subcommand),
            Name::Architectures(bench) => bench.run(),
            Name::Churn(bench) => bench.run(),
            Name::Fastpath(bench) => bench.run(),
            Name::Growth(bench) => bench.run(),
            Name::Heartbeats(bench) => bench.run(),
            Name::Oslb(bench) => bench.run(),
            Name::Pps(bench) => bench.run(),
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

#[cfg(test)]
mod tests {
    use clap::{Command, Subcommand as _};

    use super::{Name, suite};

    #[test]
    fn every_bench_is_in_the_suite() {
        let command = Name::augment_subcommands(Command::new("bench"));
        for bench in command.get_subcommands().map(Command::get_name) {
            assert!(
                bench == "all" || suite::has(bench),
                "bench {bench} has no page in bench/suite/pages"
            );
        }
    }
}
