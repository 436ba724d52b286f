//! Making the maps say what the configuration says, while packets read them.
//!
//! The order matters: a table is filled before anything refers to it, and a ring is written to the
//! generation nobody reads before the one word that makes it the live one.

use std::collections::HashMap;

use sip_forwarder_ebpf::{
    abi::{
        Backend, BackendFlags, BackendId, BackendRef, Endpoint, Globals, HINT_LINES_PER_SERVICE,
        LINES_PER_RING, RingLine, SLOTS_PER_LINE, SentByKey, Service, ServiceId, Slot,
    },
    hash,
};

use super::{Maps, MapsError, nexthop::NextHop};
use crate::{
    config::{self, Config},
    control::numbering::{Number, Numbering},
    slowpath::canonical,
};

/// A service with the numbers of all it consists of.
struct Numbered<'a> {
    id: ServiceId,
    service: &'a config::Service,
    backends: Vec<(Number, &'a config::Backend)>,
}

/// Writes the backends that are configured. Next hops come next, then [`services`].
pub fn backends(maps: &Maps, config: &Config, numbering: &Numbering) -> Result<(), MapsError> {
    for (index, wanted) in wanted_backends(&all_numbered(config, numbering)) {
        let there = maps.backends.get(index.into())?;
        let same = there.endpoint == wanted.endpoint && there.incarnation == wanted.incarnation;
        // One that was there before keeps its next hop.
        if !same || there.service != wanted.service {
            maps.backends.set(index.into(), wanted)?;
        }
    }
    Ok(())
}

/// Makes everything point to the backends, and then clears those that are no longer configured.
/// `columns` gives the slots of each service's ring.
pub fn services(
    maps: &Maps,
    config: &Config,
    numbering: &Numbering,
    hash_key: [u64; 2],
    columns: &mut dyn FnMut(&config::Service) -> Vec<Slot>,
) -> Result<(), MapsError> {
    let services = all_numbered(config, numbering);
    maps.globals.set(0, globals(config, hash_key))?;
    for service in &services {
        let slots = columns(service.service);
        write_ring(maps, service.id, &slots, Some(service_entry(service)))?;
    }
    maps.sources.replace(&sources(&services))?;
    maps.sent_by.replace(&names(&services, hash_key))?;
    maps.vips.replace(&vips(&services))?;
    let wanted = wanted_backends(&services);
    for index in 0..config.limits.backends {
        let is_old = !wanted.contains_key(&(index as u16));
        if is_old && maps.backends.get(index)? != Backend::default() {
            maps.backends.set(index, Backend::default())?;
        }
    }
    Ok(())
}

fn all_numbered<'a>(config: &'a Config, numbering: &Numbering) -> Vec<Numbered<'a>> {
    config
        .services
        .iter()
        .filter_map(|s| numbered(s, numbering))
        .collect()
}

fn numbered<'a>(service: &'a config::Service, numbering: &Numbering) -> Option<Numbered<'a>> {
    let backends = service
        .backends
        .iter()
        .filter_map(|b| Some((numbering.backend(&service.name, &b.name, b.address)?, b)))
        .collect();
    Some(Numbered {
        id: ServiceId(numbering.service(&service.name)?),
        service,
        backends,
    })
}

fn globals(config: &Config, hash_key: [u64; 2]) -> Globals {
    let recent = config.limits.recent_entries.next_power_of_two();
    Globals {
        hash_key,
        recent_mask: recent - 1,
        ..Globals::default()
    }
}

