//! Client, forwarder and one proxy. Frames are made at one end of the lab and counted at the other, in both
//! directions.

use std::path::Path;

use anyhow::{Context as _, ensure};
use core_affinity::CoreId;
use sip_forwarder::dataplane::environment::interface_index;
use sip_forwarder_tests::{
    frame_source::{FrameSource, Kernel, Numbers},
    lab::{Family, Host, Lab, vip},
    messages::Message,
    program::{Program, config_of, nat_service},
};

use super::{
    super::calls::{self, Ends},
    sending,
};

const FAMILY: Family = Family::V4;
const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
const PROXY: Host = Host::Proxy(1);
/// Backends, all behind one link.
const BACKENDS: u16 = 3;

/// What stands on the forwarder's side of the link by which frames come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// Our program.
    Ours,
    /// The bare redirect.
    Bare,
}

/// Where frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// INVITEs to the VIP.
    ToBackends,
    /// A backend's responses.
    ToClients,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::ToBackends, Self::ToClients];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ToBackends => "to-backends",
            Self::ToClients => "to-clients",
        }
    }

    /// Who sends and who receives.
    const fn hosts(self) -> (Host, Host) {
        match self {
            Self::ToBackends => (Host::Client, PROXY),
            Self::ToClients => (PROXY, Host::Client),
        }
    }

    fn ends(self) -> Ends {
        let client = Host::Client.socket(FAMILY, CLIENT_PORT);
        let (from, to) = match self {
            Self::ToBackends => (client, (vip(FAMILY), SIP_PORT).into()),
            Self::ToClients => (PROXY.socket(FAMILY, SIP_PORT), client),
        };
        Ends {
            family: FAMILY,
            from,
            to,
        }
    }

    fn message(self) -> Message {
        match self {
            Self::ToBackends => Message::invite(),
            Self::ToClients => Message::ok(),
        }
    }
}

/// What became of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Packets that arrived in a second.
    pub(super) pps: f64,
    /// Packets that never arrived.
    pub(super) lost: u64,
}

/// The lab and the program in it.
pub(super) struct Room {
    lab: Lab,
    program: Program,
    stretches: Vec<Stretch>,
}

/// One direction.
struct Stretch {
    direction: Direction,
    /// The forwarder's interface by which frames come.
    ingress: String,
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
        let backends = (0..BACKENDS).map(|n| (format!("b{n}"), PROXY.socket(FAMILY, SIP_PORT + n)));
        let service = nat_service("lab", (vip(FAMILY), SIP_PORT).into(), backends);
        let program = Program::load(object, config_of(vec![service]))?;
        let onward = index(&lab, Host::Forwarder, "to-p1")?;
        let back = index(&lab, Host::Forwarder, "to-client")?;
        // The map of interfaces looks them up where it is written.
        lab.enter(Host::Forwarder, || {
            program.maps().allow_interface(back)?;
            program.resolve_all(onward)
        })??;
        let stretches = Direction::ALL
            .into_iter()
            .map(|direction| Stretch::new(&lab, helpers, direction, (cores, calls)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            lab,
            program,
            stretches,
        })
    }

    /// Sends `frames` from each of the first `cores` cores through one of the two.
    pub(super) fn round(
        &mut self,
        direction: Direction,
        front: Front,
        (cores, frames): (usize, u32),
    ) -> anyhow::Result<Round> {
        let Self {
            lab,
            program,
            stretches,
        } = self;
        let stretch = stretches
            .iter_mut()
            .find(|stretch| stretch.direction == direction)
            .with_context(|| format!("nothing goes {}", direction.name()))?;
        let (ends, ingress) = (&mut stretch.ends, &stretch.ingress);
        let link = lab.enter(Host::Forwarder, || match front {
            Front::Ours => program.attach(ingress),
            Front::Bare => ends.attach(Kernel::Redirect, ingress),
        })??;
        let ran = sending::total(ends).and_then(|before| {
            let place = (&*lab, direction.hosts().0);
            let pps = sending::send(place, ends, &stretch.generators[..cores], frames)?;
            let sent = u64::from(frames) * cores as u64;
            let arrived = sending::arrived(ends, before + sent)? - before;
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

impl Stretch {
    fn new(
        lab: &Lab,
        helpers: &Path,
        direction: Direction,
        (cores, calls): (&[CoreId], u32),
    ) -> anyhow::Result<Self> {
        let (near, far) = direction.hosts();
        let near_interface = near.interface().context("the sender has no interface")?;
        let far_interface = far.interface().context("the receiver has no interface")?;
        let ingress = near.forwarder_interface().context("no way in")?;
        let egress = far.forwarder_interface().context("no way out")?;
        set_queues(lab, Host::Forwarder, &ingress, cores.len())?;
        set_queues(lab, far, &far_interface, cores.len())?;
        let source = |programs: &[Kernel], first| {
            let numbers = Numbers {
                first,
                calls,
                ports: 1,
            };
            let message = direction.message();
            calls::source(helpers, programs, &message, (direction.ends(), numbers))
        };
        let out = index(lab, near, &near_interface)?;
        let generators = (0..)
            .zip(cores)
            .map(|(place, core)| {
                let mut generator = source(&[Kernel::Generate], place * calls)?;
                generator.send_by(out)?;
                Ok((*core, generator))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut ends = source(&[Kernel::Redirect, Kernel::Arrive], 0)?;
        ends.redirect_to(index(lab, Host::Forwarder, &egress)?)?;
        lab.enter(far, || ends.attach(Kernel::Arrive, &far_interface))??;
        Ok(Self {
            direction,
            ingress,
            ends,
            generators,
        })
    }
}

/// The number of a host's interface.
fn index(lab: &Lab, host: Host, interface: &str) -> anyhow::Result<u32> {
    lab.enter(host, || interface_index(interface))?
        .with_context(|| format!("{host} has no interface {interface}"))
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
