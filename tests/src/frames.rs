//! Ethernet frames built byte by byte, and read again with every checksum checked.
//!
//! Only what tests need: UDP over IPv4 or IPv6, up to any number of VLAN tags, IPv4 options, IPv6 extension headers,
//! fragments. The code shares nothing with the forwarder's own, so that it can be its judge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::lab::{Host, Mac};

const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
/// Hop-by-hop, routing, destination options: all have their length in 8 bytes, less one, in the second byte.
const SIZED_EXTENSIONS: [u8; 3] = [0, 43, 60];
const UDP_HEADER: usize = 8;

/// What to write into the UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// The right one.
    Right,
    /// Zero: none (legal in IPv4 only).
    Zero,
    /// A wrong one.
    Wrong,
}

/// Which part of a packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where it stands in the packet, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// The packet's identification.
    pub id: u32,
}

/// A UDP frame to be built.
#[derive(Clone, Debug)]
pub struct UdpFrame {
    source: SocketAddr,
    destination: SocketAddr,
    source_mac: Mac,
    destination_mac: Mac,
    vlans: Vec<u16>,
    hop_limit: u8,
    ipv4_options: Vec<u8>,
    ipv6_extensions: Vec<(u8, Vec<u8>)>,
    dont_fragment: bool,
    fragment: Option<Fragment>,
    checksum: UdpChecksum,
    payload: Vec<u8>,
}

