//! The maps, typed, as the daemon holds them.

use std::sync::Mutex;

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{
        Array, HashMap, IterableMap as _, Map, MapData, MapError, PerCpuArray,
        xdp::{DevMapHash, XdpMapError},
    },
};
use sip_forwarder_ebpf::{
    abi::{
        Affinity, AffinityKey, Backend, BackendRef, BackendTraffic, Endpoint, Event, Globals,
        HINT_LINES_PER_SERVICE, LINES_PER_RING, RingLine, SentByKey, Service,
    },
    verdict::VERDICT_LIMIT,
};
use thiserror::Error;

use super::{
    census::Census,
    pins::Pins,
    shared::{Hints, SharedMap, Turns},
};
use crate::{
    config::Limits,
    mapped::Shared,
    slowpath::{recent::Line, seconds},
};

/// A fault with the maps.
#[derive(Debug, Error)]
pub enum MapsError {
    /// The kernel would not take the program's object.
    #[error("cannot load the XDP program: {0}")]
    Load(#[from] EbpfError),
    /// The object lacks a map: program and daemon are of different builds.
    #[error("the XDP program has no map {0}; build both anew with `cargo xtask build`")]
    Missing(&'static str),
    /// An operation on a map failed.
    #[error("map {name}: {source}")]
    Operation {
        /// The map.
        name: &'static str,
        /// The fault.
        source: MapError,
    },
    /// A map cannot be shared with the program.
    #[error("cannot map {name} into memory: {source}")]
    Sharing {
        /// The map.
        name: &'static str,
        /// The fault.
        source: std::io::Error,
    },
    /// An element is asked for that the map does not have: tables contradict each other.
    #[error("map {name} has no element {index}; this is a bug, please report it")]
    Beyond {
        /// The map.
        name: &'static str,
        /// The element.
        index: u32,
    },
    /// A pinned map has another size than the configuration wants.
    #[error(
        "map {name} is pinned with {pinned} entries, but [limits] now asks for {wanted}; keep the limits, or take the old maps off with `sip-forwarder unload` (calls that are not at home are forgotten)"
    )]
    Resized {
        /// The map.
        name: &'static str,
        /// Its entries.
        pinned: u32,
        /// What is asked for.
        wanted: u32,
    },
}

type Result<T, E = MapsError> = std::result::Result<T, E>;

