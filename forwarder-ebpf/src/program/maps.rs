//! The maps. Sizes given here are the smallest; the daemon sets them when it loads the program.
//!
//! What the program and the daemon's workers both write is mapped into the daemon's memory
//! ([`BPF_F_MMAPABLE`]), and either side writes it by atomic operations or single stores: a map
//! syscall would replace a whole element, and with it what the program wrote meanwhile.

use crate::route::{Known, WAYS_KEPT};
use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, ProgramArray},
};
use sip_forwarder_ebpf::abi::{
    Affinity, AffinityKey, Backend, BackendId, BackendRef, BackendTraffic, Endpoint, Event,
    FragmentKey, Globals, HintLine, RecentLine, RingLine, SentByKey, Service, TurnLine,
};
use sip_forwarder_ebpf::{
    packet::Flow,
    scan::{Lines, Scan},
    stage::Stage,
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

/// Hints: for each service a byte per slot. The workers write it, too.
#[map]
pub(crate) static HINTS: Array<HintLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Calls that are not at their home.
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(64, 0);

/// The recent table. The workers write it, too.
#[map]
pub(crate) static RECENT: Array<RecentLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);

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

/// Memory of one packet on one CPU, handed from stage to stage. As map memory it is also blurred for
/// free: the verifier does not follow what is written there.
#[repr(C)]
pub(crate) struct Scratch {
    /// Not zero while a packet is on this CPU.
    pub(crate) busy: u32,
    /// Number of the service.
    pub(crate) service: u32,
    /// The backend that sent the packet, or none.
    pub(crate) from: BackendId,
    /// The backend that the packet goes to.
    pub(crate) to: BackendId,
    /// Number of the verdict that the packet gets if the next stage succeeds, or why it was not read.
    pub(crate) verdict: u32,
    pub(crate) flow: Flow,
    pub(crate) lines: Lines,
    pub(crate) scan: Scan,
}

/// The stages behind the entry program ([`Stage`]). Each daemon makes an array of its own, so that a
/// takeover never mixes stages of two builds.
#[map]
pub(crate) static STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::COUNT, 0);

/// Packets by verdict.
#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_LIMIT, 0);

/// What happened, by kind.
#[map]
pub(crate) static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Event::KINDS, 0);

/// Turns of each service under policy `round-robin`. The workers take turns, too.
#[map]
pub(crate) static TURNS: Array<TurnLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Messages by backend.
#[map]
pub(crate) static TRAFFIC: PerCpuArray<BackendTraffic> = PerCpuArray::with_max_entries(1, 0);
