//! Frames read again, with every checksum checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use super::{
    ETHERTYPE_V4, ETHERTYPE_V6, ETHERTYPES_VLAN, FRAGMENT, Fragment, ICMP, ICMPV6, IPIP, IPV6,
    SIZED_EXTENSIONS, TCP, UDP, UDP_HEADER, pseudo_header, sum,
};
use crate::lab::Mac;

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
