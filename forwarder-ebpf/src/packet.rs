//! Frame → flow: Ethernet, up to two VLAN tags, IPv4 or IPv6, UDP. Parsed once; everything later
//! uses the offsets found here.

use crate::abi::{Address, Be16, Endpoint, VlanTags};
use crate::source::Source;
use crate::verdict::Verdict;

const ETHERNET_LENGTH: usize = 14;
const VLAN_LENGTH: usize = 4;
const IPV4_LENGTH: usize = 20;
const IPV6_LENGTH: usize = 40;
const FRAGMENT_LENGTH: usize = 8;
/// Length of a UDP header.
pub const UDP_LENGTH: usize = 8;

// As loaded little-endian from the wire.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.swap_bytes();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.swap_bytes();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.swap_bytes();
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8_u16.swap_bytes();

const PROTOCOL_UDP: u8 = 17;
/// IPv6 next headers that are extension headers (RFC 8200 section 4, RFC 4302, RFC 4303).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Which IP version a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Not fragmented.
    Whole,
    /// The first fragment; it holds the UDP header.
    First,
    /// A later fragment: there are no ports.
    Later,
    /// Behind an IPv6 extension header that is not followed: ports are unknown.
    Hidden,
}

/// What kind of packet it is, as one number that can be blurred ([`Source::blur`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind(usize);

impl Kind {
    const V6: usize = 1;
    const FIRST: usize = 2;
    const LATER: usize = 4;
    const HIDDEN: usize = 8;
    const OPTIONS: usize = 16;
    const ENDS_FRAME: usize = 32;

    #[inline(always)]
    const fn has(self, flags: usize) -> bool {
        self.0 & flags != 0
    }
}

/// What is known of a packet's addresses and where its parts lie. Offsets are from the start of the
/// frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    kind: Kind,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the UDP header; of the fragment's data, or of what is not followed, where there are no ports.
    pub udp: usize,
    /// Length of the IP packet in bytes, header included.
    pub ip_length: u16,
    /// Where it comes from; the port is 0 if `part` is [`Part::Later`] or [`Part::Hidden`].
    pub source: Endpoint,
    /// Where it goes; the port is 0 if `part` is [`Part::Later`] or [`Part::Hidden`].
    pub destination: Endpoint,
    /// TTL or hop limit.
    pub time_to_live: u8,
    /// IPv4's type of service, or IPv6's traffic class.
    pub traffic_class: u8,
    /// Identification shared by the fragments, as it stands in the packet; 0 if whole.
    pub fragment_id: u32,
    /// Its VLAN tags.
    pub tags: VlanTags,
}

impl Flow {
    /// IP version.
    #[must_use]
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.kind.has(Kind::V6) {
            Family::V6
        } else {
            Family::V4
        }
    }

    /// Whole, or which fragment.
    #[must_use]
    #[inline(always)]
    pub const fn part(&self) -> Part {
        if self.kind.has(Kind::FIRST) {
            Part::First
        } else if self.kind.has(Kind::LATER) {
            Part::Later
        } else if self.kind.has(Kind::HIDDEN) {
            Part::Hidden
        } else {
            Part::Whole
        }
    }

    /// Does it show no ports?
    #[must_use]
    #[inline(always)]
    pub const fn without_ports(&self) -> bool {
        self.kind.has(Kind::LATER | Kind::HIDDEN)
    }

    /// Does it carry IPv4 options that must not be skipped over, or a needless fragment header?
    #[must_use]
    #[inline(always)]
    pub const fn options(&self) -> bool {
        self.kind.has(Kind::OPTIONS)
    }

    /// Does the frame end with the datagram?
    #[must_use]
    #[inline(always)]
    pub const fn ends_frame(&self) -> bool {
        self.kind.has(Kind::ENDS_FRAME)
    }

    /// Offset of the UDP payload.
    #[must_use]
    #[inline(always)]
    pub const fn payload(&self) -> usize {
        self.udp + UDP_LENGTH
    }
}

