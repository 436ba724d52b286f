//! The plan of the lab: who has which name, interface, MAC and address. Pure data.
//!
//! | link | forwarder's end | other end | IPv4 | IPv6 |
//! |---|---|---|---|---|
//! | client | `to-client` | `client` | 10.210.0.0/24 | `fd00:210::/64` |
//! | proxy N | `to-pN` | `pN` | 10.210.N.0/24 | `fd00:210:N::/64` |
//! | callee, if there is one | `to-callee` | `callee` | 10.210.254.0/24 | `fd00:210:fe::/64` |
//! | phone, if there is one | none: `inside` at the client | `phone` | 192.168.77.0/24 | none |
//!
//! The phone is in a household's network behind the client, which translates addresses (see [`super::nat`]).
//! The forwarder is `.1` and `::1` on every link, the other end `.2` and `::2`. The VIP is on the forwarder's `lo`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{MAX_PROXIES, namespace, nat};

/// One machine of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Where calls come from.
    Client,
    /// Where the forwarder runs and the VIP lives.
    Forwarder,
    /// Proxy 1 and up.
    Proxy(u8),
    /// Where calls end that the proxies relay, on a link of its own: it outlives every proxy.
    Callee,
    /// A phone at home: behind the client, which translates its address.
    Phone,
}

/// Which hosts a lab has besides client and forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// How many proxies.
    pub(super) proxies: u8,
    /// Whether there is a callee.
    pub(super) callee: bool,
    /// Whether there is a phone behind the client.
    pub(super) phone: bool,
    /// What the links are.
    pub(super) links: Links,
}

/// What joins a host to the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Links {
    /// One veth pair.
    #[default]
    Veth,
    /// Two, and XDP programs between them: see [`Lab::cabled`](super::Lab::cabled).
    Cable,
    /// Network cards that the machine has: see [`Lab::on_cards`](super::Lab::on_cards).
    Cards,
}

/// The two ends in the middle of a cable. Both lie in the namespace of the host.
pub(super) struct Cable {
    /// The peer of the host's interface.
    pub(super) card: String,
    /// The peer of the forwarder's.
    pub(super) plug: String,
}

/// The address of the loopback that stands for one of the lab's IPv4 addresses.
pub(super) fn on_loopback(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            Ipv4Addr::new(127, b, c, d).into()
        }
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The number of the callee's link.
const CALLEE_LINK: u8 = 254;

/// Which IP version a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// An Ethernet address.
pub type Mac = [u8; 6];

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Forwarder => f.write_str("fwd"),
            Self::Proxy(n) => write!(f, "p{n}"),
            Self::Callee => f.write_str("callee"),
            Self::Phone => f.write_str("phone"),
        }
    }
}

impl FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "client" => Ok(Self::Client),
            "fwd" => Ok(Self::Forwarder),
            "callee" => Ok(Self::Callee),
            "phone" => Ok(Self::Phone),
            _ => text
                .strip_prefix('p')
                .and_then(|n| n.parse().ok())
                .filter(|n| (1..=MAX_PROXIES).contains(n))
                .map(Self::Proxy)
                .ok_or_else(|| {
                    anyhow::anyhow!(
                        "`{text}` is no host: say client, fwd, p1, p2 …, callee or phone"
                    )
                }),
        }
    }
}

impl Host {
    /// The number of the host's link, 0 for the client; the forwarder has all of them, the phone none.
    fn link(self) -> Option<u8> {
        match self {
            Self::Client => Some(0),
            Self::Forwarder | Self::Phone => None,
            Self::Proxy(n) => Some(n),
            Self::Callee => Some(CALLEE_LINK),
        }
    }

    /// The host's own end of its link to the forwarder.
    #[must_use]
    pub fn interface(self) -> Option<String> {
        self.link().map(|_| self.to_string())
    }

    /// The middle of its cable, if links are cables.
    pub(super) fn cable(self) -> Option<Cable> {
        self.link().map(|_| Cable {
            card: format!("{self}-card"),
            plug: format!("{self}-plug"),
        })
    }

    /// The forwarder's end of the link to this host.
    #[must_use]
    pub fn forwarder_interface(self) -> Option<String> {
        self.link().map(|_| format!("to-{self}"))
    }

    /// The host's address. The forwarder's is the one that the client sees. The phone has IPv4 alone.
    #[must_use]
    pub fn address(self, family: Family) -> IpAddr {
        if self == Self::Phone {
            return nat::PHONE.into();
        }
        self.link()
            .map_or_else(|| address(family, 0, 1), |link| address(family, link, 2))
    }

    /// The host's address and a port.
    #[must_use]
    pub fn socket(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// The forwarder's address on the link to this host.
    #[must_use]
    pub fn gateway(self, family: Family) -> IpAddr {
        address(family, self.link().unwrap_or(0), 1)
    }

    /// The MAC of the host's interface. The forwarder's is the one that the client sees.
    #[must_use]
    pub fn mac(self) -> Mac {
        self.link().map_or_else(|| mac(0, 1), |link| mac(link, 2))
    }

    /// The MAC of the forwarder's interface to this host.
    #[must_use]
    pub fn forwarder_mac(self) -> Mac {
        mac(self.link().unwrap_or(0), 1)
    }
}

/// The virtual address phones send to.
#[must_use]
pub fn vip(family: Family) -> IpAddr {
    address(family, 255, 1)
}

fn address(family: Family, link: u8, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 210, link, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x210, link.into(), 0, 0, 0, 0, last.into()).into(),
    }
}

