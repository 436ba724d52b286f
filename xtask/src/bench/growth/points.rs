//! What is measured at which size.

use std::{collections::HashSet, net::SocketAddr, path::Path, rc::Rc};

use anyhow::{Context as _, Result, ensure};
use sip_forwarder::{
    config::{Config, Limits},
    dataplane::environment,
};
use sip_forwarder_ebpf::generator;
use sip_forwarder_tests::{
    baseline::Baseline,
    frame_source::{FrameSource, Kernel, NUMBER, Numbers},
    lab::{Family, Host, vip},
    messages::Message,
    program::{Program, config_of, nat_service},
};

use super::{
    super::{
        calls::{self, Ends},
        timings::Timings,
    },
    Figure,
};

const FAMILY: Family = Family::V4;
const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
const BACKEND_PORT: u16 = 10_000;
/// Packets in a row.
const PACKETS: u32 = 4_096;
/// Entries in a map that is not about entries.
const FEW_ENTRIES: u32 = 1 << 16;
const MANY_ENTRIES: u32 = 1 << 20;
/// XDP actions of a packet that is sent on.
const SENT_ON: [u32; 2] = [3, 4];

/// Backends of one service.
const BACKENDS: &str = "backends";
/// Services, of three backends each.
const SERVICES: &str = "services";
/// Entries of other calls, in slots that the measured calls, which are at home, do not fall into.
const AFFINITY: &str = "affinity-entries";
/// Entries of other calls in all slots, so that calls at home are looked up as well.
const AFFINITY_SHARED: &str = "affinity-entries-same-slots";
/// Bytes of the message before the Call-ID's line, in as many lines.
pub(super) const BYTES: &str = "bytes-before-call-id";
/// The same, in more and more Vias.
const VIAS: &str = "bytes-in-vias";
/// Clients that responses go to.
const CLIENTS: &str = "clients";

/// What must not grow.
pub(super) const FLAT_SERIES: [&str; 3] = [BACKENDS, SERVICES, AFFINITY];

/// One size of one thing.
pub(super) struct Point {
    what: &'static str,
    x: u64,
    ours: FrameSource,
    /// The same frames, given to the baseline.
    base: FrameSource,
    /// The program under test lives as long as it is timed.
    _program: Rc<Program>,
    timings: Timings,
    baseline: Timings,
}

