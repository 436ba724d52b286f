//! What rings cost the daemon: time from an order to the ring that heeds it, and memory.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;
use sip_forwarder::api;
use sip_forwarder_tests::lab::{Backend, Daemon, DaemonSpec, Family, Host, Lab};

use super::{super::timings::Timings, Figure};

/// From an order to its answer, which comes when the ring is in the maps and the order on disk.
pub(super) const REBUILD: &str = "ring-rebuild";
/// The daemon's CPU time of that.
const REBUILD_CPU: &str = "ring-rebuild-cpu";
const SIZES: [u16; 3] = [2, 128, 1_024];
const FIRST_PORT: u16 = 10_000;
const FAMILY: Family = Family::V4;

/// Memory of a daemon with this many backends, XDP's maps not counted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Memory {
    pub(super) backends: u64,
    /// After all rings were made.
    pub(super) resident_bytes: u64,
    /// The most it ever was.
    pub(super) peak_bytes: u64,
}

/// Both for every size.
#[derive(Default)]
pub(super) struct Rings {
    pub(super) figures: Vec<Figure>,
    pub(super) memory: Vec<Memory>,
}

impl Rings {
    /// Starts a daemon of each size, and disables and enables a backend in turn.
    pub(super) fn measure(binary: &Path, rounds: u32) -> Result<Self> {
        let mut rings = Self {
            figures: Vec::new(),
            memory: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for backends in SIZES {
            let lab = Lab::new(1)?;
            let daemon = Daemon::start(&lab, &spec(binary, &lab, backends))?;
            let (mut wall, mut cpu) = (Timings::default(), Timings::default());
            for round in 0..rounds {
                let verb = if round % 2 == 0 { "disable" } else { "enable" };
                let (start, used) = (Instant::now(), cpu_ns(&daemon)?);
                runtime.block_on(api::post(
                    &lab.dir().join("api.sock"),
                    &format!("/services/lab/backends/b1/{verb}"),
                    &json!({}),
                ))?;
                wall.push(start.elapsed().as_nanos() as f64);
                cpu.push(cpu_ns(&daemon)? - used);
            }
            let figure = |what, timings: &Timings| Figure {
                what,
                x: backends.into(),
                ns: timings.median(),
                spread_ns: timings.spread(),
            };
            rings.figures.push(figure(REBUILD, &wall));
            rings.figures.push(figure(REBUILD_CPU, &cpu));
            rings.memory.push(memory(&daemon, backends)?);
        }
        Ok(rings)
    }
}

/// The lab's service with other backends: ports of the one proxy.
fn spec(binary: &Path, lab: &Lab, backends: u16) -> DaemonSpec {
    let mut spec = DaemonSpec::of_lab(binary, lab, FAMILY);
    for service in &mut spec.services {
        service.backends = (0..backends)
            .map(|n| Backend {
                name: format!("b{n}"),
                address: lab.address(Host::Proxy(1), FAMILY),
                port: FIRST_PORT + n,
                weight: 1,
            })
            .collect();
    }
    spec
}

/// CPU time of the daemon's first thread, which decides and publishes, in nanoseconds.
fn cpu_ns(daemon: &Daemon) -> Result<f64> {
    let pid = daemon.pid().context("the daemon is gone")?;
    let path = format!("/proc/{pid}/task/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next();
    first
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("{path} holds no CPU time"))
}

fn memory(daemon: &Daemon, backends: u16) -> Result<Memory> {
    let pid = daemon.pid().context("the daemon is gone")?;
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let bytes = |key: &str| -> Result<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_suffix("kB"))
            .and_then(|value| value.trim().parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
            .with_context(|| format!("{path} holds no {key}"))
    };
    Ok(Memory {
        backends: backends.into(),
        resident_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}
