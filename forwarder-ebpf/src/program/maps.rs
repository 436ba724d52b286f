//! The maps. Sizes given here are the smallest; the daemon sets them when it loads the program.

use crate::route::{Known, WAYS_KEPT};
use aya_ebpf::{
    macros::map,
    maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray},
};
use sip_forwarder_ebpf::abi::{
    Affinity, AffinityKey, Backend, BackendRef, BackendTraffic, Endpoint, Event, FragmentKey,
    Globals, HintLine, Recent, RingLine, SentByKey, Service,
};
use sip_forwarder_ebpf::{
    packet::Flow,
    scan::{Lines, Scan},
    verdict::VERDICT_LIMIT,
};

/// VIP and port → service. A VIP also stands here with port 0, for packets that show no port.
#[map]
pub(crate) static VIPS: HashMap<Endpoint, BackendRef> = HashMap::with_max_entries(64, 0);

/// Services by number.
#[map]
pub(crate) static SERVICES: Array<Service> = Array::with_max_entries(1, 0);

/// Backends by number.
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::with_max_entries(1, 0);

/// Address and port of backends → backend, for their packets on the way out. An address also
/// stands here with port 0, for later fragments.
#[map]
pub(crate) static SOURCES: HashMap<Endpoint, BackendRef> = HashMap::with_max_entries(64, 0);

/// Host and port as written in Via and Route → backend, or the VIP itself.
#[map]
pub(crate) static SENT_BY: HashMap<SentByKey, BackendRef> = HashMap::with_max_entries(64, 0);

/// Rings: for each service the lines of two generations.
#[map]
pub(crate) static RINGS: Array<RingLine> = Array::with_max_entries(1, 0);

/// Hints: for each service a byte per slot.
#[map]
pub(crate) static HINTS: Array<HintLine> = Array::with_max_entries(1, 0);

/// Calls that are not at their home.
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(64, 0);

/// Starting requests seen lately.
#[map]
pub(crate) static RECENT: Array<Recent> = Array::with_max_entries(1, 0);

/// Packets of backends whose first fragment left with a VIP as its source.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Endpoint> =
    LruHashMap::with_max_entries(64, 0);

/// Interfaces packets may be redirected to, by interface number.
#[map]
pub(crate) static INTERFACES: DevMapHash = DevMapHash::with_max_entries(64, 0);

/// What the daemon tells beyond the tables.
#[map]
pub(crate) static GLOBALS: Array<Globals> = Array::with_max_entries(1, 0);

/// Ways to clients that the kernel told lately.
#[map]
pub(crate) static WAYS: PerCpuArray<Known> = PerCpuArray::with_max_entries(WAYS_KEPT, 0);

/// What a packet needs more room for than the stack has.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Memory of one packet on one CPU. As map memory it is also blurred for free: the verifier does not
/// follow what is written there.
pub(crate) struct Scratch {
    pub(crate) flow: Flow,
    pub(crate) lines: Lines,
    pub(crate) scan: Scan,
}

/// Packets by verdict.
#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_LIMIT, 0);

/// What happened, by kind.
#[map]
pub(crate) static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Event::KINDS, 0);

/// Whose turn it is under policy `round-robin`: a number per service and CPU, so that no two CPUs
/// write the same cache line.
#[map]
pub(crate) static TURNS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Messages by backend.
#[map]
pub(crate) static TRAFFIC: PerCpuArray<BackendTraffic> = PerCpuArray::with_max_entries(1, 0);