impl Point {
    fn new(
        (what, x): (&'static str, u64),
        (program, baseline): (&Rc<Program>, &Baseline),
        source: impl Fn() -> Result<FrameSource>,
    ) -> Result<Self> {
        let (mut ours, mut base) = (source()?, source()?);
        ours.give_to(program.fd()?)?;
        base.give_to(baseline.fd()?)?;
        for _ in 0..16 {
            let action = ours.action(Kernel::MakeAndGive)?;
            ensure!(
                SENT_ON.contains(&action),
                "{what} at {x}: the fast path did not take a packet (action {action})"
            );
        }
        Ok(Self {
            what,
            x,
            ours,
            base,
            _program: Rc::clone(program),
            timings: Timings::default(),
            baseline: Timings::default(),
        })
    }

    fn round(&mut self, baseline: f64) -> Result<()> {
        let nanoseconds = |source: &FrameSource| -> Result<f64> {
            Ok(source.time(Kernel::MakeAndGive, PACKETS)?.as_nanos() as f64)
        };
        let above = nanoseconds(&self.ours)? - nanoseconds(&self.base)?;
        self.baseline.push(baseline);
        self.timings.push(above + baseline);
        Ok(())
    }

    pub(super) fn baseline_ns(&self) -> f64 {
        self.baseline.median()
    }

    pub(super) fn figure(&self) -> Figure {
        Figure {
            what: self.what,
            x: self.x,
            ns: self.timings.median(),
            spread_ns: self.timings.spread(),
        }
    }
}

/// Times all points in each round, beside the baseline.
pub(super) fn measure(points: &mut [Point], baseline: &Baseline, rounds: u32) -> Result<()> {
    const REPEAT: u32 = 200;
    let frame = [0; 60];
    for _ in 0..rounds {
        for point in &mut *points {
            let alone = baseline.time(&frame, REPEAT)?;
            point.round(alone.as_nanos() as f64)?;
        }
    }
    Ok(())
}

/// All points, each series by size. Packets are of so many calls, a power of two, which come round.
pub(super) fn all(
    (object, helpers): (&Path, &Path),
    baseline: &Baseline,
    calls: u32,
) -> Result<Vec<Point>> {
    let load =
        |config: Config| -> Result<Rc<Program>> { Ok(Rc::new(Program::load(object, config)?)) };
    let to_vip = |message: &Message, ports: u32| {
        let ends = Ends {
            family: FAMILY,
            from: Host::Client.socket(FAMILY, CLIENT_PORT),
            to: SocketAddr::new(vip(FAMILY), SIP_PORT),
        };
        let numbers = Numbers {
            first: 0,
            calls,
            ports,
        };
        calls::source(helpers, &[Kernel::MakeAndGive], message, (ends, numbers))
    };
    let invite = Message::invite();
    let mut points = Vec::new();
    for backends in [2, 16, 128, 1_024] {
        let program = load(config(1, backends, FEW_ENTRIES))?;
        let size = (BACKENDS, backends.into());
        points.push(Point::new(size, (&program, baseline), || {
            to_vip(&invite, 1)
        })?);
    }
    for services in [1, 16, 256] {
        let program = load(config(services, 3, FEW_ENTRIES))?;
        let size = (SERVICES, services.into());
        points.push(Point::new(size, (&program, baseline), || {
            to_vip(&invite, services.into())
        })?);
    }
    let all_slots = HashSet::new();
    for (what, spared) in [(AFFINITY, &own_slots(calls)), (AFFINITY_SHARED, &all_slots)] {
        for entries in [0, 1_000, 1_000_000] {
            let program = load(config(1, 3, MANY_ENTRIES))?;
            program.fill_affinity(entries, spared)?;
            let size = (what, entries.into());
            points.push(Point::new(size, (&program, baseline), || {
                to_vip(&invite, 1)
            })?);
        }
    }
    let program = load(config(1, 3, FEW_ENTRIES))?;
    for more in [0, 175, 350, 525, 700] {
        let message = padded(more);
        let size = (BYTES, bytes_before_call_id(&message)?);
        points.push(Point::new(size, (&program, baseline), || {
            to_vip(&message, 1)
        })?);
    }
    for vias in [0, 2, 4, 6, 8] {
        let message = through(vias);
        let size = (VIAS, bytes_before_call_id(&message)?);
        points.push(Point::new(size, (&program, baseline), || {
            to_vip(&message, 1)
        })?);
    }
    points.extend(way_back(helpers, (&program, baseline), calls)?);
    Ok(points)
}

/// Responses to more and more clients.
fn way_back(
    helpers: &Path,
    (program, baseline): (&Rc<Program>, &Baseline),
    calls: u32,
) -> Result<Vec<Point>> {
    let client = environment::interface_index("to-client").context("no to-client")?;
    program.maps().allow_interface(client)?;
    let ends = Ends {
        family: FAMILY,
        from: Host::Proxy(1).socket(FAMILY, BACKEND_PORT),
        to: Host::Client.socket(FAMILY, 20_000),
    };
    [1, 64, 1_024, 16_384]
        .into_iter()
        .map(|clients| {
            let numbers = Numbers {
                first: 0,
                calls,
                ports: clients,
            };
            Point::new((CLIENTS, clients.into()), (program, baseline), || {
                let programs = [Kernel::MakeAndGive];
                calls::source(helpers, &programs, &Message::ok(), (ends, numbers))
            })
        })
        .collect()
}

/// Services on ports of the VIP, their backends on ports of the one proxy.
fn config(services: u16, backends: u16, entries: u32) -> Config {
    let services: Vec<_> = (0..services)
        .map(|s| {
            let vip = SocketAddr::new(vip(FAMILY), SIP_PORT + s);
            let backends = (0..backends).map(|b| {
                let port = BACKEND_PORT + s * backends + b;
                (format!("b{b}"), Host::Proxy(1).socket(FAMILY, port))
            });
            nat_service(&format!("s{s}"), vip, backends)
        })
        .collect();
    let count = services.len() as u32;
    let mut config = config_of(services);
    config.limits = Limits {
        services: count,
        backends: count * u32::from(backends),
        affinity_entries: entries,
        ..config.limits
    };
    config
}

/// Slots of the calls that are measured.
fn own_slots(calls: u32) -> HashSet<u32> {
    calls::call_ids()
        .flat_map(|call_id| {
            (0..calls).map(move |number| {
                let number = generator::characters(number).to_le_bytes();
                call_id.replace(NUMBER, &String::from_utf8_lossy(&number))
            })
        })
        .map(|call_id| Program::slot_of(&call_id))
        .collect()
}

/// An INVITE with a long parameter in its Via.
fn padded(more: usize) -> Message {
    let via = format!(
        "SIP/2.0/UDP 10.210.0.2:5061;branch=z9hG4bK-4711-1-0{}",
        "x".repeat(more)
    );
    Message::invite().vias(&[&via])
}

/// An INVITE that came through so many proxies.
fn through(vias: u8) -> Message {
    (0..vias).fold(Message::invite(), |message, hop| {
        message.top_via(&format!(
            "SIP/2.0/UDP 192.0.2.{hop}:5060;branch=z9hG4bK-proxy-{hop}-0123456789abcdef0123456789abcd"
        ))
    })
}

fn bytes_before_call_id(message: &Message) -> Result<u64> {
    let message = message.clone().call_id(NUMBER).build();
    let offset = sip_forwarder_tests::messages::line_offset(&message, "Call-ID:")
        .context("the message has no Call-ID")?;
    Ok(offset as u64)
}
