//! How backends are reached: route, neighbour and interface, asked of the kernel by netlink, and
//! asked again whenever the kernel says that something changed.

use std::{collections::HashMap, io, net::IpAddr, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use netlink_packet_route::{
    link::{InfoData, InfoVlan, LinkAttribute, LinkInfo},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMetric, RouteType},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use sip_forwarder_ebpf::abi::{Macs, VlanTags};
use thiserror::Error;
use tokio::sync::mpsc;

/// How long changes are gathered before the next ones are told of.
const GATHER: Duration = Duration::from_millis(20);

/// A fault with finding the way to a backend.
#[derive(Debug, Error)]
pub enum NextHopError {
    /// Netlink is not to be had.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// There is no route.
    #[error(
        "no route to backend {address}; add one (`ip route add {address} via …`) or correct the address"
    )]
    NoRoute {
        /// The backend.
        address: IpAddr,
    },
    /// The kernel would not tell.
    #[error("asking the kernel for the way to {address} failed: {source}")]
    Netlink {
        /// The backend.
        address: IpAddr,
        /// The fault.
        source: rtnetlink::Error,
    },
    /// The kernel would not list its neighbours.
    #[error("asking the kernel for its neighbours failed: {0}")]
    Neighbours(rtnetlink::Error),
}

/// The way to a backend, once its next hop is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Number of the interface.
    pub interface: u32,
    /// MAC addresses of frames.
    pub macs: Macs,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// VLAN tags of frames.
    pub tags: VlanTags,
}

/// VLAN tags the fast path reads.
const VLAN_LIMIT: usize = 2;

/// What is known of an interface.
struct Link {
    index: u32,
    mac: [u8; 6],
    mtu: u32,
    tags: VlanTags,
    /// The interface below a VLAN, and the VLAN's id.
    below: Option<(u32, u16)>,
}

impl Link {
    /// From what netlink tells; `None` if it has no MAC address, as the loopback has none but zeroes.
    fn of(index: u32, attributes: &[LinkAttribute]) -> Option<Self> {
        let mut link = Self {
            index,
            mac: [0; 6],
            mtu: 0,
            tags: VlanTags::default(),
            below: None,
        };
        let (mut parent, mut id) = (None, None);
        for attribute in attributes {
            match attribute {
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok()?,
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => parent = Some(*index),
                LinkAttribute::LinkInfo(infos) => id = infos.iter().find_map(vlan_id),
                _ => {}
            }
        }
        link.below = parent.zip(id);
        link.mac.iter().any(|&byte| byte != 0).then_some(link)
    }
}

fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(vlan)) = info else {
        return None;
    };
    vlan.iter().find_map(|v| {
        if let InfoVlan::Id(id) = v {
            Some(*id)
        } else {
            None
        }
    })
}

/// Neighbours by interface and address.
#[derive(Debug, Default)]
pub struct Neighbours(HashMap<(u32, IpAddr), Neighbour>);

/// What is known of one.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    mac: [u8; 6],
    /// Set by an operator: never to be asked for.
    permanent: bool,
}

/// Asks the kernel.
#[derive(Clone)]
pub struct Resolver {
    handle: Handle,
}

/// Tells that routes, routing rules, neighbours or links changed: of the first change at once, of those
/// that follow it closely together.
pub type Changes = mpsc::Receiver<()>;

