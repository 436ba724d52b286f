//! Keys and values of the BPF maps: the contract between the XDP program and the daemon.
//!
//! Every type is `repr(C)`, has no padding and takes any bit pattern. Sizes are asserted at compile
//! time; [`ABI_VERSION`] is kept beside pinned maps and checked before they are adopted.

use crate::source::Source;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version of the map layout. Raise it whenever a type here or a map's shape changes.
pub const ABI_VERSION: u32 = 4;

/// Slots of a ring: prime, and more than 100 times the largest sensible number of backends
/// (Maglev, NSDI 2016, section 3.4).
pub const RING_SLOTS: u32 = 65_537;

/// Slots held by one map element. An element is one cache line, so that a ring costs 4 bytes a slot
/// and not the 8 the kernel rounds an array element up to.
pub const SLOTS_PER_LINE: u32 = 16;

/// Map elements of one ring.
pub const LINES_PER_RING: u32 = RING_SLOTS.div_ceil(SLOTS_PER_LINE);

/// Hint bytes held by one map element.
pub const HINTS_PER_LINE: u32 = 64;

/// Map elements that hold the hints of one service.
pub const HINT_LINES_PER_SERVICE: u32 = RING_SLOTS.div_ceil(HINTS_PER_LINE);

/// Seconds for which an out-of-dialog request is remembered: 64·T1 of RFC 3261 section 17.
pub const RECENT_SECONDS: u16 = 32;

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Be16(u16);

impl Be16 {
    /// From the bytes as they stood in a packet, loaded natively.
    #[must_use]
    pub const fn from_wire(raw: u16) -> Self {
        Self(raw)
    }

    /// From a number in host order.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// The number in host order.
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bytes as they go into a packet, for a native store.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0
    }
}

/// An IPv4 or IPv6 address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291 section
/// 2.5.5.2), so that one map serves both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address([u32; 4]);

const V4_MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// From the four bytes of an IPv4 address, loaded natively.
    #[must_use]
    #[inline(always)]
    pub const fn from_wire_v4(raw: u32) -> Self {
        Self([0, 0, V4_MAPPED, raw])
    }

    /// From the sixteen bytes of an IPv6 address, loaded natively word by word.
    #[must_use]
    #[inline(always)]
    pub const fn from_wire_v6(raw: [u32; 4]) -> Self {
        Self(raw)
    }

    /// Is this an IPv4 address?
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MAPPED
    }

    /// The IPv4 address' bytes for a native store; meaningless if this is IPv6.
    #[must_use]
    #[inline(always)]
    pub const fn wire_v4(&self) -> u32 {
        self.0[3]
    }

    /// The same address, blurred ([`Source::blur`]).
    #[must_use]
    #[inline(always)]
    pub fn blurred<S: Source + ?Sized>(self, source: &S) -> Self {
        let [a, b, c, d] = self.0;
        let blur = |word: u32| source.blur(word as usize) as u32;
        Self([blur(a), blur(b), blur(c), blur(d)])
    }

    /// The address' bytes for native stores.
    #[must_use]
    #[inline(always)]
    pub const fn wire_v6(&self) -> [u32; 4] {
        self.0
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let v6 = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let o = v6.octets();
        let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (to, word) in octets.chunks_exact_mut(4).zip(address.0) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        if address.is_v4() {
            Self::V4(Ipv4Addr::new(
                octets[12], octets[13], octets[14], octets[15],
            ))
        } else {
            Self::V6(Ipv6Addr::from(octets))
        }
    }
}

/// An address and a UDP port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The UDP port.
    pub port: Be16,
    zero: u16,
}

impl Endpoint {
    /// An endpoint of an address and a port.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: Address, port: Be16) -> Self {
        Self {
            address,
            port,
            zero: 0,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(socket: SocketAddr) -> Self {
        Self::new(socket.ip().into(), Be16::new(socket.port()))
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address.into(), endpoint.port.get())
    }
}

/// Number of a service: its index in the services map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u16);

/// Number of a backend: its index in the backends map. A number is given to another backend only
/// with a new incarnation, so what was remembered under the old one is not mistaken for it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u16);

impl BackendId {
    /// No backend. A number and not an `Option`, whose payload would be an uninitialised register
    /// to the verifier where there is none.
    pub const NONE: Self = Self(u16::MAX);

    /// Is this a backend?
    #[must_use]
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }

    /// This backend, or else `other`.
    #[must_use]
    #[inline(always)]
    pub const fn or(self, other: Self) -> Self {
        if self.is_some() { self } else { other }
    }
}

/// One slot of a ring: where its calls belong and where a new one goes (DESIGN's *home* and
/// *admit*).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    home: u16,
    admit: u16,
}

