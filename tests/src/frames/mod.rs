//! Ethernet frames built byte by byte, and read again with every checksum checked.
//!
//! Only what tests need: UDP over IPv4 or IPv6, up to any number of VLAN tags, IPv4 options, IPv6 extension headers,
//! fragments. The code shares nothing with the forwarder's own, so that it can be its judge.

mod build;
mod read;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use build::{Fragment, UdpChecksum, UdpFrame};
pub use read::{Content, FrameError, Packet, Parsed, parse, verify_checksums};

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
