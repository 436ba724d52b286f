//! The XDP program on single packets, by `BPF_PROG_TEST_RUN`: nothing is attached, nothing pinned.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode, xdp::XdpLinkId},
    util::nr_cpus,
};
use sip_forwarder::{
    config::{
        self, BackendTransport, Config, Connections, Forwarder, Gate, Health, Heartbeats, Key,
        Limits, Mode, Probe, Service, Spread,
    },
    control::{
        numbering::{Number, Numbering},
        service::{Saved, ServiceControl, Timing},
    },
    dataplane::{
        KernelStore, KernelTables, Maps, maps_load,
        nexthop::NextHop,
        publish,
        stages::{self, Stages},
    },
    slowpath::counters::Counters,
};
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendId, HINTS_PER_LINE, Macs, RING_SLOTS, ServiceId, Slot, VlanTags,
    },
    hash,
    stage::{ENTRY, Stage},
    verdict::{TABLE, Verdict},
};

/// The key of the hash in tests.
pub const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
/// What the kernel says a packet of a test run came in by: the loopback.
pub const INGRESS: u32 = 1;
/// MAC address of every backend's next hop.
pub const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xb, 1];
/// MAC address that packets to backends leave with.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0xf, 1];
/// Words of a packet's memory in the program; the first is not zero while a packet has it.
const SCRATCH_WORDS: usize = 48;
/// Longest packet that comes out, in bytes.
const OUT_LENGTH: usize = 10_240;

/// Services in mode `nat`, and nothing else out of the ordinary.
#[must_use]
pub fn config_of(services: Vec<Service>) -> Config {
    Config {
        forwarder: Forwarder::default(),
        heartbeats: None,
        limits: Limits::default(),
        connections: Connections::default(),
        services,
    }
}

/// A service in mode `nat` whose backends (name, address) nobody watches.
pub fn nat_service(
    name: &str,
    vip: SocketAddr,
    backends: impl IntoIterator<Item = (String, SocketAddr)>,
) -> Service {
    let backend = |(name, address): (String, SocketAddr)| config::Backend {
        name,
        address,
        server_name: address.ip().to_string(),
        weight: 1,
        health: Health::None,
        gate: Gate::default(),
    };
    Service {
        name: name.to_owned(),
        vip,
        mode: Mode::Nat,
        record_route: false,
        advertise: None,
        transport: BackendTransport::Udp,
        large_by_tcp: false,
        edge: false,
        backend_ca: None,
        listeners: Vec::new(),
        tls: None,
        key: Key::CallId,
        register_key: Key::CallId,
        spread: Spread::default(),
        probe: Probe::default(),
        backends: backends.into_iter().map(backend).collect(),
    }
}

/// The slots of a service's ring, as control makes them of what is new.
#[must_use]
pub fn columns(service: &Service, numbering: &Numbering) -> Vec<Slot> {
    let timing = Timing::from(&Heartbeats::default());
    let (now, saved) = (Duration::ZERO, Saved::default());
    ServiceControl::new(now, now, service, timing, &saved, |_| false).columns(|name| {
        let backend = service.backends.iter().find(|b| b.name == name);
        backend
            .and_then(|b| numbering.backend(&service.name, name, b.address))
            .map_or(BackendId::NONE, Number::id)
    })
}

/// What the program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The XDP action.
    pub action: Action,
    /// The one verdict it counted.
    pub verdict: Verdict,
    /// The packet as it left.
    pub frame: Vec<u8>,
}

/// An XDP action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The program failed.
    Aborted,
    /// Thrown away.
    Drop,
    /// To the kernel.
    Pass,
    /// Back by the interface it came in by.
    Tx,
    /// By another interface.
    Redirect,
}

impl Action {
    fn of(value: u32) -> Result<Self> {
        [
            Self::Aborted,
            Self::Drop,
            Self::Pass,
            Self::Tx,
            Self::Redirect,
        ]
        .get(value as usize)
        .copied()
        .with_context(|| format!("the program returned {value}, which is no XDP action"))
    }
}

/// What the kernel made of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageSize {
    /// Name of the stage's program.
    pub stage: &'static str,
    /// Instructions that the verifier went through.
    pub verified: u32,
    /// Bytes of machine code.
    pub jitted: u32,
}

/// Returns the mean time of `repeat` runs of a program over one packet.
pub(crate) fn time(program: &Xdp, frame: &[u8], repeat: u32) -> Result<Duration> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    let result = program.test_run(options);
    Ok(result.context("BPF_PROG_TEST_RUN failed")?.duration)
}