impl Slot {
    const SETTLING: u16 = 0x8000;
    const NUMBER: u16 = 0x7fff;

    /// A slot of no backend.
    pub const EMPTY: Self = Self {
        home: Self::NUMBER,
        admit: Self::NUMBER,
    };

    /// A slot with its two columns; `settling` while home is not what the configuration says.
    #[must_use]
    pub const fn new(home: BackendId, admit: BackendId, settling: bool) -> Self {
        let flag = if settling { Self::SETTLING } else { 0 };
        Self {
            home: (home.0 & Self::NUMBER) | flag,
            admit: admit.0 & Self::NUMBER,
        }
    }

    /// The backend that calls of this slot belong to.
    #[must_use]
    #[inline(always)]
    pub const fn home(self) -> BackendId {
        BackendId(self.home & Self::NUMBER)
    }

    /// The backend a new call of this slot is given.
    #[must_use]
    #[inline(always)]
    pub const fn admit(self) -> BackendId {
        BackendId(self.admit & Self::NUMBER)
    }

    /// Is home waiting to follow the configuration?
    #[must_use]
    #[inline(always)]
    pub const fn settling(self) -> bool {
        self.home & Self::SETTLING != 0
    }
}

/// One element of the ring map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLine(pub [Slot; SLOTS_PER_LINE as usize]);

/// One element of the hint map: a byte per slot, not zero if the affinity map may know a call of
/// this slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintLine(pub [u8; HINTS_PER_LINE as usize]);

/// Which header a new call is spread by. An open set: a number read from a map may be any.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(pub u8);

impl Key {
    /// The Call-ID, whole. Zero: the program masks other keys away where none counts.
    pub const CALL_ID: Self = Self(0);
    /// The address of record in To.
    pub const TO: Self = Self(1);
    /// The address of record in From.
    pub const FROM: Self = Self(2);
    /// The Request-URI's address.
    pub const REQUEST_URI: Self = Self(3);
}

/// How the slot is chosen whose `admit` a new call gets. An open set, as [`Key`] is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(pub u8);

impl Policy {
    /// By the hash of the key.
    pub const HASH: Self = Self(0);
    /// One slot after the other: `admit` then holds the backends in the order of their turns.
    pub const ROUND_ROBIN: Self = Self(1);
}

/// What is counted besides verdicts, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub u32);

impl Event {
    /// A call was entered into the affinity map that was not there.
    pub const AFFINITY_ADDED: Self = Self(0);
    /// An entry of the recent table that still counted was replaced by another request's.
    pub const RECENT_EVICTED: Self = Self(1);
    /// How many kinds there are.
    pub const KINDS: u32 = 2;
}

/// A service as the data plane sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// First ring line of the live generation. The only field that changes while traffic flows:
    /// writing it is the atomic swap of generations.
    pub ring: u32,
    /// First hint line; generations share the hints.
    pub hints: u32,
    /// The VIP and its port.
    pub vip: Endpoint,
    /// What new calls are spread by.
    pub key: Key,
    /// What REGISTER requests are spread by.
    pub register_key: Key,
    /// This service's own number.
    pub id: ServiceId,
    /// How new calls are given out.
    pub policy: Policy,
    /// What rounds the size up; always zero.
    pub zero: [u8; 3],
}

/// May this backend be given messages?
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendFlags(pub u8);

impl BackendFlags {
    /// The backend lives: messages may be sent to it.
    pub const ALIVE: u8 = 1;
    /// Its next hop is known: the fast path can reach it.
    pub const RESOLVED: u8 = 2;

    /// Are all of `flags` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, flags: u8) -> bool {
        self.0 & flags == flags
    }
}

/// The two MAC addresses that begin a frame, destination first, as three words for native stores.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs(pub [u32; 3]);

impl Macs {
    /// Of a destination and a source.
    #[must_use]
    pub fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let d = destination;
        let s = source;
        Self([
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ])
    }

    /// With destination and source exchanged (little-endian hosts, as BPF's is).
    #[must_use]
    #[inline(always)]
    pub const fn swapped(self) -> Self {
        let [a, b, c] = self.0;
        Self([b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16])
    }
}

/// The VLAN tags of a frame: the outer id in the upper half, the inner in the lower; a lone tag in the
/// lower; 0 for none (id 0 is no VLAN, IEEE 802.1Q table 9-2).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTags(pub u32);

impl VlanTags {
    const ID: u16 = 0x0fff;

    /// These tags with one more inside, from the number that holds its id.
    #[must_use]
    #[inline(always)]
    pub const fn with_inner(self, tag: u16) -> Self {
        Self((self.0 << 16) | (tag & Self::ID) as u32)
    }