/// Every configured backend, by its number.
fn wanted_backends(services: &[Numbered<'_>]) -> HashMap<u16, Backend> {
    let mut wanted = HashMap::new();
    for service in services {
        for (number, backend) in &service.backends {
            let mut entry = Backend::new(backend.address.into(), service.id, number.incarnation);
            entry.flags = BackendFlags(BackendFlags::ALIVE);
            wanted.insert(number.index, entry);
        }
    }
    wanted
}

/// Writes a service's ring where nobody reads, and makes it the live one. Where the service stands
/// in `entry` it is described anew with it, else only its ring changes.
fn write_ring(
    maps: &Maps,
    id: ServiceId,
    slots: &[Slot],
    entry: Option<Service>,
) -> Result<(), MapsError> {
    let index = u32::from(id.0);
    let first = index * 2 * LINES_PER_RING;
    let there = maps.services.get(index)?;
    let idle = if there.ring == first {
        first + LINES_PER_RING
    } else {
        first
    };
    for (index, chunk) in slots.chunks(SLOTS_PER_LINE as usize).enumerate() {
        let mut packed = RingLine([Slot::EMPTY; SLOTS_PER_LINE as usize]);
        packed.0[..chunk.len()].copy_from_slice(chunk);
        maps.rings.set(idle + index as u32, packed)?;
    }
    let mut entry = entry.unwrap_or(there);
    entry.ring = idle;
    maps.services.set(index, entry)
}

/// Replaces the ring of a service that is published already.
pub fn ring(maps: &Maps, id: ServiceId, slots: &[Slot]) -> Result<(), MapsError> {
    write_ring(maps, id, slots, None)
}

/// Tells the program whether a backend may have messages.
pub fn set_alive(maps: &Maps, backend: BackendId, alive: bool) -> Result<(), MapsError> {
    let index = u32::from(backend.0);
    let mut entry = maps.backends.get(index)?;
    let flags = if alive {
        entry.flags.0 | BackendFlags::ALIVE
    } else {
        entry.flags.0 & !BackendFlags::ALIVE
    };
    if flags == entry.flags.0 {
        return Ok(());
    }
    entry.flags.0 = flags;
    maps.backends.set(index, entry)
}

/// All of a service's entry but its ring.
fn service_entry(numbered: &Numbered<'_>) -> Service {
    Service {
        ring: 0,
        hints: u32::from(numbered.id.0) * HINT_LINES_PER_SERVICE,
        vip: numbered.service.vip.into(),
        key: numbered.service.key.into(),
        register_key: numbered.service.register_key.into(),
        id: numbered.id,
        policy: numbered.service.spread.policy.into(),
        zero: [0; 3],
    }
}

/// Each endpoint with its port, and with port 0 for packets that show none.
fn with_and_without_port(endpoint: std::net::SocketAddr) -> [Endpoint; 2] {
    let mut bare = endpoint;
    bare.set_port(0);
    [endpoint.into(), bare.into()]
}

fn vips(services: &[Numbered<'_>]) -> HashMap<Endpoint, BackendRef> {
    let entry = |s: &Numbered<'_>| BackendRef {
        service: s.id,
        backend: BackendId::NONE,
    };
    services
        .iter()
        .flat_map(|s| with_and_without_port(s.service.vip).map(|e| (e, entry(s))))
        .collect()
}

fn backend_refs<'a>(
    services: &'a [Numbered<'a>],
) -> impl Iterator<Item = (&'a config::Backend, BackendRef)> {
    services.iter().flat_map(|s| {
        s.backends.iter().map(|(number, b)| {
            (
                *b,
                BackendRef {
                    service: s.id,
                    backend: number.id(),
                },
            )
        })
    })
}

fn sources(services: &[Numbered<'_>]) -> HashMap<Endpoint, BackendRef> {
    backend_refs(services)
        .flat_map(|(b, entry)| with_and_without_port(b.address).map(|e| (e, entry)))
        .collect()
}

/// The texts by which Via and Route name the VIPs and the backends.
fn names(services: &[Numbered<'_>], hash_key: [u64; 2]) -> HashMap<SentByKey, BackendRef> {
    let vips = services.iter().map(|s| {
        (
            s.service.vip,
            BackendRef {
                service: s.id,
                backend: BackendId::NONE,
            },
        )
    });
    let backends = backend_refs(services).map(|(b, entry)| (b.address, entry));
    vips.chain(backends)
        .map(|(address, entry)| {
            let text = match address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let host = hash::digest(hash_key, &canonical(text.as_bytes())).0;
            (SentByKey::new(host, address.port()), entry)
        })
        .collect()
}

/// Tells the program how to reach a backend, or that there is no way.
pub fn set_next_hop(
    maps: &Maps,
    backend: BackendId,
    next_hop: Option<&NextHop>,
) -> Result<(), MapsError> {
    let index = u32::from(backend.0);
    let mut entry = maps.backends.get(index)?;
    match next_hop {
        Some(hop) => {
            maps.allow_interface(hop.interface)?;
            entry.macs = hop.macs;
            entry.mtu = hop.mtu;
            entry.tags = hop.tags;
            entry.interface = hop.interface;
            entry.flags.0 |= BackendFlags::RESOLVED;
        }
        None => entry.flags.0 &= !BackendFlags::RESOLVED,
    }
    maps.backends.set(index, entry)
}