impl UdpFrame {
    /// A datagram, with the MACs of the link from the lab's client to its forwarder.
    ///
    /// # Panics
    /// If one address is IPv4 and the other IPv6.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, payload: impl Into<Vec<u8>>) -> Self {
        assert_eq!(
            source.is_ipv4(),
            destination.is_ipv4(),
            "{source} and {destination} are not of one family"
        );
        Self {
            source,
            destination,
            source_mac: Host::Client.mac(),
            destination_mac: Host::Client.forwarder_mac(),
            vlans: Vec::new(),
            hop_limit: 64,
            ipv4_options: Vec::new(),
            ipv6_extensions: Vec::new(),
            dont_fragment: true,
            fragment: None,
            checksum: UdpChecksum::Right,
            payload: payload.into(),
        }
    }

    /// Other MACs.
    #[must_use]
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// One more VLAN tag, inside those there are. With two, the outer one is 802.1ad.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// Another TTL or hop limit.
    #[must_use]
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// IPv4 options, filled up with End of Options to 4 bytes.
    ///
    /// # Panics
    /// If they are longer than 40 bytes.
    #[must_use]
    pub fn ipv4_options(mut self, options: &[u8]) -> Self {
        self.ipv4_options = options.to_vec();
        self.ipv4_options
            .resize(options.len().next_multiple_of(4), 0);
        assert!(
            self.ipv4_options.len() <= 40,
            "IPv4 has room for 40 bytes of options"
        );
        self
    }

    /// One more IPv6 extension header of this number (0, 43, 60), with `data` after its two first bytes, filled up
    /// with zeroes (`Pad1`).
    #[must_use]
    pub fn ipv6_extension(mut self, number: u8, data: &[u8]) -> Self {
        self.ipv6_extensions.push((number, data.to_vec()));
        self
    }

    /// Makes it the part of a packet that begins at `fragment.offset`, of which the payload stands as it is. Only
    /// the part at offset 0 gets a UDP header.
    #[must_use]
    pub fn fragment(mut self, fragment: Fragment) -> Self {
        self.fragment = Some(fragment);
        self.dont_fragment = false;
        self
    }

    /// Another UDP checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: UdpChecksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let is_first = self.fragment.is_none_or(|fragment| fragment.offset == 0);
        let data = if is_first {
            self.datagram()
        } else {
            self.payload.clone()
        };
        self.frame(&data, self.fragment)
    }

    /// The whole datagram as fragments with up to `size` bytes (rounded down to 8) of it each.
    ///
    /// # Panics
    /// If `size` is less than 8.
    #[must_use]
    pub fn build_fragments(&self, size: usize, id: u32) -> Vec<Vec<u8>> {
        let datagram = self.datagram();
        let size = size / 8 * 8;
        let mut whole = self.clone();
        whole.dont_fragment = false;
        let starts = (0..datagram.len()).step_by(size);
        starts
            .map(|start| {
                let end = datagram.len().min(start + size);
                let fragment = Fragment {
                    offset: start as u16,
                    more: end < datagram.len(),
                    id,
                };
                whole.frame(&datagram[start..end], Some(fragment))
            })
            .collect()
    }

    fn frame(&self, data: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let mut frame = self.ethernet();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(self.ipv4(source, destination, data.len(), fragment));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(self.ipv6(source, destination, data.len(), fragment));
            }
            _ => unreachable!("`new` takes one family only"),
        }
        frame.extend_from_slice(data);
        frame
    }

    fn ethernet(&self) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for (level, id) in self.vlans.iter().enumerate() {
            let outer_of_many = self.vlans.len() > 1 && level == 0;
            frame.extend(ETHERTYPES_VLAN[usize::from(outer_of_many)].to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let ethertype = if self.source.is_ipv4() {
            ETHERTYPE_V4
        } else {
            ETHERTYPE_V6
        };
        frame.extend(ethertype.to_be_bytes());
        frame
    }

    fn ipv4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        data: usize,
        fragment: Option<Fragment>,
    ) -> Vec<u8> {
        let length = 20 + self.ipv4_options.len();
        let id = fragment.map_or(0, |fragment| fragment.id as u16);
        let mut flags = fragment.map_or(0, |fragment| {
            (fragment.offset / 8) | (u16::from(fragment.more) << 13)
        });
        flags |= u16::from(self.dont_fragment) << 14;
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + data) as u16).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([self.hop_limit, UDP, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend_from_slice(&self.ipv4_options);
        let checksum = !sum(&[&header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        data: usize,
        fragment: Option<Fragment>,
    ) -> Vec<u8> {
        let mut numbers: Vec<u8> = self
            .ipv6_extensions
            .iter()
            .map(|(number, _)| *number)
            .collect();
        numbers.extend(fragment.map(|_| FRAGMENT));
        numbers.push(UDP);
        let mut extensions = Vec::new();
        for ((_, data), next) in self.ipv6_extensions.iter().zip(&numbers[1..]) {
            let start = extensions.len();
            let length = (data.len() + 2).next_multiple_of(8);
            extensions.extend([*next, (length / 8 - 1) as u8]);
            extensions.extend_from_slice(data);
            extensions.resize(start + length, 0);
        }
        if let Some(fragment) = fragment {
            extensions.extend([UDP, 0]);
            extensions.extend((fragment.offset | u16::from(fragment.more)).to_be_bytes());
            extensions.extend(fragment.id.to_be_bytes());
        }
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((extensions.len() + data) as u16).to_be_bytes());
        header.extend([numbers[0], self.hop_limit]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(extensions);
        header
    }

    fn datagram(&self) -> Vec<u8> {
        let length = (UDP_HEADER + self.payload.len()) as u16;
        let mut datagram = Vec::with_capacity(length.into());
        datagram.extend(self.source.port().to_be_bytes());
        datagram.extend(self.destination.port().to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend_from_slice(&self.payload);
        let right = self.right_checksum(&datagram);
        let checksum = match self.checksum {
            UdpChecksum::Right => right,
            UdpChecksum::Zero => 0,
            // Never zero, and never the same in ones' complement either.
            UdpChecksum::Wrong => right ^ 0x0101,
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        datagram
    }

    fn right_checksum(&self, datagram: &[u8]) -> u16 {
        let pseudo = pseudo_header(self.source.ip(), self.destination.ip(), datagram.len(), UDP);
        // RFC 768: a sum of zero is sent as all ones.
        match !sum(&[&pseudo, datagram]) {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// Why a frame is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It ends in the middle of a header, or before a length it states.
    #[error("the frame ends before its {0} does")]
    Short(&'static str),
    /// A checksum is wrong.
    #[error("the {0} checksum is wrong")]
    Checksum(&'static str),
    /// There is no UDP checksum where IPv6 demands one.
    #[error("UDP over IPv6 without a checksum")]
    Missing,
    /// Neither IPv4 nor IPv6.
    #[error("EtherType {0:#06x} is neither IPv4 nor IPv6")]
    EtherType(u16),
}

/// What a frame says, from the outside to the innermost packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Destination MAC.
    pub destination_mac: Mac,
    /// Source MAC.
    pub source_mac: Mac,
    /// VLAN ids, outer first.
    pub vlans: Vec<u16>,
    /// The IP packet, with another inside if it is a tunnel's.
    pub packet: Packet,
}

/// What an IP packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Which part of a packet it is, if not all.
    pub fragment: Option<Fragment>,
    /// The protocol it carries.
    pub protocol: u8,
    /// What it carries.
    pub content: Content,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The checksum as it stands.
        checksum: u16,
        /// The payload.
        payload: Vec<u8>,
    },
    /// A packet in a packet.
    Tunnel(Box<Packet>),
    /// Anything else, and every fragment.
    Other(Vec<u8>),
}

impl Parsed {
    /// Source, destination and payload of the innermost datagram.
    #[must_use]
    pub fn datagram(&self) -> Option<(SocketAddr, SocketAddr, &[u8])> {
        let mut packet = &self.packet;
        while let Content::Tunnel(inner) = &packet.content {
            packet = inner;
        }
        let Content::Udp {
            source,
            destination,
            payload,
            ..
        } = &packet.content
        else {
            return None;
        };
        Some((
            SocketAddr::new(packet.source, *source),
            SocketAddr::new(packet.destination, *destination),
            payload,
        ))
    }
}

/// Reads a frame and checks every checksum in it: IPv4 header, UDP, TCP, ICMP, also of packets inside packets. What
/// only a whole packet can tell is not checked in a fragment.
pub fn parse(frame: &[u8]) -> Result<Parsed, FrameError> {
    const LAYER: &str = "Ethernet header";
    let destination_mac = array(frame, 0, LAYER)?;
    let source_mac = array(frame, 6, LAYER)?;
    let mut at = 12;
    let mut vlans = Vec::new();
    let mut ethertype = word(frame, at, LAYER)?;
    while ETHERTYPES_VLAN.contains(&ethertype) {
        vlans.push(word(frame, at + 2, LAYER)? & 0x0fff);
        at += 4;
        ethertype = word(frame, at, LAYER)?;
    }
    let rest = &frame[at + 2..];
    let packet = match ethertype {
        ETHERTYPE_V4 => parse_ipv4(rest)?,
        ETHERTYPE_V6 => parse_ipv6(rest)?,
        other => return Err(FrameError::EtherType(other)),
    };
    Ok(Parsed {
        destination_mac,
        source_mac,
        vlans,
        packet,
    })
}

/// Fails on the first checksum of a frame that is wrong.
pub fn verify_checksums(frame: &[u8]) -> Result<(), FrameError> {
    parse(frame).map(drop)
}

fn parse_ipv4(bytes: &[u8]) -> Result<Packet, FrameError> {
    const LAYER: &str = "IPv4 packet";
    let [version_and_length] = array(bytes, 0, LAYER)?;
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    let header = bytes
        .get(..header_length.max(20))
        .ok_or(FrameError::Short(LAYER))?;
    if sum(&[header]) != 0xffff {
        return Err(FrameError::Checksum("IPv4 header"));
    }
    let total = usize::from(word(bytes, 2, LAYER)?);
    let data = bytes
        .get(header_length..total)
        .ok_or(FrameError::Short(LAYER))?;
    let flags = word(bytes, 6, LAYER)?;
    let fragment = (flags & 0x3fff != 0).then(|| Fragment {
        offset: (flags & 0x1fff) * 8,
        more: flags & 0x2000 != 0,
        id: u16::from_be_bytes([bytes[4], bytes[5]]).into(),
    });
    Packet {
        source: Ipv4Addr::from(array(bytes, 12, LAYER)?).into(),
        destination: Ipv4Addr::from(array(bytes, 16, LAYER)?).into(),
        hop_limit: bytes[8],
        fragment,
        protocol: bytes[9],
        content: Content::Other(Vec::new()),
    }
    .with_content(data)
}

fn parse_ipv6(bytes: &[u8]) -> Result<Packet, FrameError> {
    const LAYER: &str = "IPv6 packet";
    let length = usize::from(word(bytes, 4, LAYER)?);
    let mut data = bytes.get(40..40 + length).ok_or(FrameError::Short(LAYER))?;
    let mut protocol = bytes[6];
    let mut fragment = None;
    while protocol == FRAGMENT || SIZED_EXTENSIONS.contains(&protocol) {
        let [next, size] = array(data, 0, LAYER)?;
        let mut skipped = (usize::from(size) + 1) * 8;
        if protocol == FRAGMENT {
            let field = word(data, 2, LAYER)?;
            fragment = Some(Fragment {
                offset: field & 0xfff8,
                more: field & 1 != 0,
                id: u32::from_be_bytes(array(data, 4, LAYER)?),
            });
            skipped = 8;
        }
        data = data.get(skipped..).ok_or(FrameError::Short(LAYER))?;
        protocol = next;
    }
    Packet {
        source: Ipv6Addr::from(array(bytes, 8, LAYER)?).into(),
        destination: Ipv6Addr::from(array(bytes, 24, LAYER)?).into(),
        hop_limit: bytes[7],
        fragment,
        protocol,
        content: Content::Other(Vec::new()),
    }
    .with_content(data)
}

impl Packet {
    fn with_content(mut self, data: &[u8]) -> Result<Self, FrameError> {
        self.content = match self.protocol {
            _ if self.fragment.is_some() => Content::Other(data.to_vec()),
            UDP => self.parse_udp(data)?,
            IPIP => Content::Tunnel(Box::new(parse_ipv4(data)?)),
            IPV6 => Content::Tunnel(Box::new(parse_ipv6(data)?)),
            TCP => self.check(data, "TCP", true)?,
            ICMPV6 => self.check(data, "ICMPv6", true)?,
            ICMP => self.check(data, "ICMP", false)?,
            _ => Content::Other(data.to_vec()),
        };
        Ok(self)
    }

    fn parse_udp(&self, data: &[u8]) -> Result<Content, FrameError> {
        const LAYER: &str = "UDP datagram";
        let length = usize::from(word(data, 4, LAYER)?);
        let datagram = data.get(..length).ok_or(FrameError::Short(LAYER))?;
        let checksum = word(datagram, 6, LAYER)?;
        match (checksum, self.source) {
            (0, IpAddr::V6(_)) => return Err(FrameError::Missing),
            (0, IpAddr::V4(_)) => {}
            _ => drop(self.check(datagram, "UDP", true)?),
        }
        Ok(Content::Udp {
            source: word(datagram, 0, LAYER)?,
            destination: word(datagram, 2, LAYER)?,
            checksum,
            payload: datagram[UDP_HEADER..].to_vec(),
        })
    }

    fn check(&self, data: &[u8], layer: &'static str, pseudo: bool) -> Result<Content, FrameError> {
        let pseudo = if pseudo {
            pseudo_header(self.source, self.destination, data.len(), self.protocol)
        } else {
            Vec::new()
        };
        if sum(&[&pseudo, data]) == 0xffff {
            Ok(Content::Other(data.to_vec()))
        } else {
            Err(FrameError::Checksum(layer))
        }
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize, protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The ones' complement sum of RFC 1071 over parts, of which all but the last are even in length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn word(bytes: &[u8], at: usize, layer: &'static str) -> Result<u16, FrameError> {
    array(bytes, at, layer).map(u16::from_be_bytes)
}

fn array<const N: usize>(
    bytes: &[u8],
    at: usize,
    layer: &'static str,
) -> Result<[u8; N], FrameError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(FrameError::Short(layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Family;
    use crate::lab::address::vip;

    fn frame(family: Family, payload: &[u8]) -> UdpFrame {
        let destination = SocketAddr::new(vip(family), 5060);
        UdpFrame::new(Host::Client.socket(family, 5061), destination, payload)
    }

    #[test]
    fn a_known_packet_has_its_known_checksums() {
        // Summed by hand.
        let bytes = UdpFrame::new(
            "1.2.3.4:1".parse().unwrap(),
            "5.6.7.8:2".parse().unwrap(),
            [0xab],
        )
        .build();
        // 0102+0304+0506+0708 + 0011+0009 + 0001+0002+0009+ab00 = bb3a → complement 44c5
        assert_eq!(bytes[40..42], [0x44, 0xc5]);
        // 4500+001d+0000+4000+4011+0102+0304+0506+0708 = d542 → complement 2abd
        assert_eq!(bytes[24..26], [0x2a, 0xbd]);
    }

    #[test]
    fn what_is_built_is_read_again() {
        for family in [Family::V4, Family::V6] {
            for payload in [&b""[..], b"odd", b"even"] {
                let built = frame(family, payload)
                    .vlan(7)
                    .vlan(9)
                    .ipv4_options(&[1, 1, 1]);
                let parsed = parse(&built.ipv6_extension(60, &[0; 9]).build()).unwrap();
                assert_eq!(parsed.vlans, [7, 9]);
                let expected = (
                    Host::Client.socket(family, 5061),
                    SocketAddr::new(vip(family), 5060),
                    payload,
                );
                assert_eq!(parsed.datagram(), Some(expected));
            }
        }
    }

    #[test]
    fn each_flipped_byte_below_ethernet_is_noticed() {
        for family in [Family::V4, Family::V6] {
            let good = frame(family, b"INVITE").build();
            for at in 14..good.len() {
                // Neither is covered by a checksum: traffic class and flow label, hop limit.
                if family == Family::V6 && (at < 18 || at == 21) {
                    continue;
                }
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                assert!(
                    parse(&bad).map_or(true, |parsed| parsed.datagram().is_none()),
                    "byte {at} of {family:?}"
                );
            }
        }
    }

    #[test]
    fn zero_and_wrong_checksums() {
        let build = |family, checksum| parse(&frame(family, b"x").checksum(checksum).build());
        assert!(build(Family::V4, UdpChecksum::Zero).is_ok());
        assert_eq!(
            build(Family::V6, UdpChecksum::Zero),
            Err(FrameError::Missing)
        );
        let wrong = Err(FrameError::Checksum("UDP"));
        assert_eq!(build(Family::V4, UdpChecksum::Wrong), wrong);
        assert_eq!(build(Family::V6, UdpChecksum::Wrong), wrong);
    }

    #[test]
    fn fragments_make_up_the_datagram() {
        for family in [Family::V4, Family::V6] {
            let whole = frame(family, &[b'y'; 1000]);
            let mut joined = Vec::new();
            for bytes in whole.build_fragments(400, 77) {
                let packet = parse(&bytes).unwrap().packet;
                let fragment = packet.fragment.unwrap();
                assert_eq!(
                    (usize::from(fragment.offset), fragment.id),
                    (joined.len(), 77)
                );
                let Content::Other(data) = packet.content else {
                    panic!("a fragment was read as a whole")
                };
                joined.extend(data);
                assert_eq!(fragment.more, joined.len() < 1008);
            }
            assert_eq!(joined, whole.datagram());
        }
    }
}
