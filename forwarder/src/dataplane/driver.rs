//! What the drivers of the interfaces say of themselves, as far as it forbids native XDP or slows it: `check` prints
//! each finding with the command that mends it.
//!
//! Nothing here is an error: where native XDP is refused the forwarder takes the generic mode, and says so.

use std::{fmt, io, net::UdpSocket, os::fd::AsRawFd as _};

use ethtool::{
    EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolFeatureAttr, EthtoolFeatureBit,
    EthtoolHandle,
};
use futures_util::{Stream, TryStreamExt as _};

/// What fits into one page beside the room before a frame and the kernel's own data behind it, without the Ethernet
/// header.
const ONE_PAGE_MTU: u32 = 3_506;
/// Drivers that take programs with multi-buffer support since a version that is older than Linux 6.1.
const MULTI_BUFFER: [&str; 1] = ["veth"];
/// Since when `virtio_net` takes them.
const VIRTIO_MULTI_BUFFER: (u32, u32) = (6, 3);

/// What ethtool and the kernel tell of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Interface {
    name: String,
    driver: String,
    mtu: u32,
    lro: Feature,
    gro_hw: Feature,
    /// Pairs of queues in use, and how many there can be.
    pairs: Option<(u32, u32)>,
}

/// An offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Feature {
    on: bool,
    can_change: bool,
}

/// Something about an interface that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    interface: String,
    driver: String,
    /// What is so, and what it does to XDP.
    fault: String,
    /// What to do.
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface,
            driver,
            fault,
            remedy,
        } = self;
        write!(f, "{interface} ({driver}): {fault}; {remedy}")
    }
}

/// Examines interfaces. One that tells nothing has no findings. Fails only if there is no socket to be had.
pub async fn findings(interfaces: &[String]) -> io::Result<Vec<Finding>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    let (connection, mut handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
    let mut all = Vec::new();
    for name in interfaces {
        let interface = examine(&socket, &mut handle, name).await;
        all.extend(interface.findings(cpus, kernel_version()));
    }
    connection.abort();
    Ok(all)
}

