//! What the drivers of the interfaces say of themselves, as far as it forbids native XDP or slows it: `check` prints
//! each finding with the command that mends it.
//!
//! Nothing here is an error: where native XDP is refused the forwarder takes the generic mode, and says so.

mod ask;

use std::{fmt, io, net::UdpSocket};

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

/// What findings depend on besides the interface.
#[derive(Clone, Copy, Debug)]
struct Machine {
    cpus: u32,
    /// Major and minor version.
    kernel: (u32, u32),
    /// Whether the XDP program is attached already.
    attached: bool,
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

/// Examines interfaces, to which the XDP program is attached or will be. One that tells nothing has no findings. Fails
/// only if there is no socket to be had.
pub async fn findings(interfaces: &[String], attached: bool) -> io::Result<Vec<Finding>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    let (connection, mut handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let machine = Machine {
        cpus: aya::util::nr_cpus().map_or(1, |cpus| cpus as u32),
        kernel: ask::kernel_version(),
        attached,
    };
    let mut all = Vec::new();
    for name in interfaces {
        let interface = ask::examine(&socket, &mut handle, name).await;
        all.extend(interface.findings(machine));
    }
    connection.abort();
    Ok(all)
}

impl Interface {
    fn findings(&self, machine: Machine) -> Vec<Finding> {
        [
            self.lro_finding(),
            self.gro_hw_finding(),
            self.queues_finding(machine),
            self.mtu_finding(machine.kernel),
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

    fn queues_finding(&self, machine: Machine) -> Option<(String, String)> {
        let (now, most) = self.pairs?;
        let cpus = machine.cpus;
        // While a program is attached, the queues in use include those that XDP sends by.
        let has_own = machine.attached && now > cpus;
        match self.driver.as_str() {
            // Queues beyond those in use are what XDP sends by, one for each CPU.
            "virtio_net" if now + cpus > most && !has_own => Some((
                format!(
                    "queues in use: {now} of {most}, and {cpus} CPUs need one more each for what XDP sends, so it shares queues under a lock"
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
                    "queues in use: {now} of {most}, with more than half of which the driver refuses native XDP"
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

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Machine = Machine {
        cpus: 2,
        kernel: (6, 12),
        attached: false,
    };
    const OLD: Machine = Machine {
        kernel: (6, 1),
        ..NEW
    };
    const ATTACHED: Machine = Machine {
        attached: true,
        ..NEW
    };

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

    fn only(interface: &Interface, machine: Machine) -> String {
        let findings = interface.findings(machine);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].to_string()
    }

    #[test]
    fn a_card_with_queues_to_spare_is_well() {
        assert_eq!(virtio((2, 4)).findings(NEW), []);
        assert_eq!(virtio((4, 4)).findings(ATTACHED), []);
    }

    #[test]
    fn a_finding_ends_with_the_command() {
        assert!(only(&virtio((4, 4)), NEW).ends_with("ethtool -L eth0 combined 2"));
        for machine in [NEW, ATTACHED] {
            assert!(only(&virtio((1, 1)), machine).contains("queues=4"));
        }
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
        assert_eq!(jumbo.findings(NEW), []);
        assert!(only(&jumbo, OLD).ends_with("ip link set eth0 mtu 1500"));
    }
}
