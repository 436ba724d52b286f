//! Frames built byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    ETHERTYPE_V4, ETHERTYPE_V6, ETHERTYPES_VLAN, FRAGMENT, UDP, UDP_HEADER, pseudo_header, sum,
};
use crate::lab::{Host, Mac};

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

    pub(super) fn datagram(&self) -> Vec<u8> {
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