/// The program in the kernel, with tables of its own.
pub struct Program {
    ebpf: Ebpf,
    /// Without it the program would have no stages behind its entry.
    stages: Mutex<Stages>,
    maps: Arc<Maps>,
    numbering: Numbering,
    config: Config,
}

impl Program {
    /// Loads the object file and fills its tables from a configuration; every backend is resolved,
    /// by the interface packets come in by.
    pub fn load(object: &Path, config: Config) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut ebpf = maps_load(&bytes, &config.limits, None)?;
        let maps = Arc::new(Maps::take(&mut ebpf)?);
        let loaded = stages::load(&mut ebpf)?;
        let mut numbering = Numbering::default();
        numbering.assign(&config);
        let program = Self {
            ebpf,
            stages: Mutex::new(loaded),
            maps,
            numbering,
            config,
        };
        program.publish()?;
        program.resolve_all(INGRESS)?;
        Ok(program)
    }

    /// Fills the tables anew.
    pub fn publish(&self) -> Result<()> {
        publish::backends(&self.maps, &self.config, &self.numbering)?;
        publish::services(
            &self.maps,
            &self.config,
            &self.numbering,
            HASH_KEY,
            &mut |service| columns(service, &self.numbering),
        )?;
        Ok(())
    }

    /// Gives the first service a ring all of whose slots are alike.
    pub fn set_ring(&self, slot: Slot) -> Result<()> {
        let slots = vec![slot; RING_SLOTS as usize];
        Ok(publish::ring(&self.maps, ServiceId(0), &slots)?)
    }

    /// Gives the first service a ring of its own making.
    pub fn set_slots(&self, slots: &[Slot]) -> Result<()> {
        Ok(publish::ring(&self.maps, ServiceId(0), slots)?)
    }

    /// Tells whether a backend lives.
    pub fn set_alive(&self, id: BackendId, alive: bool) -> Result<()> {
        Ok(publish::set_alive(&self.maps, id, alive)?)
    }

    /// Makes every backend reachable by one interface.
    pub fn resolve_all(&self, interface: u32) -> Result<()> {
        let hop = NextHop {
            interface,
            macs: Macs::new(NEXT_HOP, OWN_MAC),
            mtu: 1_500,
            tags: VlanTags::default(),
        };
        for id in self.backends() {
            publish::set_next_hop(&self.maps, id, Some(&hop))?;
        }
        Ok(())
    }

    /// Numbers of all backends, in the order of the configuration.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendId> {
        let number = |s: &str, b: &sip_forwarder::config::Backend| {
            Some(self.numbering.backend(s, &b.name, b.address)?.id())
        };
        self.config
            .services
            .iter()
            .flat_map(|s| s.backends.iter().filter_map(|b| number(&s.name, b)))
            .collect()
    }

    /// Changes a backend's entry.
    pub fn change_backend(&self, id: BackendId, change: impl FnOnce(&mut Backend)) -> Result<()> {
        let mut entry = self.maps.backends.get(u32::from(id.0))?;
        change(&mut entry);
        Ok(self.maps.backends.set(u32::from(id.0), entry)?)
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The tables as a worker sees them, over the same maps.
    pub fn tables(&self) -> Result<KernelTables> {
        Ok(KernelTables::new(
            KernelStore(Arc::clone(&self.maps)),
            Arc::new(Counters::new(self.config.limits.backends)),
            HASH_KEY,
            self.config.limits.recent_lines(),
        ))
    }

    /// Runs one packet.
    pub fn run(&self, frame: &[u8]) -> Result<Ran> {
        let before = self.maps.verdicts()?;
        let mut out = vec![0; OUT_LENGTH.max(frame.len())];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = 1;
        let result = self
            .xdp(ENTRY)?
            .test_run(options)
            .context("BPF_PROG_TEST_RUN failed")?;
        out.truncate(result.data_size_out as usize);
        let after = self.maps.verdicts()?;
        let moved: Vec<Verdict> = TABLE
            .iter()
            .map(|entry| entry.verdict)
            .filter(|v| after[v.number() as usize] != before[v.number() as usize])
            .collect();
        ensure!(
            moved.len() == 1,
            "one packet must count one verdict, not {moved:?}"
        );
        Ok(Ran {
            action: Action::of(result.return_value)?,
            verdict: moved[0],
            frame: out,
        })
    }

    /// Runs one packet, which leaves into `out`, and counts nothing.
    pub fn pass(&self, frame: &[u8], out: &mut [u8]) -> Result<Action> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(out);
        options.repeat = 1;
        let result = self.xdp(ENTRY)?.test_run(options);
        Action::of(result.context("BPF_PROG_TEST_RUN failed")?.return_value)
    }

    /// Takes a stage away, as if it had never been loaded.
    pub fn remove_stage(&self, stage: Stage) -> Result<()> {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(stages.clear_index(&stage.index())?)
    }

    /// Makes every CPU's memory look as if a packet had it, or free.
    pub fn set_busy(&self, busy: bool) -> Result<()> {
        let map = self.ebpf.map("SCRATCH").context("no map SCRATCH")?;
        let Map::PerCpuArray(data) = map else {
            bail!("SCRATCH is no per-CPU array");
        };
        let info = data.info()?;
        let words = info.value_size() as usize / 4;
        ensure!(words == SCRATCH_WORDS, "SCRATCH has {words} words");
        let mut scratch: PerCpuArray<_, [u32; SCRATCH_WORDS]> =
            PerCpuArray::try_from(Map::PerCpuArray(MapData::from_id(info.id())?))?;
        let mut value = [0; SCRATCH_WORDS];
        value[0] = u32::from(busy);
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        Ok(scratch.set(0, PerCpuValues::try_from(vec![value; cpus])?, 0)?)
    }

    /// Mean time of `repeat` runs over one packet, each seeing it as the one before left it.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        time(self.xdp(ENTRY)?, frame, repeat)
    }

    /// The entry, for other programs to call.
    pub fn fd(&self) -> Result<&ProgramFd> {
        Ok(self.xdp(ENTRY)?.fd()?)
    }

    /// Puts the program on an interface of this namespace, natively.
    pub fn attach(&mut self, interface: &str) -> Result<XdpLinkId> {
        self.forwarder()?
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach the program to {interface}"))
    }

    /// Takes it off again.
    pub fn detach(&mut self, link: XdpLinkId) -> Result<()> {
        Ok(self.forwarder()?.detach(link)?)
    }

    fn forwarder(&mut self) -> Result<&mut Xdp> {
        Ok(self
            .ebpf
            .program_mut(ENTRY)
            .with_context(|| format!("no program {ENTRY}"))?
            .try_into()?)
    }

    /// The slot of a Call-ID.
    #[must_use]
    pub fn slot_of(call_id: &str) -> u32 {
        hash::digest(HASH_KEY, call_id.as_bytes()).slot()
    }

    /// Makes `count` affinity entries of calls of the first service that nobody makes, at its first
    /// backend, none of them in the slots `spared`; with their hints.
    pub fn fill_affinity(&self, count: u32, spared: &HashSet<u32>) -> Result<()> {
        let service = ServiceId(0);
        let backend = *self.backends().first().context("there is no backend")?;
        let entry = Affinity {
            backend,
            incarnation: self.maps.backends.get(u32::from(backend.0))?.incarnation,
            second: sip_forwarder::slowpath::seconds(),
        };
        let calls = (0_u64..)
            .map(|n| hash::digest(HASH_KEY, &n.to_le_bytes()))
            .filter(|digest| !spared.contains(&digest.slot()))
            .take(count as usize);
        let mut hinted = HashSet::new();
        for digest in calls {
            self.maps
                .affinity
                .insert(&digest.affinity_key(service), &entry)?;
            hinted.insert(digest.slot());
        }
        for slot in hinted {
            let line = self.maps.hints.get(slot / HINTS_PER_LINE);
            let hints = line.context("a slot has no hint")?;
            hints.0[(slot % HINTS_PER_LINE) as usize].store(1, Ordering::Release);
        }
        Ok(())
    }

    /// Returns what the kernel made of each stage, the entry first.
    pub fn sizes(&self) -> Result<Vec<StageSize>> {
        let stages = Stage::ALL.into_iter().map(Stage::program);
        [ENTRY]
            .into_iter()
            .chain(stages)
            .map(|stage| {
                let info = self.xdp(stage)?.info()?;
                Ok(StageSize {
                    stage,
                    verified: info
                        .verified_instruction_count()
                        .context("this kernel does not tell verified instructions")?,
                    jitted: info.size_jitted(),
                })
            })
            .collect()
    }

    fn xdp(&self, name: &str) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }
}
