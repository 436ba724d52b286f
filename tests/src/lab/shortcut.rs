//! A link between two hosts, past the forwarder.

use anyhow::Result;

use super::{Family, Host, Lab, address::mac_text, namespace};

/// The same name at both ends.
const INTERFACE: &str = "shortcut";
/// The number of the link in its MAC addresses; no host has it.
const LINK: u8 = 255;

/// While it lives, two hosts have nothing between them but one veth pair. Their addresses stay what they are. IPv4.
#[derive(Debug)]
pub struct Shortcut {
    lab: Lab,
    end: Host,
}

impl Shortcut {
    /// Joins two hosts.
    pub fn new(lab: &Lab, one: Host, other: Host) -> Result<Self> {
        let [(near, near_mac), (far, far_mac)] = [(one, 1), (other, 2)]
            .map(|(host, end)| (host, mac_text(super::address::mac(LINK, end))));
        namespace::ip_batch(&[format!(
            "link add {INTERFACE} address {near_mac} netns {near_space} type veth \
             peer name {INTERFACE} address {far_mac} netns {far_space}",
            near_space = lab.namespace(near)?.name(),
            far_space = lab.namespace(far)?.name(),
        )])?;
        let shortcut = Self {
            lab: lab.clone(),
            end: one,
        };
        for (host, peer, peer_mac) in [(near, far, &far_mac), (far, near, &near_mac)] {
            let namespace = lab.namespace(host)?;
            let address = peer.address(Family::V4);
            // As on the other links.
            namespace.ethtool(INTERFACE, &["tx", "off", "gro", "on"])?;
            namespace.ip_batch(&[
                format!("link set {INTERFACE} up"),
                format!(
                    "neighbor replace {address} lladdr {peer_mac} dev {INTERFACE} nud permanent"
                ),
                format!(
                    "route add {address}/32 dev {INTERFACE} src {}",
                    host.address(Family::V4)
                ),
            ])?;
        }
        Ok(shortcut)
    }
}

impl Drop for Shortcut {
    fn drop(&mut self) {
        // One end takes the other with it, and both their routes.
        let removed = self
            .lab
            .namespace(self.end)
            .and_then(|namespace| namespace.ip_batch(&[format!("link delete {INTERFACE}")]));
        if let Err(error) = removed {
            eprintln!("lab: {error:#}");
        }
    }
}
