//! The XDP program of an older revision, for comparison: loaded and filled by the map layout that it was
//! built for, whatever the present layout is.
//!
//! Layout 3 is known here. The sizes of its maps and the order of its tables are written down once more, so that a
//! change of the present ones does not change what an old program is given.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, xdp::DevMapHash},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use sip_forwarder::{
    config::{Config, Limits},
    control::numbering::{Number, Numbering},
    slowpath::{canonical, seconds},
};
use sip_forwarder_ebpf::{
    abi::{
        AddressFilter, Affinity, Backend, BackendFlags, BackendId, BackendRef, Endpoint, Globals,
        HINT_LINES_PER_SERVICE, HINTS_PER_LINE, HintLine, LINES_PER_RING, Macs, RingLine,
        SLOTS_PER_LINE, SentByKey, Service, ServiceId, Slot,
    },
    hash,
};

use crate::program::{HASH_KEY, INGRESS, NEXT_HOP, OWN_MAC, columns};

/// The map layout (`ABI_VERSION`) that is known here.
pub const LAYOUT: u32 = 3;
const PROGRAM: &str = "sip_forwarder";
/// Largest IP packet on the way to each backend.
const MTU: u16 = 1_500;

/// The maps of layout 3 that are filled or asked: name, bytes of a key, bytes of a value.
const SHAPES: [(&str, u32, u32); 10] = [
    ("VIPS", 20, 4),
    ("SERVICES", 4, 36),
    ("BACKENDS", 4, 48),
    ("SOURCES", 20, 4),
    ("SENT_BY", 16, 4),
    ("RINGS", 4, 64),
    ("HINTS", 4, 64),
    ("AFFINITY", 8, 8),
    ("RECENT", 4, 8),
    ("GLOBALS", 4, 288),
];

