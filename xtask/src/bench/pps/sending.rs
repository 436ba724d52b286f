//! Frames from all cores at once, how fast they arrive, and how many.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use core_affinity::CoreId;
use sip_forwarder_tests::{
    flood::{Precedence, take_precedence},
    frame_source::{FrameSource, this_thread},
    lab::{Host, Lab},
};

use super::windows::{Sample, rate};

/// Frames in flight: a quarter of what a veth's queue holds.
const BATCH: u32 = 64;
/// What is under way may take this long.
const DRAIN: Duration = Duration::from_secs(2);
/// The pause between two looks at what has arrived.
const LOOK: Duration = Duration::from_millis(1);

/// Sends from all cores at once, to the end, and returns the rate at which frames arrived while all cores sent.
///
/// The threads that make frames and the one that watches run before all others, by a priority that leaves the kernel's
/// own threads some time: what a test run does before it begins waits for them, and with a real-time priority on one core
/// the other core does not begin before the first has ended. Frames that another core finished do not count.
pub(super) fn send(
    (lab, host): (&Lab, Host),
    ends: &FrameSource,
    generators: &[(CoreId, FrameSource)],
    frames: u32,
) -> anyhow::Result<f64> {
    let before = ends.arrived()?;
    let arrived = || {
        let now = ends.arrived()?;
        let count = |(core, _): &(CoreId, FrameSource)| now[core.id] - before[core.id];
        anyhow::Ok(generators.iter().map(count).collect::<Vec<u64>>())
    };
    let samples = lab.enter(host, || {
        take_precedence(this_thread().cast_unsigned(), Precedence::Card)?;
        // Threads are begun in here, so that they are in the namespace and have that priority.
        thread::scope(|scope| {
            let (done, finished) = mpsc::channel();
            let threads: Vec<_> = generators
                .iter()
                .map(|generator| {
                    let done = done.clone();
                    scope.spawn(|| generate(generator, frames, done))
                })
                .collect();
            drop(done);
            let samples = watch(&finished, arrived);
            for thread in threads {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            samples
        })
    })??;
    rate(&samples, frames.into())
}

/// Sends all frames of one core. `_done` is dropped at the end, which the watching thread notices.
fn generate(
    (core, generator): &(CoreId, FrameSource),
    frames: u32,
    _done: Sender<()>,
) -> anyhow::Result<()> {
    ensure!(
        core_affinity::set_for_current(*core),
        "cannot pin a thread to core {}",
        core.id
    );
    generator.send(frames, BATCH)
}

/// Looks at what has arrived again and again, until all threads have sent everything.
fn watch(
    finished: &Receiver<()>,
    arrived: impl Fn() -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    loop {
        let counts = arrived()?;
        samples.push(Sample {
            at: Instant::now(),
            counts,
        });
        if finished.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Disconnected) {
            return Ok(samples);
        }
    }
}

/// What has arrived: all that is awaited, or what came in time.
pub(super) fn arrived(ends: &FrameSource, awaited: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + DRAIN;
    loop {
        let now = total(ends)?;
        if now >= awaited || Instant::now() > deadline {
            return Ok(now);
        }
        thread::yield_now();
    }
}

pub(super) fn total(ends: &FrameSource) -> anyhow::Result<u64> {
    Ok(ends.arrived()?.iter().sum())
}
