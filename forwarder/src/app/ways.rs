//! The ways to all backends: found at the start, followed through netlink, told to the program.

use anyhow::Context as _;
use sip_forwarder_ebpf::abi::BackendId;
use tracing::{info, warn};

use crate::{
    config::Config,
    control::numbering::Numbering,
    dataplane::{
        Maps, environment,
        nexthop::{NextHop, Resolver},
        publish,
    },
};

/// After how many calls of [`Ways::ask`] the others are made sure of: what XDP sends does not tell the
/// kernel that a neighbour is in use.
const ASSURE: u32 = 15;

/// A backend and the way to it.
struct Way {
    name: String,
    id: BackendId,
    address: std::net::IpAddr,
    next_hop: Option<NextHop>,
}

/// What a backend without a route means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unroutable {
    /// A fault of the configuration.
    Refuse,
    /// The slow path tries, and the log says so.
    Warn,
}

/// The ways to all backends.
pub(super) struct Ways {
    all: Vec<Way>,
    /// Interfaces the program is attached to: only by these may the fast path send.
    interfaces: Vec<u32>,
    /// How often neighbours were asked for.
    asked: u32,
}

impl Ways {
    /// Looks all of them up. A backend without a route is a fault of the configuration.
    pub(super) async fn find(
        config: &Config,
        numbering: &Numbering,
        resolver: &Resolver,
        unroutable: Unroutable,
    ) -> anyhow::Result<Self> {
        let interfaces = config
            .forwarder
            .interfaces
            .iter()
            .filter_map(|name| environment::interface_index(name))
            .collect();
        let mut found = Self {
            all: Vec::new(),
            interfaces,
            asked: 0,
        };
        let neighbours = resolver.neighbours().await?;
        for service in &config.services {
            for backend in &service.backends {
                let name = format!("service `{}`, backend `{}`", service.name, backend.name);
                let address = backend.address.ip();
                let next_hop = match resolver.resolve(address, &neighbours).await {
                    Ok(next_hop) => next_hop,
                    Err(error) if unroutable == Unroutable::Warn => {
                        warn!(backend = name, %address, %error, "there is no way to it");
                        None
                    }
                    Err(error) => return Err(error).context(name),
                };
                let Some(number) = numbering.backend(&service.name, &backend.name, backend.address)
                else {
                    continue;
                };
                let mut way = Way {
                    name,
                    id: number.id(),
                    address,
                    next_hop: None,
                };
                way.next_hop = found.usable(&way, next_hop);
                if way.next_hop.is_none() {
                    warn!(backend = way.name, %address, "its next hop is not resolved yet; the slow path has it until then");
                }
                found.all.push(way);
            }
        }
        Ok(found)
    }

    /// The next hop, if the fast path can send by its interface.
    fn usable(&self, way: &Way, next_hop: Option<NextHop>) -> Option<NextHop> {
        let hop = next_hop?;
        if !self.interfaces.contains(&hop.interface) {
            warn!(
                backend = way.name,
                interface = hop.interface,
                "the way to it leaves by an interface that is not in forwarder.interfaces; the slow path has it"
            );
            return None;
        }
        Some(hop)
    }

    pub(super) fn publish(&self, maps: &Maps) -> anyhow::Result<()> {
        for way in &self.all {
            publish::set_next_hop(maps, way.id, way.next_hop.as_ref())?;
        }
        Ok(())
    }

    /// Looks all of them up again and tells the program what changed.
    pub(super) async fn follow(&mut self, resolver: &Resolver, maps: &Maps) -> anyhow::Result<()> {
        let neighbours = resolver.neighbours().await?;
        for index in 0..self.all.len() {
            let found = match resolver.resolve(self.all[index].address, &neighbours).await {
                Ok(found) => self.usable(&self.all[index], found),
                Err(error) => {
                    warn!(backend = self.all[index].name, %error, "the way is lost");
                    None
                }
            };
            let way = &mut self.all[index];
            if way.next_hop != found {
                info!(backend = way.name, next_hop = ?found, "the way changed");
                publish::set_next_hop(maps, way.id, found.as_ref())?;
                way.next_hop = found;
            }
        }
        Ok(())
    }

    /// Has the kernel ask for neighbours that are not resolved, and now and then for all.
    pub(super) async fn ask(&mut self, resolver: &Resolver) {
        let everybody = self.asked.is_multiple_of(ASSURE);
        self.asked = self.asked.wrapping_add(1);
        let wanted: Vec<&Way> = self
            .all
            .iter()
            .filter(|way| everybody || way.next_hop.is_none())
            .collect();
        if wanted.is_empty() {
            return;
        }
        let neighbours = resolver.neighbours().await.unwrap_or_default();
        for way in wanted {
            resolver.refresh(way.address, &neighbours).await;
        }
    }
}
