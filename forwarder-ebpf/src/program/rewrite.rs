//! Changes to a packet: addresses, ports, checksums, time to live, MAC addresses.
//!
//! Everything is checked before the first byte is written, so a packet leaves changed or untouched.

use crate::source::Packet;
use sip_forwarder_ebpf::{
    abi::{Endpoint, Macs},
    csum::{self, Delta},
    packet::{Family, Flow, UDP_LENGTH},
};

/// Length of an IPv4 header without options, and offsets in it.
const V4_LENGTH: usize = 20;
const V4_TTL: usize = 8;
const V4_CHECKSUM: usize = 10;
const V4_SOURCE: usize = 12;
const V4_DESTINATION: usize = 16;
/// Offsets in an IPv6 header.
const V6_HOP_LIMIT: usize = 7;
const V6_SOURCE: usize = 8;
const V6_DESTINATION: usize = 24;
/// Offsets in a UDP header.
const UDP_SOURCE: usize = 0;
const UDP_DESTINATION: usize = 2;
const UDP_CHECKSUM: usize = 6;

/// Which address of a packet changes.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Gives the packet another address and port on one side. `None`, and nothing written, if the
/// packet ends too early.
#[inline(always)]
pub(crate) fn endpoint(packet: &Packet, flow: &Flow, side: Side, new: &Endpoint) -> Option<()> {
    let old = match side {
        Side::Source => &flow.source,
        Side::Destination => &flow.destination,
    };
    let udp = packet.window::<UDP_LENGTH>(flow.udp)?;
    let addresses = address(packet, flow, side, new)?;
    let delta = addresses.word(old.port.to_wire(), new.port.to_wire());
    match side {
        Side::Source => udp.store::<_, UDP_SOURCE>(new.port.to_wire()),
        Side::Destination => udp.store::<_, UDP_DESTINATION>(new.port.to_wire()),
    }
    let checksum = udp.load::<u16, UDP_CHECKSUM>();
    udp.store::<_, UDP_CHECKSUM>(delta.apply_udp(checksum));
    Some(())
}

/// Gives the packet another address on one side, and tells what that changes in checksums above IP.
#[inline(always)]
pub(crate) fn address(packet: &Packet, flow: &Flow, side: Side, new: &Endpoint) -> Option<Delta> {
    let old = match side {
        Side::Source => &flow.source.address,
        Side::Destination => &flow.destination.address,
    };
    match flow.family() {
        Family::V4 => {
            let (from, to) = (old.wire_v4(), new.address.wire_v4());
            let delta = Delta::new().double(from, to);
            let ip = packet.window::<V4_LENGTH>(flow.ip)?;
            let checksum = ip.load::<u16, V4_CHECKSUM>();
            ip.store::<_, V4_CHECKSUM>(delta.apply(checksum));
            match side {
                Side::Source => ip.store::<_, V4_SOURCE>(to),
                Side::Destination => ip.store::<_, V4_DESTINATION>(to),
            }
            Some(delta)
        }
        Family::V6 => {
            let (from, to) = (old.wire_v6(), new.address.wire_v6());
            let offset = match side {
                Side::Source => V6_SOURCE,
                Side::Destination => V6_DESTINATION,
            };
            packet.store_words(flow.ip + offset, to)?;
            Some(Delta::new().address(from, to))
        }
    }
}

/// Counts one hop.
#[inline(always)]
pub(crate) fn count_hop(packet: &Packet, flow: &Flow) -> Option<()> {
    match flow.family() {
        Family::V4 => {
            let ip = packet.window::<V4_LENGTH>(flow.ip)?;
            // The time to live is the lower byte of the word as it is loaded.
            let old = ip.load::<u16, V4_TTL>();
            let checksum = ip.load::<u16, V4_CHECKSUM>();
            ip.store::<_, V4_TTL>(old.wrapping_sub(1));
            ip.store::<_, V4_CHECKSUM>(csum::one_hop_less(checksum));
            Some(())
        }
        Family::V6 => packet.store(flow.ip + V6_HOP_LIMIT, flow.time_to_live.wrapping_sub(1)),
    }
}

/// Writes the Ethernet addresses.
#[inline(always)]
pub(crate) fn macs(packet: &Packet, macs: Macs) -> Option<()> {
    packet.store_words(0, macs.0)
}