/// Names of all maps the daemon sizes, in the order of [`sizes`].
fn sizes(limits: &Limits) -> [(&'static str, u32); 15] {
    // An address stands with its port and with port 0. Twice the room, because what is new is put in
    // before what is old goes.
    let names = (limits.backends + limits.services) * 2;
    [
        ("VIPS", limits.services * 4),
        ("SERVICES", limits.services),
        ("BACKENDS", limits.backends),
        ("SOURCES", limits.backends * 4),
        ("SENT_BY", names),
        ("RINGS", limits.services * 2 * LINES_PER_RING),
        ("HINTS", limits.services * HINT_LINES_PER_SERVICE),
        ("AFFINITY", limits.affinity_entries),
        ("RECENT", limits.recent_lines()),
        ("FRAGMENTS", 4_096),
        ("INTERFACES", 64),
        ("TRAFFIC", limits.backends),
        ("TURNS", limits.services),
        ("EVENTS", Event::KINDS),
        ("VERDICTS", VERDICT_LIMIT),
    ]
}

/// Loads the object: makes its maps in the sizes of `limits`, pinned in `pins`, or adopts those that
/// are pinned there. No program is loaded yet.
pub fn load(object: &[u8], limits: &Limits, pins: Option<&Pins>) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let sizes = sizes(limits);
    for (name, size) in &sizes {
        loader.map_max_entries(name, *size);
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    if let Some(pins) = pins {
        loader.map_pin_path("GLOBALS", pins.map("GLOBALS"));
    }
    let ebpf = loader.load(object)?;
    for (name, wanted) in sizes {
        let pinned = data(&ebpf, name)?
            .info()
            .map_err(|source| operation(name)(source))?
            .max_entries();
        if pinned != wanted {
            return Err(MapsError::Resized {
                name,
                pinned,
                wanted,
            });
        }
    }
    Ok(ebpf)
}

fn data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData> {
    match ebpf.map(name).ok_or(MapsError::Missing(name))? {
        Map::Array(d)
        | Map::HashMap(d)
        | Map::LruHashMap(d)
        | Map::PerCpuArray(d)
        | Map::DevMapHash(d) => Ok(d),
        _ => Err(MapsError::Missing(name)),
    }
}

fn operation(name: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError::Operation { name, source }
}

/// An array whose elements are read and written from any thread.
pub struct Table<V: Pod> {
    name: &'static str,
    map: Mutex<Array<MapData, V>>,
}

impl<V: Pod> Table<V> {
    /// The element at `index`.
    pub fn get(&self, index: u32) -> Result<V> {
        self.lock().get(&index, 0).map_err(operation(self.name))
    }

    /// Sets the element at `index`.
    pub fn set(&self, index: u32, value: V) -> Result<()> {
        self.lock()
            .set(index, value, 0)
            .map_err(operation(self.name))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Array<MapData, V>> {
        self.map
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A hash map that is read and written from any thread.
pub struct Dictionary<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<HashMap<MapData, K, V>>,
}

impl<K: Pod + Eq + std::hash::Hash, V: Pod> Dictionary<K, V> {
    /// The value of `key`, if there is one.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        match self.lock().get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(operation(self.name)(source)),
        }
    }

    /// Sets the value of `key`.
    pub fn insert(&self, key: &K, value: &V) -> Result<()> {
        self.lock()
            .insert(key, value, 0)
            .map_err(operation(self.name))
    }

    /// Makes the map hold exactly `wanted`: what is new is put in before what is old goes.
    pub fn replace(&self, wanted: &std::collections::HashMap<K, V>) -> Result<()> {
        let mut map = self.lock();
        for (key, value) in wanted {
            map.insert(key, value, 0).map_err(operation(self.name))?;
        }
        let old: Vec<K> = map
            .keys()
            .flatten()
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for key in old {
            match map.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(operation(self.name)(source)),
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, K, V>> {
        self.map
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// All maps.
pub struct Maps {
    /// VIP and port → service.
    pub vips: Dictionary<Endpoint, BackendRef>,
    /// Services by number.
    pub services: Table<Service>,
    /// Backends by number.
    pub backends: Table<Backend>,
    /// Address and port of backends → backend.
    pub sources: Dictionary<Endpoint, BackendRef>,
    /// Host and port as written → backend.
    pub sent_by: Dictionary<SentByKey, BackendRef>,
    /// Rings.
    pub rings: Table<RingLine>,
    /// Hints.
    pub hints: SharedMap<Hints>,
    /// Calls that are not at their home.
    pub affinity: Dictionary<AffinityKey, Affinity>,
    /// The recent table.
    pub recent: SharedMap<Line>,
    /// Turns of each service under policy `round-robin`.
    pub turns: SharedMap<Turns>,
    /// What the daemon tells beyond the tables.
    pub globals: Table<Globals>,
    interfaces: Mutex<DevMapHash<MapData>>,
    verdicts: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, BackendTraffic>,
    events: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            vips: dictionary(ebpf, "VIPS")?,
            services: table(ebpf, "SERVICES")?,
            backends: table(ebpf, "BACKENDS")?,
            sources: dictionary(ebpf, "SOURCES")?,
            sent_by: dictionary(ebpf, "SENT_BY")?,
            rings: table(ebpf, "RINGS")?,
            hints: shared(ebpf, "HINTS")?,
            affinity: dictionary(ebpf, "AFFINITY")?,
            recent: shared(ebpf, "RECENT")?,
            turns: shared(ebpf, "TURNS")?,
            globals: table(ebpf, "GLOBALS")?,
            interfaces: Mutex::new(convert(ebpf, "INTERFACES", DevMapHash::try_from)?),
            verdicts: convert(ebpf, "VERDICTS", PerCpuArray::try_from)?,
            traffic: convert(ebpf, "TRAFFIC", PerCpuArray::try_from)?,
            events: convert(ebpf, "EVENTS", PerCpuArray::try_from)?,
        })
    }

    /// Lets packets be redirected to an interface.
    pub fn allow_interface(&self, index: u32) -> Result<()> {
        let mut map = self
            .interfaces
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map.insert(index, index, None, 0)
            .map_err(|error| match error {
                XdpMapError::MapError(source) => operation("INTERFACES")(source),
                other @ XdpMapError::ChainedProgramNotSupported => {
                    operation("INTERFACES")(MapError::IoError(std::io::Error::other(other)))
                }
            })
    }

    /// Packets by verdict number, summed over CPUs.
    pub fn verdicts(&self) -> Result<Vec<u64>> {
        (0..VERDICT_LIMIT)
            .map(|n| {
                self.verdicts
                    .get(&n, 0)
                    .map(|cpus| cpus.iter().sum())
                    .map_err(operation("VERDICTS"))
            })
            .collect()
    }

    /// How often something happened in the XDP program, summed over CPUs.
    pub fn event(&self, event: Event) -> Result<u64> {
        self.events
            .get(&event.0, 0)
            .map(|cpus| cpus.iter().sum())
            .map_err(operation("EVENTS"))
    }

    /// Messages of one backend, summed over CPUs.
    pub fn traffic(&self, backend: u32) -> Result<BackendTraffic> {
        let cpus = self
            .traffic
            .get(&backend, 0)
            .map_err(operation("TRAFFIC"))?;
        Ok(cpus
            .iter()
            .fold(BackendTraffic::default(), |sum, cpu| BackendTraffic {
                to: sum.to + cpu.to,
                from: sum.from + cpu.from,
            }))
    }

    /// Who the entries of the affinity map belong to ([`Census::of`]). Read by a handle of its own: it
    /// takes long, and the workers must not wait.
    #[must_use]
    pub fn affinity_census(&self, settle: &[u32]) -> Census {
        let info = self.affinity.lock().map().info();
        let handle = info
            .and_then(|info| MapData::from_id(info.id()))
            .map(Map::LruHashMap);
        let map: Result<HashMap<MapData, AffinityKey, Affinity>, MapError> =
            handle.and_then(HashMap::try_from);
        // A walk over a map that evicts may begin anew, and must not go on for ever.
        let most = self.affinity_capacity() as usize;
        map.map_or_else(
            |_| Census::default(),
            |map| {
                let entries = map.iter().flatten().map(|(_, entry)| entry).take(most);
                Census::of(entries, seconds(), settle)
            },
        )
    }

    /// Returns the kernel's number of the affinity map.
    #[must_use]
    pub fn affinity_id(&self) -> Option<u32> {
        self.affinity.lock().map().info().ok().map(|info| info.id())
    }

    /// Entries the affinity map may hold.
    pub fn affinity_capacity(&self) -> u32 {
        self.affinity
            .lock()
            .map()
            .info()
            .map_or(0, |info| info.max_entries())
    }
}

fn convert<M, E: Into<MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
    into: impl Fn(Map) -> std::result::Result<M, E>,
) -> Result<M> {
    let map = ebpf.take_map(name).ok_or(MapsError::Missing(name))?;
    into(map).map_err(|source| operation(name)(source.into()))
}

fn table<V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Table<V>> {
    Ok(Table {
        name,
        map: Mutex::new(convert(ebpf, name, Array::try_from)?),
    })
}

fn dictionary<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Dictionary<K, V>> {
    Ok(Dictionary {
        name,
        map: Mutex::new(convert(ebpf, name, HashMap::try_from)?),
    })
}

fn shared<T: Shared>(ebpf: &mut Ebpf, name: &'static str) -> Result<SharedMap<T>> {
    let map = ebpf.take_map(name).ok_or(MapsError::Missing(name))?;
    let Map::Array(data) = map else {
        return Err(MapsError::Missing(name));
    };
    SharedMap::new(data).map_err(|source| MapsError::Sharing { name, source })
}