/// Returns the number of entries of each map of layout 3.
fn sizes(limits: &Limits) -> [(&'static str, u32); 13] {
    [
        ("VIPS", limits.services * 4),
        ("SERVICES", limits.services),
        ("BACKENDS", limits.backends),
        ("SOURCES", limits.backends * 4),
        ("SENT_BY", (limits.backends + limits.services) * 2),
        ("RINGS", limits.services * 2 * LINES_PER_RING),
        ("HINTS", limits.services * HINT_LINES_PER_SERVICE),
        ("AFFINITY", limits.affinity_entries),
        ("RECENT", recent_entries(limits)),
        ("FRAGMENTS", 4_096),
        ("INTERFACES", 64),
        ("TRAFFIC", limits.backends),
        ("TURNS", limits.services),
    ]
}

fn recent_entries(limits: &Limits) -> u32 {
    limits.recent_entries.next_power_of_two()
}

/// An old program in the kernel, with tables of its own. It is attached to nothing.
pub struct OldProgram {
    ebpf: Ebpf,
    config: Config,
    numbering: Numbering,
}

impl OldProgram {
    /// Loads an object of layout 3 and fills its tables from a configuration; every backend is alive and
    /// resolved, by the interface that packets of a test run come in by.
    pub fn load(object: &Path, config: Config) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes(&config.limits) {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .load(&bytes)
            .with_context(|| format!("cannot load {}", object.display()))?;
        for (name, key, value) in SHAPES {
            check_shape(&ebpf, name, (key, value))?;
        }
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("{} has no program `{PROGRAM}`", object.display()))?
            .try_into()?;
        program
            .load()
            .context("the kernel refused the old program")?;
        let mut numbering = Numbering::default();
        numbering.assign(&config);
        let mut program = Self {
            ebpf,
            config,
            numbering,
        };
        program.fill()?;
        Ok(program)
    }

    /// Lets packets be redirected to an interface of this namespace.
    pub fn allow_interface(&mut self, index: u32) -> Result<()> {
        let map = self.ebpf.map_mut("INTERFACES").context("no INTERFACES")?;
        let mut map: DevMapHash<&mut MapData> = DevMapHash::try_from(map)?;
        map.insert(index, index, None, 0)
            .with_context(|| format!("cannot allow interface {index} in the old program's map"))
    }

    /// Returns the XDP action, as a number, that the program gives a frame.
    pub fn action(&self, frame: &[u8]) -> Result<u32> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = 1;
        Ok(self.test_run(options)?.0)
    }

    /// Returns the mean time of `repeat` runs over one frame, each of which sees it as the one before left it.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        Ok(self.test_run(options)?.1)
    }

    /// Puts the program on an interface of this namespace, natively, for as long as it is loaded.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut(PROGRAM)
            .context("the old program is gone")?
            .try_into()?;
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach the old program to {interface}"))?;
        Ok(())
    }

    /// Returns the program's descriptor, for other programs to call.
    pub fn fd(&self) -> Result<&ProgramFd> {
        Ok(self.xdp()?.fd()?)
    }

    /// Makes `count` affinity entries of calls of the first service, at its first backend, none of them in the slots
    /// `spared`; with their hints.
    pub fn fill_affinity(&mut self, count: u32, spared: &HashSet<u32>) -> Result<()> {
        let service = ServiceId(0);
        let (_, _, number) = *self
            .backends()?
            .first()
            .context("the configuration has no backend")?;
        let entry = Affinity {
            backend: number.id(),
            incarnation: number.incarnation,
            second: seconds(),
        };
        let calls = (0_u64..)
            .map(|n| hash::digest(HASH_KEY, &n.to_le_bytes()))
            .filter(|digest| !spared.contains(&digest.slot()))
            .take(count as usize);
        let mut hinted = HashSet::new();
        let mut affinity = self.dictionary("AFFINITY")?;
        for digest in calls {
            affinity.insert(digest.affinity_key(service), entry, 0)?;
            hinted.insert(digest.slot());
        }
        let mut hints = self.array("HINTS")?;
        for line in 0..HINT_LINES_PER_SERVICE {
            let mut there: HintLine = hints.get(&line, 0)?;
            for (slot, hint) in (line * HINTS_PER_LINE..).zip(&mut there.0) {
                *hint |= u8::from(hinted.contains(&slot));
            }
            hints.set(line, there, 0)?;
        }
        Ok(())
    }

    /// Writes every table.
    fn fill(&mut self) -> Result<()> {
        let backends = self.backends()?;
        let services = self.services()?;
        let mut globals = Globals {
            hash_key: HASH_KEY,
            recent_mask: recent_entries(&self.config.limits) - 1,
            ..Globals::default()
        };
        self.allow_interface(INGRESS)?;
        for (address, service, number) in &backends {
            let reference = BackendRef {
                service: *service,
                backend: number.id(),
            };
            let entry = backend_entry((*address).into(), *service, *number);
            self.array("BACKENDS")?.set(number.index.into(), entry, 0)?;
            self.name("SOURCES", *address, reference)?;
            globals.sources = with(globals.sources, *address);
        }
        for (id, service) in &services {
            let reference = BackendRef {
                service: *id,
                backend: BackendId::NONE,
            };
            self.name("VIPS", service.vip, reference)?;
            globals.vips = with(globals.vips, service.vip);
            let index = u32::from(id.0);
            let ring = index * 2 * LINES_PER_RING;
            self.write_ring(ring, &columns(service, &self.numbering))?;
            let entry = Service {
                ring,
                hints: index * HINT_LINES_PER_SERVICE,
                vip: service.vip.into(),
                key: service.key.into(),
                register_key: service.register_key.into(),
                id: *id,
                policy: service.spread.policy.into(),
                zero: [0; 3],
            };
            self.array("SERVICES")?.set(index, entry, 0)?;
        }
        self.array("GLOBALS")?.set(0, globals, 0)?;
        Ok(())
    }

    /// Enters an address with its port, with port 0, and by the text that Via and Route name it with.
    fn name(
        &mut self,
        map: &str,
        address: std::net::SocketAddr,
        reference: BackendRef,
    ) -> Result<()> {
        let endpoint = Endpoint::from(address);
        let bare = Endpoint::new(endpoint.address, sip_forwarder_ebpf::abi::Be16::new(0));
        let mut endpoints = self.dictionary::<Endpoint, BackendRef>(map)?;
        endpoints.insert(endpoint, reference, 0)?;
        endpoints.insert(bare, reference, 0)?;
        let text = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let host = hash::digest(HASH_KEY, &canonical(text.as_bytes())).0;
        let key = SentByKey::new(host, address.port());
        self.dictionary("SENT_BY")?.insert(key, reference, 0)?;
        Ok(())
    }

    fn write_ring(&mut self, first: u32, slots: &[Slot]) -> Result<()> {
        let mut rings = self.array("RINGS")?;
        for (line, chunk) in (first..).zip(slots.chunks(SLOTS_PER_LINE as usize)) {
            let mut packed = RingLine([Slot::EMPTY; SLOTS_PER_LINE as usize]);
            packed.0[..chunk.len()].copy_from_slice(chunk);
            rings.set(line, packed, 0)?;
        }
        Ok(())
    }

    /// Returns address, service and number of every backend, in the order of the configuration.
    fn backends(&self) -> Result<Vec<(std::net::SocketAddr, ServiceId, Number)>> {
        let mut found = Vec::new();
        for (id, service) in self.services()? {
            for backend in &service.backends {
                let number = self
                    .numbering
                    .backend(&service.name, &backend.name, backend.address)
                    .with_context(|| format!("backend {} has no number", backend.name))?;
                found.push((backend.address, id, number));
            }
        }
        Ok(found)
    }

    fn services(&self) -> Result<Vec<(ServiceId, sip_forwarder::config::Service)>> {
        self.config
            .services
            .iter()
            .map(|service| {
                let number = self.numbering.service(&service.name);
                let number =
                    number.with_context(|| format!("service {} has no number", service.name))?;
                Ok((ServiceId(number), service.clone()))
            })
            .collect()
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.ebpf.map_mut(name);
        let map = map.with_context(|| format!("the old program has no map {name}"))?;
        Array::try_from(map).with_context(|| format!("map {name} of the old program"))
    }

    fn dictionary<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        let map = self.ebpf.map_mut(name);
        let map = map.with_context(|| format!("the old program has no map {name}"))?;
        HashMap::try_from(map).with_context(|| format!("map {name} of the old program"))
    }

    fn test_run(&self, options: TestRunOptions<'_>) -> Result<(u32, Duration)> {
        let ran = self
            .xdp()?
            .test_run(options)
            .context("BPF_PROG_TEST_RUN of the old program failed")?;
        Ok((ran.return_value, ran.duration))
    }

    fn xdp(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(PROGRAM)
            .context("the old program is gone")?
            .try_into()?)
    }
}

