//! Client, forwarder and one proxy; frames are made at the client's end and counted at the proxy's.

use std::{
    path::Path,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use core_affinity::CoreId;
use sip_forwarder::dataplane::environment::interface_index;
use sip_forwarder_tests::{
    frame_source::{FrameSource, Kernel, Numbers},
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
/// Calls that the frames of one core belong to.
const CALLS: u32 = 1 << 16;
/// Frames in flight: a quarter of what a veth's queue holds.
const BATCH: u32 = 64;
/// What is under way may take this long.
const DRAIN: Duration = Duration::from_secs(2);
/// Packets before the clock runs: caches, page pools, the routes' first look.
const WARM_UP: u32 = 4_096;

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
    pub(super) sent: u64,
    pub(super) arrived: u64,
    pub(super) time: Duration,
}

impl Round {
    pub(super) fn pps(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }
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
    /// Makes the room, with as many queues as cores.
    pub(super) fn new(object: &Path, helpers: &Path, cores: &[CoreId]) -> anyhow::Result<Self> {
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
        let numbers = Numbers {
            calls: CALLS * (cores.len() as u32).next_power_of_two(),
            ports: 1,
        };
        let message = Message::invite();
        let out = lab
            .enter(Host::Client, || interface_index("client"))?
            .context("no client")?;
        let mut generators = Vec::new();
        for (place, core) in (0..).zip(cores) {
            let mut generator =
                calls::source(helpers, &[Kernel::Generate], &message, (ends, numbers))?;
            generator.send_by(out)?;
            generator.count_from(place * CALLS)?;
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
        let mut far = calls::source(helpers, &programs, &message, (ends, numbers))?;
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
        let generators = &generators[..cores];
        let ran = send(lab, generators, WARM_UP)
            .and_then(|_| settled(ends))
            .and_then(|before| {
                let time = send(lab, generators, frames)?;
                let sent = u64::from(frames) * cores as u64;
                let arrived = arrived(ends, before + sent)? - before;
                Ok(Round {
                    sent,
                    arrived,
                    time,
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

/// Sends from all cores at once. How long the slowest took.
fn send(lab: &Lab, generators: &[(CoreId, FrameSource)], frames: u32) -> anyhow::Result<Duration> {
    let start = Barrier::new(generators.len());
    let from = |(core, generator): &(CoreId, FrameSource)| -> anyhow::Result<(Instant, Instant)> {
        let pinned = core_affinity::set_for_current(*core);
        start.wait();
        ensure!(pinned, "cannot pin a thread to core {}", core.id);
        let begin = Instant::now();
        generator.send(frames, BATCH)?;
        Ok((begin, Instant::now()))
    };
    let ran = lab.enter(Host::Client, || {
        // Threads are begun in here, so that they are in the namespace.
        thread::scope(|scope| {
            let threads: Vec<_> = generators.iter().map(|g| scope.spawn(|| from(g))).collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<anyhow::Result<Vec<_>>>()
        })
    })??;
    let begin = ran.iter().map(|(begin, _)| *begin).min();
    let end = ran.iter().map(|(_, end)| *end).max();
    Ok(begin
        .zip(end)
        .map_or(Duration::ZERO, |(begin, end)| end - begin))
}

/// What has arrived once nothing more comes.
fn settled(ends: &FrameSource) -> anyhow::Result<u64> {
    let deadline = Instant::now() + DRAIN;
    let mut before = total(ends)?;
    loop {
        thread::sleep(Duration::from_millis(5));
        let now = total(ends)?;
        if now == before || Instant::now() > deadline {
            return Ok(now);
        }
        before = now;
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
