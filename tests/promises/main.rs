//! What the forwarder promises, one file per promise. The tests that need root (network namespaces,
//! XDP) are counted as skipped without it.

mod bad_input;
mod calls;
mod cluster;
mod fragments;
mod fuzz_seeds;
mod health;
mod heartbeats;
mod next_hops;
mod orders;
mod packets;
mod peers;
mod proxy_mode;
mod rule;
mod shared_words;
mod shares;
mod slow_path;
mod support;
mod takeover;
mod torture;
mod transports;
mod truncation;
mod verdict_docs;
mod virtio_net;
mod way_back;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Labs share two cores with the traffic in them: one after the other, no message is late.
    arguments.test_threads = Some(1);
    let trials: Vec<Trial> = [
        verdict_docs::trials(),
        packets::trials(),
        rule::trials(),
        shared_words::trials(),
        proxy_mode::trials(),
        peers::trials(),
        torture::trials(),
        transports::trials(),
        fuzz_seeds::trials(),
        truncation::trials(),
        bad_input::trials(),
        calls::trials(),
        fragments::trials(),
        slow_path::trials(),
        way_back::trials(),
        next_hops::trials(),
        takeover::trials(),
        health::trials(),
        orders::trials(),
        shares::trials(),
        heartbeats::trials(),
        virtio_net::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
