//! The kernel's tables, as the workers see them: the same maps, the same rule.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, Event, HINTS_PER_LINE, HintLine, Key, Policy,
        RING_SLOTS, Recent, SLOTS_PER_LINE, SentByKey, Service, ServiceId, Slot,
    },
    hash::{self, Digest},
    rule::{self, Decision, Entry, Found},
    scan::REFUSAL_TAG,
    verdict::Verdict,
};
use tracing::warn;

use super::{Maps, MapsError, counters::Counters};
use crate::{
    config::Overload,
    sip::address,
    slowpath::placement::{Message, Placed, Placement, Starting, Tables},
};

/// What the workers must know of a service beyond the maps.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// What happens to new calls when nobody takes them.
    pub overload: Overload,
    /// `Retry-After` of a refusal, in seconds.
    pub retry_after: u16,
    /// Users of Request-URIs that are emergency calls.
    pub emergency: Vec<String>,
    /// All its backends.
    pub backends: Vec<BackendId>,
}

/// The maps and the slow path's counters.
pub struct KernelTables {
    maps: Arc<Maps>,
    counters: Arc<Counters>,
    hash_key: [u64; 2],
    /// Key of the hash in To-tags of refusals, which strangers see and must not learn slots from.
    refusal_key: [u64; 2],
    recent_mask: u32,
    manners: ArcSwap<HashMap<ServiceId, Manners>>,
    /// Whose turn it is under policy `round-robin`, by service.
    turns: Vec<AtomicU32>,
}

