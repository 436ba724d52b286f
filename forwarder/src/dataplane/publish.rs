//! Making the maps say what the configuration says, while packets read them.
//!
//! The order matters: a table is filled before anything refers to it, and a ring is written to the
//! generation nobody reads before the one word that makes it the live one.

use sip_forwarder_ebpf::abi::{
    AddressFilter, Backend, BackendFlags, BackendId, Endpoint, Globals, LINES_PER_RING, RingLine,
    SLOTS_PER_LINE, Service, ServiceId, Slot,
};

use super::{Maps, MapsError, contents::Contents, nexthop::NextHop};
use crate::{
    config::{self, Config},
    control::numbering::Numbering,
};

/// Writes the backends that are configured. Next hops come next, then [`services`].
pub fn backends(maps: &Maps, config: &Config, numbering: &Numbering) -> Result<(), MapsError> {
    for (index, wanted) in Contents::of(config, numbering, [0; 2]).backends() {
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
    let contents = Contents::of(config, numbering, hash_key);
    let (vips, sources) = (contents.vips(), contents.sources());
    let there = maps.globals.get(0)?;
    let wanted = Globals {
        ways: there.ways,
        vips: filter(vips.keys()),
        sources: filter(sources.keys()),
        ..globals(config, hash_key)
    };
    // Until the maps are replaced, what is old counts beside what is new.
    let both = Globals {
        vips: wanted.vips.and(&there.vips),
        sources: wanted.sources.and(&there.sources),
        ..wanted
    };
    maps.globals.set(0, both)?;
    for service in &contents.services {
        let slots = columns(service.service);
        write_ring(maps, service.id, &slots, Some(service.entry()))?;
    }
    maps.sources.replace(&sources)?;
    maps.sent_by.replace(&contents.names())?;
    maps.vips.replace(&vips)?;
    maps.globals.set(0, wanted)?;
    let wanted = contents.backends();
    for index in 0..config.limits.backends {
        let is_old = !wanted.contains_key(&(index as u16));
        if is_old && maps.backends.get(index)? != Backend::default() {
            maps.backends.set(index, Backend::default())?;
        }
    }
    Ok(())
}

/// What the program asks before it looks into a map.
fn filter<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> AddressFilter {
    endpoints.fold(AddressFilter::EMPTY, |filter, endpoint| {
        filter.with(&endpoint.address)
    })
}

fn globals(config: &Config, hash_key: [u64; 2]) -> Globals {
    Globals {
        hash_key,
        recent_mask: config.limits.recent_lines() - 1,
        ..Globals::default()
    }
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

/// Makes the program ask the kernel anew for the way to each client: routes, neighbours or links
/// changed.
pub fn forget_ways(maps: &Maps) -> Result<(), MapsError> {
    let there = maps.globals.get(0)?;
    let ways = there.ways.wrapping_add(1);
    maps.globals.set(0, Globals { ways, ..there })
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