pub(super) fn mac(link: u8, end: u8) -> Mac {
    [0x02, 0x53, 0x49, 0x50, link, end]
}

pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Client, forwarder, proxies, callee, phone.
pub(super) fn hosts(plan: Plan) -> impl Iterator<Item = Host> {
    [Host::Client, Host::Forwarder]
        .into_iter()
        .chain((1..=plan.proxies).map(Host::Proxy))
        .chain(plan.callee.then_some(Host::Callee))
        .chain(plan.phone.then_some(Host::Phone))
}

/// Those with a link of their own to the forwarder.
pub(super) fn linked(plan: Plan) -> impl Iterator<Item = Host> {
    hosts(plan).filter(|host| host.link().is_some())
}

/// `ip` lines, for the root namespace, that make the veth pairs inside the namespaces.
pub(super) fn links(id: &str, plan: Plan) -> Vec<String> {
    hosts(plan)
        .filter_map(|host| host.cable().map(|cable| (host, cable)))
        .flat_map(|(host, cable)| joined(id, host, &cable, plan.links))
        .chain(plan.phone.then(|| nat::link(id)))
        .collect()
}

/// `ip` lines that join a host to the forwarder.
fn joined(id: &str, host: Host, cable: &Cable, links: Links) -> Vec<String> {
    let forwarder = namespace::name(id, Host::Forwarder);
    let there = namespace::name(id, host);
    let near = format!(
        "link add to-{host} address {} netns {forwarder} type veth peer name",
        mac_text(host.forwarder_mac())
    );
    let far = format!("{host} address {} netns {there}", mac_text(host.mac()));
    let Cable { card, plug } = cable;
    match links {
        Links::Veth => vec![format!("{near} {far}")],
        Links::Cable => vec![
            format!("{near} {plug} netns {there}"),
            format!("link add {far} type veth peer name {card} netns {there}"),
        ],
        // They are there already.
        Links::Cards => Vec::new(),
    }
}

/// `ip` lines, for the host's own namespace, that give it addresses, neighbours and routes.
pub(super) fn addresses(host: Host, plan: Plan) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    if plan.phone {
        lines.extend(nat::addresses(host));
    }
    if host.link().is_none() && host != Host::Forwarder {
        return lines;
    }
    if host == Host::Forwarder {
        lines.push(format!("address add {}/32 dev lo", vip(Family::V4)));
        lines.push(format!("address add {}/128 dev lo nodad", vip(Family::V6)));
        for other in linked(plan) {
            let end = End {
                device: format!("to-{other}"),
                own: |family| other.gateway(family),
                peer: |family| other.address(family),
                peer_mac: other.mac(),
            };
            lines.extend(end.lines());
        }
        return lines;
    }
    let end = End {
        device: host.to_string(),
        own: |family| host.address(family),
        peer: |family| host.gateway(family),
        peer_mac: host.forwarder_mac(),
    };
    lines.extend(end.lines());
    if plan.links == Links::Cable {
        let ends = host.cable().map(|Cable { card, plug }| [card, plug]);
        // Nothing but what is redirected goes by these.
        lines.extend(ends.into_iter().flatten().flat_map(|end| {
            [
                format!("link set {end} addrgenmode none"),
                format!("link set {end} up"),
            ]
        }));
    }
    lines.extend([Family::V4, Family::V6].map(|family| {
        let gateway = host.gateway(family);
        format!("route add default via {gateway}")
    }));
    lines
}

/// One end of a veth pair.
struct End<Own, Peer> {
    device: String,
    own: Own,
    peer: Peer,
    peer_mac: Mac,
}

impl<Own: Fn(Family) -> IpAddr, Peer: Fn(Family) -> IpAddr> End<Own, Peer> {
    fn lines(&self) -> Vec<String> {
        let device = &self.device;
        let mac = mac_text(self.peer_mac);
        let mut lines = vec![
            format!("link set {device} up"),
            format!("address add {}/24 dev {device}", (self.own)(Family::V4)),
            format!(
                "address add {}/64 dev {device} nodad",
                (self.own)(Family::V6)
            ),
        ];
        lines.extend([Family::V4, Family::V6].map(|family| {
            let peer = (self.peer)(family);
            format!("neighbor replace {peer} lladdr {mac} dev {device} nud permanent")
        }));
        lines
    }
}

/// Settings under `/proc/sys/net`, written before there are interfaces so that these inherit them.
pub(super) fn sysctls(host: Host, plan: Plan) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
    ];
    if host == Host::Forwarder {
        settings.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/accept_local", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ]);
    }
    if host == Host::Client && plan.phone {
        settings.push(("ipv4/ip_forward", "1"));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(links: Links) -> Plan {
        Plan {
            proxies: 1,
            callee: false,
            phone: false,
            links,
        }
    }

    #[test]
    fn a_cable_is_two_pairs_whose_middle_lies_with_the_host() {
        assert_eq!(links("x", plan(Links::Veth)).len(), 2);
        let lines = links("x", plan(Links::Cable));
        let [near, far] = [&lines[2], &lines[3]];
        assert_eq!(lines.len(), 4);
        assert!(near.ends_with("netns sipfw-x-fwd type veth peer name p1-plug netns sipfw-x-p1"));
        assert!(far.ends_with("netns sipfw-x-p1 type veth peer name p1-card netns sipfw-x-p1"));
        let inside = addresses(Host::Proxy(1), plan(Links::Cable));
        for end in ["p1-card", "p1-plug"] {
            assert!(inside.contains(&format!("link set {end} up")), "{end}");
        }
    }
}