impl KernelTables {
    /// Over these maps, whose globals are set, for so many services.
    pub fn new(maps: Arc<Maps>, counters: Arc<Counters>, services: u32) -> Result<Self, MapsError> {
        let globals = maps.globals.get(0)?;
        let hash_key = globals.hash_key;
        Ok(Self {
            maps,
            counters,
            hash_key,
            refusal_key: [&b"refusal 1"[..], b"refusal 2"]
                .map(|label| hash::digest(hash_key, label).0),
            recent_mask: globals.recent_mask,
            manners: ArcSwap::default(),
            turns: (0..services).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// Tells how services behave when nobody takes new calls. Those not named drop them.
    pub fn set_manners(&self, manners: HashMap<ServiceId, Manners>) {
        self.manners.store(Arc::new(manners));
    }

    fn try_place(&self, id: ServiceId, message: &Message<'_>) -> Result<Placed, MapsError> {
        let service = self.maps.services.get(u32::from(id.0))?;
        let call = hash::digest(self.hash_key, message.call_id);
        let mut found = self.find(&service, message, call)?;
        let mut decision = rule::decide(&found);
        if !decision.backend.is_some() {
            let manners = self.manners.load();
            let manners = manners.get(&id);
            let saviour = self.emergency_backend(&service, message, call, manners);
            if !saviour.is_some() {
                return Ok(refusal(message, manners));
            }
            found.admit = saviour;
            decision = Decision {
                verdict: Verdict::ForwardedEmergency,
                ..rule::decide(&found)
            };
        }
        let backend = self.maps.backends.get(u32::from(decision.backend.0))?;
        self.remember(&service, call, decision, found.entry, &backend)?;
        self.counters.to_backend(decision.backend);
        Ok(Placed::To(Placement {
            backend: backend.endpoint.into(),
            verdict: decision.verdict,
        }))
    }

    /// Who gets an emergency call that nobody takes: its home if that lives, else anybody who lives.
    fn emergency_backend(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
        manners: Option<&Manners>,
    ) -> BackendId {
        let (Some(start), Some(manners)) = (message.start, manners) else {
            return BackendId::NONE;
        };
        if !address::is_emergency(start.uri, &manners.emergency) {
            return BackendId::NONE;
        }
        let home = self
            .slot(service, call)
            .map_or(BackendId::NONE, |slot| self.live(service, slot.home()));
        let live: Vec<BackendId> = manners
            .backends
            .iter()
            .copied()
            .filter(|&id| self.live(service, id).is_some())
            .collect();
        let other = live.get(call.0 as usize % live.len().max(1));
        home.or(other.copied().unwrap_or(BackendId::NONE))
    }

    fn find(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
    ) -> Result<Found, MapsError> {
        let slot = self.slot(service, call)?;
        let (entry, known) = self.entry(service, call)?;
        let recent = if message.role.starts() {
            self.recent(service, call)?
        } else {
            BackendId::NONE
        };
        // A turn is taken only by a call that the policy places.
        let chosen = match message.start {
            Some(start) if !recent.is_some() => self.chosen_slot(service, &start, slot)?,
            _ => slot,
        };
        Ok(Found {
            role: message.role,
            entry,
            known,
            named: self.named(service, message.host)?,
            recent,
            admit: self.live(service, chosen.admit()),
            home: self.live(service, slot.home()),
            slot,
        })
    }

    /// The slot whose `admit` a new call gets, by the service's policy and key.
    fn chosen_slot(
        &self,
        service: &Service,
        start: &Starting<'_>,
        own: Slot,
    ) -> Result<Slot, MapsError> {
        if service.policy == Policy::ROUND_ROBIN
            && let Some(turns) = self.turns.get(usize::from(service.id.0))
        {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            return self.slot_at(service, turn % RING_SLOTS);
        }
        let key = if start.method == b"REGISTER" {
            service.register_key
        } else {
            service.key
        };
        let value = match key {
            Key::TO => start.to,
            Key::FROM => start.from,
            Key::REQUEST_URI => start.uri,
            _ => return Ok(own),
        };
        let record = address::address_of_record(value);
        self.slot(service, hash::digest(self.hash_key, &record))
    }

    fn slot(&self, service: &Service, call: Digest) -> Result<Slot, MapsError> {
        self.slot_at(service, call.slot())
    }

    fn slot_at(&self, service: &Service, slot: u32) -> Result<Slot, MapsError> {
        let line = self.maps.rings.get(service.ring + slot / SLOTS_PER_LINE)?;
        Ok(line.0[(slot % SLOTS_PER_LINE) as usize])
    }

    fn backend(&self, id: BackendId) -> Option<Backend> {
        self.maps.backends.get(u32::from(id.0)).ok()
    }

    fn live(&self, service: &Service, id: BackendId) -> BackendId {
        match self.backend(id) {
            Some(b) if b.flags.has(BackendFlags::ALIVE) && b.service == service.id => id,
            _ => BackendId::NONE,
        }
    }

    fn entry(&self, service: &Service, call: Digest) -> Result<(Entry, BackendId), MapsError> {
        let Some(entry) = self.maps.affinity.get(&call.affinity_key(service.id))? else {
            return Ok((Entry::Absent, BackendId::NONE));
        };
        let same = self
            .backend(entry.backend)
            .is_some_and(|b| b.incarnation == entry.incarnation);
        let known = self.live(service, entry.backend);
        Ok(if same && known.is_some() {
            (Entry::Live, known)
        } else {
            (Entry::Stale, BackendId::NONE)
        })
    }

    fn named(&self, service: &Service, host: Option<(&[u8], u16)>) -> Result<BackendId, MapsError> {
        let Some((text, port)) = host else {
            return Ok(BackendId::NONE);
        };
        let key = SentByKey::new(hash::digest(self.hash_key, &canonical(text)).0, port);
        Ok(match self.maps.sent_by.get(&key)? {
            Some(name) if name.service == service.id => self.live(service, name.backend),
            _ => BackendId::NONE,
        })
    }

    fn recent(&self, service: &Service, call: Digest) -> Result<BackendId, MapsError> {
        let seen = self
            .maps
            .recent
            .get(call.recent_index(service.id, self.recent_mask))?;
        Ok(self.live(
            service,
            seen.backend_of(call.fingerprint(service.id), seconds() as u16),
        ))
    }

    fn remember(
        &self,
        service: &Service,
        call: Digest,
        decision: Decision,
        entry: Entry,
        backend: &Backend,
    ) -> Result<(), MapsError> {
        let now = seconds();
        if decision.remember_start {
            let fingerprint = call.fingerprint(service.id);
            let index = call.recent_index(service.id, self.recent_mask);
            let old = self.maps.recent.get(index)?;
            if old.counts(now as u16) && !old.is_of(fingerprint) {
                self.counters.event(Event::RECENT_EVICTED);
            }
            let seen = Recent::new(fingerprint, now as u16, decision.backend);
            self.maps.recent.set(index, seen)?;
        }
        if decision.remember_call {
            if entry == Entry::Absent {
                self.counters.event(Event::AFFINITY_ADDED);
            }
            let entry = Affinity {
                backend: decision.backend,
                incarnation: backend.incarnation,
                second: now,
            };
            self.maps
                .affinity
                .insert(&call.affinity_key(service.id), &entry)?;
            let index = service.hints + call.slot() / HINTS_PER_LINE;
            // The whole line: XDP may set another hint of it meanwhile, which must not be lost. A
            // hint too many costs a lookup, and hints are never taken back.
            let marked = HintLine([1; HINTS_PER_LINE as usize]);
            if self.maps.hints.get(index)? != marked {
                self.maps.hints.set(index, marked)?;
            }
        }
        Ok(())
    }
}

impl Tables for KernelTables {
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Placed {
        self.try_place(service, message).unwrap_or_else(|error| {
            warn!(%error, "a message could not be placed");
            Placed::Dropped(Verdict::DroppedTableFault)
        })
    }

    fn refusal_tag(&self, call_id: &[u8]) -> String {
        let digest = hash::digest(self.refusal_key, call_id).0;
        format!("{}{digest:016x}", String::from_utf8_lossy(&REFUSAL_TAG))
    }

    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr> {
        let origin = self.maps.sources.get(&source.into()).ok()??;
        let service = self.maps.services.get(u32::from(origin.service.0)).ok()?;
        Some(service.vip.into())
    }

    fn takes_calls(&self, service: ServiceId) -> bool {
        let Ok(service) = self.maps.services.get(u32::from(service.0)) else {
            return false;
        };
        // Any slot that admits somebody will do; with somebody open, all of them admit somebody.
        self.slot(&service, Digest(0))
            .is_ok_and(|slot| self.live(&service, slot.admit()).is_some())
    }

    fn is_own_name(&self, service: ServiceId, host: &[u8], port: u16) -> bool {
        let key = SentByKey::new(hash::digest(self.hash_key, &canonical(host)).0, port);
        matches!(self.maps.sent_by.get(&key), Ok(Some(name)) if name.service == service && !name.backend.is_some())
    }

    fn count(&self, verdict: Verdict) {
        self.counters.verdict(verdict);
    }
}

/// What becomes of a message that no backend may have.
fn refusal(message: &Message<'_>, manners: Option<&Manners>) -> Placed {
    match manners {
        Some(manners) if message.start.is_some() => match manners.overload {
            Overload::Reject => Placed::Refused {
                retry_after: manners.retry_after,
            },
            Overload::Drop => Placed::Dropped(Verdict::DroppedOverload),
        },
        _ => Placed::Dropped(Verdict::DroppedNoBackend),
    }
}

/// A host's text as the sent-by map knows it: lower case, and an IPv6 address in its one canonical
/// form (RFC 5952) whatever way it was written.
#[must_use]
pub(super) fn canonical(host: &[u8]) -> Vec<u8> {
    let inner = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]"));
    let address = inner.and_then(|text| {
        std::str::from_utf8(text)
            .ok()?
            .parse::<std::net::Ipv6Addr>()
            .ok()
    });
    match address {
        Some(address) => format!("[{address}]").into_bytes(),
        None => host.to_ascii_lowercase(),
    }
}

/// Seconds of the monotonic clock, as the program reads it.
#[must_use]
pub fn seconds() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists and the time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u32
}
