//! The questions to the kernel about an interface: ethtool's by netlink, and the two that netlink does not answer by
//! `ioctl`.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

use ethtool::{
    EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolFeatureAttr, EthtoolFeatureBit,
    EthtoolHandle,
};
use futures_util::{Stream, TryStreamExt as _};

use super::{Feature, Interface};

/// Asks the kernel about an interface. What the driver does not tell is as if it were off.
pub(super) async fn examine(
    socket: &UdpSocket,
    handle: &mut EthtoolHandle,
    name: &str,
) -> Interface {
    let mut interface = Interface {
        name: name.to_owned(),
        driver: driver(socket, name).unwrap_or_default(),
        mtu: mtu(socket, name).unwrap_or_default(),
        ..Interface::default()
    };
    let answer = handle.feature().get(Some(name)).execute().await;
    let features = attributes(answer, |message| message.payload.nlas).await;
    let bits = |wanted: fn(&EthtoolFeatureAttr) -> Option<&Vec<EthtoolFeatureBit>>| {
        features.iter().find_map(|attribute| match attribute {
            EthtoolAttr::Feature(feature) => wanted(feature),
            _ => None,
        })
    };
    let changeable = bits(|attribute| match attribute {
        EthtoolFeatureAttr::Hw(bits) => Some(bits),
        _ => None,
    });
    let active = bits(|attribute| match attribute {
        EthtoolFeatureAttr::Active(bits) => Some(bits),
        _ => None,
    });
    let feature = |name: &str| Feature {
        on: has(active, name),
        can_change: has(changeable, name),
    };
    interface.lro = feature("rx-lro");
    interface.gro_hw = feature("rx-gro-hw");
    let answer = handle.channel().get(Some(name)).execute().await;
    let channels = attributes(answer, |message| message.payload.nlas).await;
    interface.pairs = pairs(&channels);
    interface
}

/// The attributes of all messages of an answer; none if the driver does not know the question.
async fn attributes<M>(
    answer: Result<impl Stream<Item = Result<M, EthtoolError>>, EthtoolError>,
    of_message: impl Fn(M) -> Vec<EthtoolAttr>,
) -> Vec<EthtoolAttr> {
    let Ok(messages) = answer else {
        return Vec::new();
    };
    let messages: Vec<_> = messages.try_collect().await.unwrap_or_default();
    messages.into_iter().flat_map(of_message).collect()
}

fn has(bits: Option<&Vec<EthtoolFeatureBit>>, name: &str) -> bool {
    bits.is_some_and(|bits| bits.iter().any(|bit| bit.name == name && bit.value))
}

fn pairs(channels: &[EthtoolAttr]) -> Option<(u32, u32)> {
    let (mut now, mut most) = (None, None);
    for attribute in channels {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => now = Some(*count),
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(count)) => most = Some(*count),
            _ => {}
        }
    }
    now.zip(most)
}

/// The running kernel's major and minor version.
pub(super) fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

/// `struct ethtool_drvinfo` of linux/ethtool.h, in which only the driver's name is of interest.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const GET_DRIVER_INFO: u32 = 3;
const _: () = assert!(size_of::<DriverInfo>() == 196);

/// Asks for the driver's name, which ethtool's netlink does not tell.
fn driver(socket: &UdpSocket, interface: &str) -> Option<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: SIOCETHTOOL reads the name and the pointer in `request`; the pointer is to an `ethtool_drvinfo`, which it
    // fills, and which outlives the call as `request` does.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer != 0 {
        return None;
    }
    let name: Vec<u8> = info.driver.into_iter().take_while(|&c| c != 0).collect();
    String::from_utf8(name).ok()
}

fn mtu(socket: &UdpSocket, interface: &str) -> Option<u32> {
    let mut request = request(interface)?;
    // SAFETY: SIOCGIFMTU reads the name in `request` and writes a number into it.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if answer != 0 {
        return None;
    }
    // SAFETY: the call succeeded, and so wrote this member.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

/// A request about an interface; `None` if its name is too long to be one.
fn request(interface: &str) -> Option<libc::ifreq> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The zero behind the name stays.
    if interface.len() >= request.ifr_name.len() {
        return None;
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_answers() {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        assert!(mtu(&socket, "lo").is_some_and(|mtu| mtu > 0));
        assert_eq!(mtu(&socket, "there-is-no-such-interface"), None);
    }
}
