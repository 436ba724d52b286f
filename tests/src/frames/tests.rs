use std::net::SocketAddr;

use super::*;
use crate::lab::address::vip;
use crate::lab::{Family, Host};

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