/// Reads a frame. An error is a packet that is no UDP datagram or no whole one.
#[inline(always)]
pub fn parse<S: Source + ?Sized>(frame: &S) -> Result<Flow, Verdict> {
    let mut ethertype = frame.u16_at(12).ok_or(Verdict::IgnoredMalformed)?;
    let mut ip = ETHERNET_LENGTH;
    let mut tags = VlanTags::default();
    for _ in 0..2 {
        if is_vlan(ethertype) {
            let tag = frame.u16_at(ip).ok_or(Verdict::IgnoredMalformed)?;
            ethertype = frame.u16_at(ip + 2).ok_or(Verdict::IgnoredMalformed)?;
            tags = tags.with_inner(tag.swap_bytes());
            ip += VLAN_LENGTH;
        }
    }
    let tags = VlanTags(frame.blur(tags.0 as usize) as u32);
    let ip = frame.blur(ip);
    let network = match ethertype {
        ETHERTYPE_IPV4 => parse_v4(frame, ip)?,
        ETHERTYPE_IPV6 => parse_v6(frame, ip)?,
        _ => return Err(Verdict::IgnoredNotIp),
    };
    parse_udp(frame, &network.blurred(frame), tags)
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

#[inline(always)]
fn parse_v4<S: Source + ?Sized>(frame: &S, ip: usize) -> Result<Network, Verdict> {
    let [first, fragment, third, source, destination] =
        v4_words(frame, ip).ok_or(Verdict::IgnoredMalformed)?;
    let third = third as u16;
    if (third >> 8) as u8 != PROTOCOL_UDP {
        return Err(Verdict::IgnoredNotUdp);
    }
    let version = first as u8;
    if version >> 4 != 4 || version & 15 < 5 {
        return Err(Verdict::IgnoredMalformed);
    }
    let header = usize::from(version & 15) * 4;
    let options = if header > IPV4_LENGTH && !harmless_options(frame, ip, header) {
        Kind::OPTIONS
    } else {
        0
    };
    let options = frame.blur(options);
    let offset_and_flags = ((fragment >> 16) as u16).swap_bytes();
    let part = match (offset_and_flags & 0x1fff, offset_and_flags & 0x2000 != 0) {
        (0, false) => 0,
        (0, true) => Kind::FIRST,
        _ => Kind::LATER,
    };
    Ok(Network {
        kind: Kind(part | options),
        ip,
        udp: ip + header,
        ip_length: ((first >> 16) as u16).swap_bytes(),
        header,
        source: Address::from_wire_v4(u32::to_le(source)),
        destination: Address::from_wire_v4(u32::to_le(destination)),
        time_to_live: third as u8,
        traffic_class: (first >> 8) as u8,
        fragment_id: fragment & 0xffff,
    })
}

/// Returns the five words of an IPv4 header's fixed part, as loaded. All of them are in a block of 32
/// bytes, which is one comparison with the packet's end; only the shortest packets have no such block.
#[inline(always)]
fn v4_words<S: Source + ?Sized>(frame: &S, ip: usize) -> Option<[u32; 5]> {
    if let Some([a, b, c, _]) = frame.block_at(ip) {
        return Some([
            a as u32,
            (a >> 32) as u32,
            b as u32,
            (b >> 32) as u32,
            c as u32,
        ]);
    }
    let word = |at| frame.u32_at(ip + at);
    Some([word(0)?, word(4)?, word(8)?, word(12)?, word(16)?])
}

/// Are all IPv4 options padding (RFC 791) or router alert (RFC 2113), each in a word of its own?
#[inline(always)]
fn harmless_options<S: Source + ?Sized>(frame: &S, ip: usize, header: usize) -> bool {
    const NO_OPERATION: u32 = 0x0101_0101;
    const END: u32 = 0;
    const ROUTER_ALERT: u32 = u32::from_le_bytes([0x94, 4, 0, 0]);
    let mut at = IPV4_LENGTH;
    while at < 60 {
        if at >= header {
            return true;
        }
        match frame.u32_at(ip + at) {
            Some(NO_OPERATION | END | ROUTER_ALERT) => at += 4,
            _ => return false,
        }
    }
    true
}

#[inline(always)]
fn parse_v6<S: Source + ?Sized>(frame: &S, ip: usize) -> Result<Network, Verdict> {
    // Two comparisons with the packet's end for all forty bytes.
    let last = frame.u64_at(ip + 32).ok_or(Verdict::IgnoredMalformed)?;
    let [head, upper, lower, middle] = frame.block_at(ip).ok_or(Verdict::IgnoredMalformed)?;
    let first = (head as u16).swap_bytes();
    let payload = ((head >> 32) as u16).swap_bytes();
    let next = (head >> 48) as u16;
    let source = v6_address(upper, lower);
    let destination = v6_address(middle, last);
    if first >> 12 != 6 {
        return Err(Verdict::IgnoredMalformed);
    }
    let (kind, header, fragment_id) = match next as u8 {
        PROTOCOL_UDP => (0, IPV6_LENGTH, 0),
        FRAGMENT => parse_fragment_header(frame, ip + IPV6_LENGTH)?,
        HOP_BY_HOP | ROUTING | ESP | AUTHENTICATION | DESTINATION_OPTIONS => {
            (Kind::HIDDEN, IPV6_LENGTH, 0)
        }
        _ => return Err(Verdict::IgnoredNotUdp),
    };
    let header = frame.blur(header);
    Ok(Network {
        kind: Kind(Kind::V6 | kind),
        ip,
        udp: ip + header,
        // A jumbogram's length is 0 and contradicts its UDP header, as it should.
        ip_length: payload.saturating_add(IPV6_LENGTH as u16),
        header,
        source: Address::from_wire_v6(source),
        destination: Address::from_wire_v6(destination),
        time_to_live: (next >> 8) as u8,
        traffic_class: (first >> 4) as u8,
        fragment_id,
    })
}

/// Returns the words of an IPv6 address for native stores, from its two halves as loaded.
#[inline(always)]
const fn v6_address(upper: u64, lower: u64) -> [u32; 4] {
    [
        (upper as u32).to_le(),
        ((upper >> 32) as u32).to_le(),
        (lower as u32).to_le(),
        ((lower >> 32) as u32).to_le(),
    ]
}

/// Reads an IPv6 fragment header: what kind of packet it makes, the length of all headers, and the
/// identification.
#[inline(always)]
fn parse_fragment_header<S: Source + ?Sized>(
    frame: &S,
    at: usize,
) -> Result<(usize, usize, u32), Verdict> {
    let start = frame.u32_at(at).ok_or(Verdict::IgnoredMalformed)?;
    let id = u32::to_le(frame.u32_at(at + 4).ok_or(Verdict::IgnoredMalformed)?);
    if start as u8 != PROTOCOL_UDP {
        return Err(Verdict::IgnoredNotUdp);
    }
    let offset_and_more = ((start >> 16) as u16).swap_bytes();
    let kind = match (offset_and_more & 0xfff8, offset_and_more & 1 != 0) {
        (0, true) => Kind::FIRST,
        // An "atomic" fragment (RFC 6946) is whole, but has a header of its own.
        (0, false) => Kind::FIRST | Kind::OPTIONS,
        _ => Kind::LATER,
    };
    Ok((kind, IPV6_LENGTH + FRAGMENT_LENGTH, id))
}

/// What the IP header told.
struct Network {
    kind: Kind,
    ip: usize,
    udp: usize,
    ip_length: u16,
    header: usize,
    source: Address,
    destination: Address,
    time_to_live: u8,
    traffic_class: u8,
    fragment_id: u32,
}

impl Network {
    #[inline(always)]
    fn blurred<S: Source + ?Sized>(self, source: &S) -> Self {
        Self {
            kind: Kind(source.blur(self.kind.0)),
            ip: source.blur(self.ip),
            udp: source.blur(self.udp),
            ip_length: source.blur(usize::from(self.ip_length)) as u16,
            header: source.blur(self.header),
            source: self.source.blurred(source),
            destination: self.destination.blurred(source),
            time_to_live: source.blur(usize::from(self.time_to_live)) as u8,
            traffic_class: source.blur(usize::from(self.traffic_class)) as u8,
            fragment_id: source.blur(self.fragment_id as usize) as u32,
        }
    }
}

#[inline(always)]
fn parse_udp<S: Source + ?Sized>(
    frame: &S,
    network: &Network,
    tags: VlanTags,
) -> Result<Flow, Verdict> {
    let end = network.ip.wrapping_add(usize::from(network.ip_length));
    // A frame of several buffers is longer than what can be read of it.
    if end > frame.len() && end > frame.whole_length() {
        return Err(Verdict::IgnoredMalformed);
    }
    let ports = if network.kind.has(Kind::LATER | Kind::HIDDEN) {
        0
    } else {
        let header = frame.u64_at(network.udp).ok_or(Verdict::IgnoredMalformed)?;
        check_length(((header >> 32) as u16).swap_bytes(), network)?;
        header as u32
    };
    let ports = frame.blur(ports as usize);
    let ends_frame = if end == frame.len() {
        Kind::ENDS_FRAME
    } else {
        0
    };
    Ok(Flow {
        kind: Kind(frame.blur(network.kind.0 | ends_frame)),
        ip: network.ip,
        udp: network.udp,
        ip_length: network.ip_length,
        source: Endpoint::new(network.source, Be16::from_wire(u16::to_le(ports as u16))),
        destination: Endpoint::new(
            network.destination,
            Be16::from_wire(u16::to_le((ports >> 16) as u16)),
        ),
        time_to_live: network.time_to_live,
        traffic_class: network.traffic_class,
        tags,
        fragment_id: if network.kind.has(Kind::FIRST | Kind::LATER) {
            network.fragment_id
        } else {
            0
        },
    })
}

/// Do the lengths that IP and UDP tell agree? A first fragment tells the length of the whole datagram.
#[inline(always)]
fn check_length(length: u16, network: &Network) -> Result<(), Verdict> {
    let data = usize::from(network.ip_length).wrapping_sub(network.header);
    if (data as isize) < UDP_LENGTH as isize
        || (!network.kind.has(Kind::FIRST) && usize::from(length) != data)
    {
        return Err(Verdict::IgnoredMalformed);
    }
    Ok(())
}