async fn examine(socket: &UdpSocket, handle: &mut EthtoolHandle, name: &str) -> Interface {
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

impl Interface {
    fn findings(&self, cpus: u32, kernel: (u32, u32)) -> Vec<Finding> {
        [
            self.lro_finding(),
            self.gro_hw_finding(),
            self.queues_finding(cpus),
            self.mtu_finding(kernel),
        ]
        .into_iter()
        .flatten()
        .map(|(fault, remedy)| Finding {
            interface: self.name.clone(),
            driver: self.driver.clone(),
            fault,
            remedy,
        })
        .collect()
    }

    /// Large receive offload merges packets before XDP sees them; most drivers refuse XDP while it is on.
    fn lro_finding(&self) -> Option<(String, String)> {
        self.lro.on.then(|| {
            let fault = "LRO is on, with which drivers refuse native XDP".to_owned();
            (
                fault,
                format!("switch it off: ethtool -K {} lro off", self.name),
            )
        })
    }

    /// `virtio_net` switches what the host merges off by itself, if the host lets it.
    fn gro_hw_finding(&self) -> Option<(String, String)> {
        if !self.gro_hw.on {
            return None;
        }
        if !self.is_virtio() {
            let fault = "rx-gro-hw is on: packets are merged before XDP sees them".to_owned();
            return Some((
                fault,
                format!("switch it off: ethtool -K {} rx-gro-hw off", self.name),
            ));
        }
        (!self.gro_hw.can_change).then(|| {
            (
                "the hypervisor merges packets and does not let the driver switch that off, with which it refuses native XDP".to_owned(),
                "set ctrl_guest_offloads=on for this card in the hypervisor, or guest_tso4, guest_tso6, guest_ecn, guest_ufo and guest_csum=off".to_owned(),
            )
        })
    }

    fn queues_finding(&self, cpus: u32) -> Option<(String, String)> {
        let (now, most) = self.pairs?;
        match self.driver.as_str() {
            // Queues beyond those in use are what XDP sends by, one for each CPU.
            "virtio_net" if now + cpus > most => Some((
                format!(
                    "{now} of {most} queues are in use and {cpus} CPUs need one each for what XDP sends, so it shares queues under a lock"
                ),
                if most > cpus {
                    format!(
                        "leave enough of them: ethtool -L {} combined {}",
                        self.name,
                        most - cpus
                    )
                } else {
                    format!(
                        "give this card {} queues in the hypervisor (QEMU: queues={0} and mq=on, libvirt: <driver queues='{0}'/>)",
                        2 * cpus
                    )
                },
            )),
            "ena" if now > most / 2 => Some((
                format!(
                    "{now} of {most} queues are in use, with more than half of which the driver refuses native XDP"
                ),
                format!(
                    "use fewer: ethtool -L {} combined {}",
                    self.name,
                    (most / 2).max(1)
                ),
            )),
            _ => None,
        }
    }

    fn mtu_finding(&self, kernel: (u32, u32)) -> Option<(String, String)> {
        let takes_more = MULTI_BUFFER.contains(&self.driver.as_str())
            || (self.is_virtio() && kernel >= VIRTIO_MULTI_BUFFER);
        (self.mtu > ONE_PAGE_MTU && !takes_more).then(|| {
            let refuses = if self.is_virtio() {
                "the driver refuses native XDP before Linux 6.3"
            } else {
                "drivers without multi-buffer XDP refuse native XDP"
            };
            (
                format!(
                    "with an MTU of {}, more than {ONE_PAGE_MTU}, {refuses}",
                    self.mtu
                ),
                format!("lower it: ip link set {} mtu 1500", self.name),
            )
        })
    }

    fn is_virtio(&self) -> bool {
        self.driver == "virtio_net"
    }
}

/// The running kernel's major and minor version.
fn kernel_version() -> (u32, u32) {
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

    const NEW: (u32, u32) = (6, 12);

    fn virtio(pairs: (u32, u32)) -> Interface {
        Interface {
            name: "eth0".to_owned(),
            driver: "virtio_net".to_owned(),
            mtu: 1_500,
            gro_hw: Feature {
                on: true,
                can_change: true,
            },
            pairs: Some(pairs),
            ..Interface::default()
        }
    }

    fn only(interface: &Interface, kernel: (u32, u32)) -> String {
        let findings = interface.findings(2, kernel);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].to_string()
    }

    #[test]
    fn a_card_with_queues_to_spare_is_well() {
        assert_eq!(virtio((2, 4)).findings(2, NEW), []);
    }

    #[test]
    fn a_finding_ends_with_the_command() {
        assert!(only(&virtio((4, 4)), NEW).ends_with("ethtool -L eth0 combined 2"));
        assert!(only(&virtio((1, 1)), NEW).contains("queues=4"));
        let mut lro = virtio((2, 4));
        lro.lro.on = true;
        assert!(only(&lro, NEW).ends_with("ethtool -K eth0 lro off"));
    }

    #[test]
    fn what_the_hypervisor_keeps_on_is_named() {
        let mut fixed = virtio((2, 4));
        fixed.gro_hw.can_change = false;
        assert!(only(&fixed, NEW).contains("ctrl_guest_offloads"));
    }

    #[test]
    fn a_large_mtu_matters_without_multi_buffer() {
        let mut jumbo = virtio((2, 4));
        jumbo.mtu = 9_000;
        assert_eq!(jumbo.findings(2, NEW), []);
        assert!(only(&jumbo, (6, 1)).ends_with("ip link set eth0 mtu 1500"));
    }

    #[test]
    fn the_loopback_answers() {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        assert!(mtu(&socket, "lo").is_some_and(|mtu| mtu > 0));
        assert_eq!(mtu(&socket, "there-is-no-such-interface"), None);
    }
}