impl Resolver {
    /// Opens netlink; the changes it reports come out of the channel, many as one.
    pub fn open() -> Result<(Self, Changes), NextHopError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Neigh,
        ];
        let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (sender, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                while messages.next().now_or_never().flatten().is_some() {}
                // Full means that a change is waiting to be seen already.
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
                tokio::time::sleep(GATHER).await;
            }
        });
        Ok((Self { handle }, changes))
    }

    /// The way to `address`. `Ok(None)`: there is a route, but the next hop does not answer yet.
    pub async fn resolve(
        &self,
        address: IpAddr,
        neighbours: &Neighbours,
    ) -> Result<Option<NextHop>, NextHopError> {
        let netlink = |source| NextHopError::Netlink { address, source };
        let (interface, gateway, route_mtu) = self.route(address).await?;
        let Some(link) = self.link(interface).await.map_err(netlink)? else {
            return Ok(None);
        };
        let Some(neighbour) = neighbours.0.get(&(interface, gateway)) else {
            return Ok(None);
        };
        let mtu = route_mtu.unwrap_or(link.mtu).min(link.mtu);
        Ok(Some(NextHop {
            interface: link.index,
            macs: Macs::new(neighbour.mac, link.mac),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            tags: link.tags,
        }))
    }

    /// The interface by which `address` is reached.
    pub async fn interface_to(&self, address: IpAddr) -> Result<u32, NextHopError> {
        Ok(self.route(address).await?.0)
    }

    /// Interface, next hop and MTU of the route to `address`.
    async fn route(&self, address: IpAddr) -> Result<(u32, IpAddr, Option<u32>), NextHopError> {
        let no_route = NextHopError::NoRoute { address };
        let request = match address {
            IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .build(),
        };
        let mut routes = self.handle.route().get(request).execute().boxed();
        let route = match routes.try_next().await {
            Ok(Some(route))
                if matches!(route.header.kind, RouteType::Unicast | RouteType::Local) =>
            {
                route
            }
            Ok(_) => return Err(no_route),
            Err(rtnetlink::Error::NetlinkError(message))
                if matches!(
                    message.raw_code().abs(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH
                ) =>
            {
                return Err(no_route);
            }
            Err(source) => return Err(NextHopError::Netlink { address, source }),
        };
        let mut found = (None, address, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => found.0 = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                    found.1 = IpAddr::V4(*gateway);
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => {
                    found.1 = IpAddr::V6(*gateway);
                }
                RouteAttribute::Metrics(metrics) => {
                    found.2 = metrics.iter().find_map(|m| {
                        if let RouteMetric::Mtu(mtu) = m {
                            Some(*mtu)
                        } else {
                            None
                        }
                    });
                }
                _ => {}
            }
        }
        Ok((
            found.0.ok_or(no_route)?,
            found.1,
            found.2.filter(|mtu| *mtu > 0),
        ))
    }

    /// What is known of an interface, if it has a MAC address. A VLAN's is that of the NIC below it,
    /// with the tag.
    async fn link(&self, index: u32) -> Result<Option<Link>, rtnetlink::Error> {
        let Some(mut link) = self.one_link(index).await? else {
            return Ok(None);
        };
        let mut ids = Vec::new();
        while let Some((parent, id)) = link.below {
            ids.push(id);
            let Some(below) = self.one_link(parent).await? else {
                return Ok(None);
            };
            link = Link {
                mac: link.mac,
                mtu: link.mtu,
                ..below
            };
        }
        if ids.len() > VLAN_LIMIT {
            return Ok(None);
        }
        link.tags = ids
            .iter()
            .rev()
            .fold(VlanTags::default(), |tags, &id| tags.with_inner(id));
        Ok(Some(link))
    }

    async fn one_link(&self, index: u32) -> Result<Option<Link>, rtnetlink::Error> {
        let message = self
            .handle
            .link()
            .get()
            .match_index(index)
            .execute()
            .try_next()
            .await?;
        Ok(message.and_then(|message| Link::of(index, &message.attributes)))
    }

    /// All neighbours whose MAC addresses are known: asked for once for all backends, since the kernel
    /// tells only all of them.
    pub async fn neighbours(&self) -> Result<Neighbours, NextHopError> {
        let mut known = HashMap::new();
        let mut listed = self.handle.neighbours().get().execute();
        while let Some(neighbour) = listed.try_next().await.map_err(NextHopError::Neighbours)? {
            if let Some((address, mac)) = known_neighbour(&neighbour) {
                let permanent = neighbour.header.state == NeighbourState::Permanent;
                let entry = Neighbour { mac, permanent };
                known.insert((neighbour.header.ifindex, address), entry);
            }
        }
        Ok(Neighbours(known))
    }

    /// Asks the kernel to find a neighbour, or to make sure of one: what XDP sends does not tell it
    /// that the neighbour is in use.
    pub async fn wake(&self, interface: u32, address: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(interface, address)
            .flags(NeighbourFlags::Use)
            .replace();
        // No matter if it fails: the slow path's own packets wake the neighbour too.
        let _ = request.state(NeighbourState::None).execute().await;
    }

    /// Makes sure of the neighbour on the way to `address`, unless an operator has set it.
    pub async fn refresh(&self, address: IpAddr, neighbours: &Neighbours) {
        if let Ok((interface, gateway, _)) = self.route(address).await
            && !neighbours
                .0
                .get(&(interface, gateway))
                .is_some_and(|n| n.permanent)
        {
            self.wake(interface, gateway).await;
        }
    }
}

/// A neighbour's address and MAC address, if frames may be sent to it.
fn known_neighbour(neighbour: &NeighbourMessage) -> Option<(IpAddr, [u8; 6])> {
    if !usable(neighbour.header.state) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    address.zip(mac)
}

/// May frames be sent to a neighbour in this state?
fn usable(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}
