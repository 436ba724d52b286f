//! Who takes over what: the calls of a backend that dies are spread over all others alike.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{lab::Family, messages::Message, proxy::ScriptedProxy};

use crate::{
    cluster::{Cluster, NOTICE, member},
    support::{as_root, vip_socket},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![as_root(
        "shares::one_of_six_dies_and_the_others_share_its_calls",
        one_of_six_dies,
    )]
}

/// Calls after the death.
const CALLS: usize = 20_000;
/// Calls on their way at a time: fewer than a socket's buffer holds.
const BATCH: usize = 50;
/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn one_of_six_dies() -> Result<()> {
    let mut cluster = Cluster::start(6, "options", |_, spec| {
        spec.services[0].extra =
            "[service.probe]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n".into();
        Ok(())
    })?;
    cluster.daemon.wait_for("heard all", NOTICE, |status| {
        (1..=6).all(|proxy| member(status, proxy)["heard_ms_ago"].is_number())
    })?;
    cluster.proxies[2] = None;
    cluster.wait_state(3, "dead")?;
    let mut shares = [0; 6];
    for batch in 0..CALLS / BATCH {
        for n in 0..BATCH {
            let call = format!("share-{batch}-{n}@client");
            let invite = Message::invite().call_id(&call).build();
            cluster.client.send_to(&invite, vip_socket(Family::V4))?;
        }
        let wanted = (batch + 1) * BATCH;
        let deadline = Instant::now() + PATIENCE;
        while shares.iter().sum::<usize>() < wanted {
            for (share, proxy) in shares.iter_mut().zip(&cluster.proxies) {
                *share += proxy.as_ref().map_or(0, |p: &ScriptedProxy| p.take().len());
            }
            ensure!(
                Instant::now() < deadline,
                "calls got lost: {shares:?} of {wanted}"
            );
            std::thread::yield_now();
        }
    }
    ensure!(shares[2] == 0, "the dead one got calls: {shares:?}");
    let others: Vec<usize> = [0, 1, 3, 4, 5].map(|n| shares[n]).into();
    let (least, most) = (others.iter().min(), others.iter().max());
    let range = most.unwrap_or(&0) - least.unwrap_or(&0);
    let mean = CALLS as f64 / others.len() as f64;
    println!(
        "shares of the five others: {others:?}, (max - min) / mean = {:.1} %",
        range as f64 / mean * 100.0
    );
    ensure!(range as f64 / mean <= 0.10, "{shares:?}");
    Ok(())
}