    /// No tags?
    #[must_use]
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A backend as the data plane sees it.
///
/// The kernel copies a map value by aligned 8-byte words while packets read it; the next hop's MAC
/// address lies within one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// MAC addresses of frames to it: the next hop's, and our interface's.
    pub macs: Macs,
    /// Largest IP packet the way to it carries, in bytes.
    pub mtu: u16,
    /// State of the backend.
    pub flags: BackendFlags,
    zero: u8,
    /// The interface towards it; 0 is none.
    pub interface: u32,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Which backend of this number it is.
    pub incarnation: u16,
    /// The service it belongs to.
    pub service: ServiceId,
    /// VLAN tags of frames to it.
    pub tags: VlanTags,
}

impl Backend {
    /// A backend whose next hop is not known yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, service: ServiceId, incarnation: u16) -> Self {
        Self {
            endpoint,
            incarnation,
            service,
            ..Self::default()
        }
    }
}

/// A backend and the service it belongs to: what its address and port stand for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRef {
    /// The service.
    pub service: ServiceId,
    /// The backend, or [`BackendId::NONE`] for the service's own VIP.
    pub backend: BackendId,
}

/// Key of the affinity map: [`crate::hash::Digest::affinity_key`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey(pub u64);

/// An affinity entry: one call that is not at its home.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Where the call is.
    pub backend: BackendId,
    /// Which backend of that number it is.
    pub incarnation: u16,
    /// Second of the monotonic clock at which the entry was written.
    pub second: u32,
}

/// One entry of the recent table: an out-of-dialog request that was seen. It is written and read as
/// one word, so that no reader sees half of it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent(pub u64);

impl Recent {
    /// Returns the entry of a request with this fingerprint, first seen at `second` (of the
    /// monotonic clock, modulo 65,536) and sent to `backend`.
    #[must_use]
    #[inline(always)]
    pub const fn new(fingerprint: u32, second: u16, backend: BackendId) -> Self {
        Self((fingerprint as u64) << 32 | (second as u64) << 16 | backend.0 as u64)
    }

    /// Returns the backend that the request was sent to.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId(self.0 as u16)
    }

    /// Tells whether this is about a request with this fingerprint.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(self, fingerprint: u32) -> bool {
        (self.0 >> 32) as u32 == fingerprint
    }

    /// Seconds by which an entry may be ahead of a reader's clock: another CPU may write one between a
    /// reader's look at the clock and its look at the table.
    const AHEAD: u16 = 2;

    /// Returns for how many more seconds the entry counts, plus one; 0 if it does not count, because
    /// there is none or it is older than [`RECENT_SECONDS`].
    #[must_use]
    #[inline(always)]
    pub const fn left(self, now: u16) -> u16 {
        const SPAN: u16 = RECENT_SECONDS + Recent::AHEAD;
        let age = now
            .wrapping_sub((self.0 >> 16) as u16)
            .wrapping_add(Self::AHEAD);
        if self.0 != 0 && age <= SPAN {
            SPAN + 1 - age
        } else {
            0
        }
    }
}

/// Entries in one line of the recent table.
pub const RECENT_WAYS: usize = 7;

/// One element of the recent table, a cache line: [`RECENT_WAYS`] entries, and the lock of whoever
/// adds one. The XDP program and the workers change it with atomic operations alone, never through a
/// map syscall; see [`crate::recent`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentLine {
    /// 0, or the second at which the lock was taken, plus one.
    pub lock: u64,
    /// The entries, in no order.
    pub entries: [Recent; RECENT_WAYS],
}

/// The number of the next turn of a service under policy `round-robin`, on a cache line of its own.
/// The XDP program and the workers take turns by an atomic addition.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnLine {
    /// Turns taken since the map was made; the remainder by [`RING_SLOTS`] is a slot.
    pub turns: u64,
    /// What fills the line; always zero.
    pub zero: [u64; 7],
}

/// Key of the sent-by map: a host as it is written in Via and Route, and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SentByKey {
    /// Keyed hash of the host's text in lower case, brackets included for IPv6.
    pub host: u64,
    /// The port in host order; 5060 where none is written (RFC 3261 section 19.1.2).
    pub port: u64,
}

impl SentByKey {
    /// The key of a host and a port in host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(host: u64, port: u16) -> Self {
        Self {
            host,
            port: port as u64,
        }
    }
}

/// Key of the map that follows fragments of a backend's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// The backend's address.
    pub source: Address,
    /// Where the packet goes.
    pub destination: Address,
    /// The identification that fragments of one packet share, as it stands in the packet.
    pub id: u32,
}

/// A set of addresses that may hold some more (Bloom 1970, with one hash): who is not in it need not be
/// looked for in a map, and that is most of the addresses in packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFilter([u64; Self::WORDS]);

