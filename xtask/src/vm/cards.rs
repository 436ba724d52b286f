//! The virtual machine's network cards: `virtio_net`, two for each link of the lab, one for the host and one for the
//! forwarder.
//!
//! As root the ends of a link are taps on a bridge, in a network namespace that ends with QEMU: only taps have several
//! queues. Otherwise, and for the link that must have one queue, they are ports of a hub inside QEMU.

use std::{fs::OpenOptions, process::Command};

use sip_forwarder_tests::lab::{Host, Mac, cards};

use crate::shell::is_root;

/// Pairs of queues of the forwarder's cards: one for each CPU, and as many that XDP sends by.
const QUEUES: u32 = 4;
/// Makes a bridge with two taps for every link named, each followed by what the forwarder's is made with, then becomes
/// what follows `--`.
const TAPS: &str = r#"
set -e
while [ "$1" != -- ]; do
    ip link add "br-$1" type bridge mcast_snooping 0
    ip link set "br-$1" up
    ip tuntap add "far-$1" mode tap
    ip tuntap add "near-$1" mode tap $2
    for tap in "far-$1" "near-$1"; do
        sysctl -qw "net.ipv6.conf.$tap.disable_ipv6=1" || true
        ip link set "$tap" master "br-$1" up
    done
    shift 2
done
shift
exec "$@"
"#;

/// The cards of a machine.
pub(super) struct Cards {
    links: Vec<Link>,
}

struct Link {
    name: String,
    host: Mac,
    forwarder: Mac,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Two taps on a bridge.
    Taps,
    /// The same with one queue each, where the driver cannot switch off what the host merges for the forwarder.
    KeptOffloads,
    /// Two ports of a hub, with one queue each and no offloads.
    Hub,
}

impl Cards {
    /// A card for the client and for each of three proxies, and four for the forwarder: two with many queues, one with
    /// one, and one whose offloads forbid native XDP.
    pub(super) fn of_lab() -> Self {
        let (taps, kept) = if can_make_taps() {
            (Kind::Taps, Kind::KeptOffloads)
        } else {
            (Kind::Hub, Kind::Hub)
        };
        let ends = [
            (Host::Client, taps),
            (Host::Proxy(1), taps),
            (Host::Proxy(2), Kind::Hub),
            (Host::Proxy(3), kept),
        ];
        let links = ends.map(|(host, kind)| Link {
            name: host.to_string(),
            host: host.mac(),
            forwarder: host.forwarder_mac(),
            kind,
        });
        Self {
            links: links.into(),
        }
    }

    /// What the tests are told of the cards.
    pub(super) fn kind(&self) -> &'static str {
        if self.links.iter().any(|link| link.kind == Kind::Taps) {
            cards::MULTI_QUEUE
        } else {
            cards::SINGLE_QUEUE
        }
    }

    /// A command that makes the taps in a network namespace of its own and then runs a program in it.
    pub(super) fn wrapper(&self, program: &str) -> Command {
        // A tap is made with many queues or without.
        let taps: Vec<_> = self
            .links
            .iter()
            .filter_map(|link| match link.kind {
                Kind::Taps => Some([link.name.as_str(), "multi_queue"]),
                Kind::KeptOffloads => Some([link.name.as_str(), ""]),
                Kind::Hub => None,
            })
            .flatten()
            .collect();
        let mut command = Command::new("setpriv");
        // It ends with us, however we end.
        command.args(["--pdeathsig", "KILL"]);
        if taps.is_empty() {
            command.arg(program);
            return command;
        }
        command
            .args(["unshare", "--net", "--", "sh", "-c", TAPS, "sh"])
            .args(taps)
            .args(["--", program]);
        command
    }

    /// The arguments of QEMU.
    pub(super) fn arguments(&self) -> Vec<String> {
        let links = self.links.iter().enumerate();
        links
            .flat_map(|(number, link)| link.arguments(number))
            .collect()
    }
}

impl Link {
    fn arguments(&self, number: usize) -> Vec<String> {
        let (far, near) = (format!("far-{}", self.name), format!("near-{}", self.name));
        let tap = |id: &str| format!("tap,id={id},ifname={id},script=no,downscript=no,vhost=off");
        let (netdevs, more) = match self.kind {
            Kind::Taps => {
                let near = format!("{},queues={QUEUES}", tap(&near));
                // Two vectors for each pair of queues, one for the configuration and one for control.
                let queues = format!(",mq=on,vectors={}", 2 * QUEUES + 2);
                ([tap(&far), near], queues)
            }
            Kind::KeptOffloads => {
                let more = ",ctrl_guest_offloads=off".to_owned();
                ([tap(&far), tap(&near)], more)
            }
            Kind::Hub => {
                let port = |id: &str| format!("hubport,id={id},hubid={number}");
                ([port(&far), port(&near)], String::new())
            }
        };
        let device = |id: &str, mac: Mac, more: &str| {
            let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let mac = bytes.join(":");
            format!("virtio-net-pci,netdev={id},mac={mac},romfile={more}")
        };
        let [far_netdev, near_netdev] = netdevs;
        [
            ["-netdev".to_owned(), far_netdev],
            ["-device".to_owned(), device(&far, self.host, "")],
            ["-netdev".to_owned(), near_netdev],
            ["-device".to_owned(), device(&near, self.forwarder, &more)],
        ]
        .concat()
    }
}

/// Tells whether this process may make tap devices.
fn can_make_taps() -> bool {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    is_root() && tun.is_ok()
}
