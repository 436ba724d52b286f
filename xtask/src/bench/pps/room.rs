//! Client, forwarder and one proxy; frames are made at the client's end and counted at the proxy's.

use std::{
    path::Path,
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use core_affinity::CoreId;
use sip_forwarder::dataplane::environment::interface_index;
use sip_forwarder_tests::{
    frame_source::{FrameSource, Kernel, Numbers, make_real_time, this_thread},
    lab::{Family, Host, Lab, vip},
    messages::Message,
    program::{Program, config_of, nat_service},
};

use super::super::calls::{self, Ends};

const FAMILY: Family = Family::V4;
const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
/// Backends, all behind one link.
const BACKENDS: u16 = 3;
/// Frames in flight: a quarter of what a veth's queue holds.
const BATCH: u32 = 64;
/// What is under way may take this long.
const DRAIN: Duration = Duration::from_secs(2);
/// How long all frames of a round may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What stands on the forwarder's side of the client's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// Our program.
    Ours,
    /// The bare redirect.
    Bare,
}

/// What became of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Packets that arrived in a second.
    pub(super) pps: f64,
    /// Packets that never arrived.
    pub(super) lost: u64,
}

/// The lab and the programs in it.
pub(super) struct Room {
    lab: Lab,
    program: Program,
    /// The bare redirect and the far end.
    ends: FrameSource,
    /// A generator for each core.
    generators: Vec<(CoreId, FrameSource)>,
}

impl Room {
    /// Makes the room, with as many queues as cores. Frames of one core are of so many calls, a power of two.
    pub(super) fn new(
        (object, helpers): (&Path, &Path),
        cores: &[CoreId],
        calls: u32,
    ) -> anyhow::Result<Self> {
        let lab = Lab::new(1)?;
        set_queues(&lab, Host::Forwarder, "to-client", cores.len())?;
        set_queues(&lab, Host::Proxy(1), "p1", cores.len())?;
        let from = Host::Client.socket(FAMILY, CLIENT_PORT);
        let to = (vip(FAMILY), SIP_PORT).into();
        let ends = Ends {
            family: FAMILY,
            from,
            to,
        };
        let numbers = |first| Numbers {
            first,
            calls,
            ports: 1,
        };
        let message = Message::invite();
        let out = lab
            .enter(Host::Client, || interface_index("client"))?
            .context("no client")?;
        let mut generators = Vec::new();
        for (place, core) in (0..).zip(cores) {
            let mut generator = calls::source(
                helpers,
                &[Kernel::Generate],
                &message,
                (ends, numbers(place * calls)),
            )?;
            generator.send_by(out)?;
            generators.push((*core, generator));
        }
        let onward = lab
            .enter(Host::Forwarder, || interface_index("to-p1"))?
            .context("no to-p1")?;
        let backends =
            (0..BACKENDS).map(|n| (format!("b{n}"), Host::Proxy(1).socket(FAMILY, SIP_PORT + n)));
        let program = Program::load(object, config_of(vec![nat_service("lab", to, backends)]))?;
        // The map of interfaces looks them up where it is written.
        lab.enter(Host::Forwarder, || program.resolve_all(onward))??;
        let programs = [Kernel::Redirect, Kernel::Arrive];
        let mut far = calls::source(helpers, &programs, &message, (ends, numbers(0)))?;
        far.redirect_to(onward)?;
        lab.enter(Host::Proxy(1), || far.attach(Kernel::Arrive, "p1"))??;
        Ok(Self {
            lab,
            program,
            ends: far,
            generators,
        })
    }

    /// Sends `frames` from each of the first `cores` cores through one of the two.
    pub(super) fn round(
        &mut self,
        front: Front,
        cores: usize,
        frames: u32,
    ) -> anyhow::Result<Round> {
        let Self {
            lab,
            program,
            ends,
            generators,
        } = self;
        let link = lab.enter(Host::Forwarder, || match front {
            Front::Ours => program.attach("to-client"),
            Front::Bare => ends.attach(Kernel::Redirect, "to-client"),
        })??;
        let ran = total(ends).and_then(|before| {
            let pps = send(lab, ends, &generators[..cores], frames)?;
            let sent = u64::from(frames) * cores as u64;
            let arrived = arrived(ends, before + sent)? - before;
            Ok(Round {
                pps,
                lost: sent.saturating_sub(arrived),
            })
        });
        lab.enter(Host::Forwarder, || match front {
            Front::Ours => program.detach(link),
            Front::Bare => ends.detach(Kernel::Redirect, link),
        })??;
        ran
    }
}

/// Gives an interface a receive queue for each core.
fn set_queues(lab: &Lab, host: Host, interface: &str, queues: usize) -> anyhow::Result<()> {
    let queues = queues.to_string();
    let status = lab
        .command(host, "ethtool")?
        .args(["-L", interface, "rx", &queues])
        .status()
        .context("cannot run ethtool")?;
    // 80 says that nothing was to be changed.
    ensure!(
        status.success() || status.code() == Some(80),
        "`ethtool -L {interface} rx {queues}` failed"
    );
    Ok(())
}

/// Sends from all cores at once, to the end. The rate is that of the time in which all cores send.
fn send(
    lab: &Lab,
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
    lab.enter(Host::Client, || {
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
fn arrived(ends: &FrameSource, awaited: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + DRAIN;
    loop {
        let now = total(ends)?;
        if now >= awaited || Instant::now() > deadline {
            return Ok(now);
        }
        thread::yield_now();
    }
}

fn total(ends: &FrameSource) -> anyhow::Result<u64> {
    Ok(ends.arrived()?.iter().sum())
}