fn backend_entry(endpoint: Endpoint, service: ServiceId, number: Number) -> Backend {
    let mut entry = Backend::new(endpoint, service, number.incarnation);
    entry.macs = Macs::new(NEXT_HOP, OWN_MAC);
    entry.mtu = MTU;
    entry.interface = INGRESS;
    entry.flags = BackendFlags(BackendFlags::ALIVE | BackendFlags::RESOLVED);
    entry
}

fn with(filter: AddressFilter, address: std::net::SocketAddr) -> AddressFilter {
    filter.with(&Endpoint::from(address).address)
}

/// Fails if a map has not the shape that layout 3 gives it.
fn check_shape(ebpf: &Ebpf, name: &str, wanted: (u32, u32)) -> Result<()> {
    let map = ebpf.map(name);
    let map = map.with_context(|| format!("the old program has no map {name}"))?;
    let (Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        anyhow::bail!("map {name} of the old program is of a kind that layout {LAYOUT} has not");
    };
    let info = data
        .info()
        .with_context(|| format!("cannot ask the kernel about map {name}"))?;
    let found = (info.key_size(), info.value_size());
    ensure!(
        found == wanted,
        "map {name} of the old program has keys and values of {found:?} bytes, layout {LAYOUT} has {wanted:?}: \
         this layout is not known; compare with a revision whose ABI_VERSION is {LAYOUT}"
    );
    Ok(())
}
