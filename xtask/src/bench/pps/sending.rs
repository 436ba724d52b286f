//! Frames from all cores at once, and how many of them arrive.

use std::{
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use core_affinity::CoreId;
use sip_forwarder_tests::{
    frame_source::{FrameSource, make_real_time, this_thread},
    lab::{Host, Lab},
};

/// Frames in flight: a quarter of what a veth's queue holds.
const BATCH: u32 = 64;
/// What is under way may take this long.
const DRAIN: Duration = Duration::from_secs(2);
/// How long all frames of a round may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends from all cores at once, to the end. The rate is that of the time in which all cores send.
pub(super) fn send(
    (lab, host): (&Lab, Host),
    ends: &FrameSource,
    generators: &[(CoreId, FrameSource)],
    frames: u32,
) -> anyhow::Result<f64> {
    let before = ends.arrived()?;
    let from = |(core, generator): &(CoreId, FrameSource), report: Sender<i32>| {
        ensure!(
            core_affinity::set_for_current(*core),
            "cannot pin a thread to core {}",
            core.id
        );
        // Whoever waits for it fails if it ends before.
        let _ = report.send(this_thread());
        generator.send(frames, BATCH)
    };
    lab.enter(host, || {
        let (report, begun) = mpsc::channel();
        // Threads are begun in here, so that they are in the namespace.
        thread::scope(|scope| {
            let threads: Vec<_> = generators
                .iter()
                .map(|generator| {
                    let report = report.clone();
                    scope.spawn(|| from(generator, report))
                })
                .collect();
            drop(report);
            let cores: Vec<usize> = generators.iter().map(|(core, _)| core.id).collect();
            let rate = watch(
                &begun,
                threads.len(),
                || {
                    let now = ends.arrived()?;
                    Ok(cores.iter().map(|&core| now[core] - before[core]).collect())
                },
                frames,
            );
            for thread in threads {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            rate
        })
    })?
}

/// The rate at which frames arrive from the moment all cores send until one has sent most of its frames.
///
/// Threads that make frames get a real-time priority only when they do: what a test run does before it begins
/// waits for the kernel's housekeeping, which has none.
fn watch(
    begun: &mpsc::Receiver<i32>,
    cores: usize,
    arrived: impl Fn() -> anyhow::Result<Vec<u64>>,
    frames: u32,
) -> anyhow::Result<f64> {
    const LOOK: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    let threads: Vec<i32> = begun.iter().take(cores).collect();
    make_real_time(this_thread(), 2)?;
    while !arrived()?.iter().all(|&count| count > 0) {
        ensure!(Instant::now() < deadline, "not every core's frames arrive");
        thread::sleep(LOOK);
    }
    for thread in threads {
        make_real_time(thread, 1)?;
    }
    let (start, first) = (Instant::now(), arrived()?);
    loop {
        thread::sleep(LOOK);
        let (now, last) = (Instant::now(), arrived()?);
        if last.iter().any(|&count| count > u64::from(frames) * 4 / 5) {
            let came = last.iter().sum::<u64>() - first.iter().sum::<u64>();
            return Ok(came as f64 / (now - start).as_secs_f64());
        }
        ensure!(now < deadline, "no core's frames arrive in time");
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