impl AddressFilter {
    const WORDS: usize = 16;

    /// No address.
    pub const EMPTY: Self = Self([0; Self::WORDS]);

    /// May this address be in the set?
    #[must_use]
    #[inline(always)]
    pub const fn may_hold(&self, address: &Address) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }

    /// With an address.
    #[must_use]
    pub const fn with(mut self, address: &Address) -> Self {
        let (word, bit) = Self::place(address);
        self.0[word] |= bit;
        self
    }

    /// With all addresses of another set.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    /// A word and a bit in it. No secret: whoever hits an address' bit is looked for in the map.
    #[inline(always)]
    const fn place(address: &Address) -> (usize, u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [a, b, c, d] = address.0;
        let (upper, lower) = (a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32);
        let mixed = (upper.rotate_left(23) ^ lower).wrapping_mul(ODD);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(ODD);
        // The upper four bits are below the number of words.
        ((mixed >> 60) as usize, 1 << (mixed >> 54 & 63))
    }
}

/// What the daemon tells the program beyond the tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// Key of the hash, shared by all forwarders of a cluster.
    pub hash_key: [u64; 2],
    /// Always zero, which the verifier cannot know; see [`Source::blur`].
    pub zero: u64,
    /// Lines of the recent table less one; their number is a power of two.
    pub recent_mask: u32,
    /// Generation of the ways to clients: another number whenever routes, neighbours or links
    /// changed, and what the kernel said before counts no more.
    pub ways: u32,
    /// Addresses of VIPs.
    pub vips: AddressFilter,
    /// Addresses of backends.
    pub sources: AddressFilter,
}

/// Traffic of one backend, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendTraffic {
    /// Messages given to it.
    pub to: u64,
    /// Messages it sent that went back to clients.
    pub from: u64,
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Service>() == 36);
    assert!(size_of::<Backend>() == 48);
    assert!(size_of::<RingLine>() == 64 && size_of::<HintLine>() == 64);
    assert!(size_of::<AffinityKey>() + size_of::<Affinity>() == 16);
    assert!(size_of::<SentByKey>() == 16);
    assert!(size_of::<FragmentKey>() == 36);
    assert!(size_of::<Globals>() == 288);
    assert!(size_of::<RecentLine>() == 64 && size_of::<TurnLine>() == 64);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        Affinity, AffinityKey, Backend, BackendRef, BackendTraffic, Endpoint, FragmentKey, Globals,
        HintLine, RecentLine, RingLine, SentByKey, Service, TurnLine,
    };

    // SAFETY: every type is `repr(C)` or transparent over integers, `Copy`, without padding (the
    // asserts above and the explicit `zero` fields) and valid for any bit pattern.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BackendRef {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BackendTraffic {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RingLine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HintLine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Affinity {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RecentLine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TurnLine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SentByKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FragmentKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Globals {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.7", "2001:db8::1", "::", "255.255.255.255"] {
            let address: IpAddr = text.parse().unwrap();
            let abi = Address::from(address);
            assert_eq!(IpAddr::from(abi), address);
            assert_eq!(abi.is_v4(), address.is_ipv4());
        }
    }

    #[test]
    fn swapped_macs_are_the_other_way_round() {
        let (a, b) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        assert_eq!(Macs::new(a, b).swapped(), Macs::new(b, a));
    }

    #[test]
    fn a_filter_holds_what_was_put_in_and_little_else() {
        let address = |n: u32| Address::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)));
        let v6 = |n: u32| {
            Address::from(IpAddr::from(Ipv6Addr::from(
                0x2001_0db8_u128 << 96 | u128::from(n),
            )))
        };
        let held = (0..20).fold(AddressFilter::EMPTY, |f, n| {
            f.with(&address(n)).with(&v6(n))
        });
        assert!((0..20).all(|n| held.may_hold(&address(n)) && held.may_hold(&v6(n))));
        for others in [address, v6] {
            let wrong = (100..10_100).filter(|&n| held.may_hold(&others(n))).count();
            assert!(wrong < 600, "{wrong} of 10,000 for 40 of 1,024 bits");
        }
        let other = AddressFilter::EMPTY.with(&address(70));
        assert!(held.and(&other).may_hold(&address(70)) && held.and(&other).may_hold(&v6(3)));
        assert!(!AddressFilter::EMPTY.may_hold(&address(1)));
    }

    #[test]
    fn a_slot_keeps_both_columns_and_the_flag() {
        let slot = Slot::new(BackendId(7), BackendId(32_766), true);
        assert_eq!(
            (slot.home(), slot.admit(), slot.settling()),
            (BackendId(7), BackendId(32_766), true)
        );
        assert!(!Slot::new(BackendId(7), BackendId(9), false).settling());
    }
}
