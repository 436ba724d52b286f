//! The rule, asked over a store: what a worker needs of the tables.

use std::{
    collections::HashMap,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, BackendRef, Event, Key, Policy, RING_SLOTS,
        Recent, SentByKey, Service, ServiceId, Slot,
    },
    hash::{self, Digest},
    rule::{self, Decision, Entry, Found},
    scan::REFUSAL_TAG,
    verdict::Verdict,
};
use tokio::sync::mpsc::Sender;
use tracing::warn;

use super::{
    counters::Counters,
    placement::{Message, Placed, Placement, Starting, Tables},
    store::Store,
};
use crate::{
    config::Overload,
    sip::address::{self, Text},
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

/// A store, the rule over it, and the slow path's counters.
pub struct Placer<S> {
    store: S,
    counters: Arc<Counters>,
    hash_key: [u64; 2],
    /// Key of the hash in To-tags of refusals, which strangers see and must not learn slots from.
    refusal_key: [u64; 2],
    recent_mask: u32,
    manners: ArcSwap<HashMap<ServiceId, Manners>>,
    /// Where unreachable backends are told.
    unreachable: OnceLock<Sender<BackendRef>>,
    /// Whose turn it is under policy `round-robin`, by service.
    turns: Vec<AtomicU32>,
}

impl<S: Store> Placer<S> {
    /// Over this store, for so many services and elements of `recent` (a power of two).
    pub fn new(
        store: S,
        counters: Arc<Counters>,
        hash_key: [u64; 2],
        services: u32,
        recent_entries: u32,
    ) -> Self {
        Self {
            store,
            counters,
            hash_key,
            refusal_key: [&b"refusal 1"[..], b"refusal 2"]
                .map(|label| hash::digest(hash_key, label).0),
            recent_mask: recent_entries - 1,
            manners: ArcSwap::default(),
            unreachable: OnceLock::new(),
            turns: (0..services).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    fn try_place(&self, id: ServiceId, message: &Message<'_>) -> Result<Placed, S::Error> {
        let service = self.store.service(id)?;
        let call = hash::digest(self.hash_key, message.call_id);
        let mut found = self.find(&service, message, call)?;
        let mut decision = rule::decide(&found);
        if !decision.backend.is_some() {
            let manners = self.manners.load();
            let manners = manners.get(&id);
            found.admit = self.last_resort(&service, message, call, manners);
            decision = rule::decide(&found);
            if !decision.backend.is_some() {
                return Ok(refusal(message, manners));
            }
            if message.start.is_some() {
                decision.verdict = Verdict::ForwardedEmergency;
            }
        }
        let backend = self.store.backend(decision.backend)?;
        self.remember(&service, call, decision, found.entry, &backend)?;
        self.counters.to_backend(decision.backend);
        Ok(Placed::To(Placement {
            backend: backend.endpoint.into(),
            verdict: decision.verdict,
        }))
    }

    /// Who gets what is never refused while a backend lives, though none takes new calls: emergency
    /// calls, and messages of calls whose home is dead. The home if it lives, else anybody.
    fn last_resort(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
        manners: Option<&Manners>,
    ) -> BackendId {
        let Some(manners) = manners else {
            return BackendId::NONE;
        };
        let may_be_refused =
            |start: Starting<'_>| !address::is_emergency(start.uri, &manners.emergency);
        if message.start.is_some_and(may_be_refused) {
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
    ) -> Result<Found, S::Error> {
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
    ) -> Result<Slot, S::Error> {
        if service.policy == Policy::ROUND_ROBIN
            && let Some(turns) = self.turns.get(usize::from(service.id.0))
        {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            return self.store.slot(service, turn % RING_SLOTS);
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

    fn slot(&self, service: &Service, call: Digest) -> Result<Slot, S::Error> {
        self.store.slot(service, call.slot())
    }

    fn live(&self, service: &Service, id: BackendId) -> BackendId {
        match self.store.backend(id) {
            Ok(b) if b.flags.has(BackendFlags::ALIVE) && b.service == service.id => id,
            _ => BackendId::NONE,
        }
    }

    fn entry(&self, service: &Service, call: Digest) -> Result<(Entry, BackendId), S::Error> {
        let Some(entry) = self.store.call(service, call)? else {
            return Ok((Entry::Absent, BackendId::NONE));
        };
        let same = self
            .store
            .backend(entry.backend)
            .is_ok_and(|b| b.incarnation == entry.incarnation);
        let known = self.live(service, entry.backend);
        Ok(if same && known.is_some() {
            (Entry::Live, known)
        } else {
            (Entry::Stale, BackendId::NONE)
        })
    }

    fn named(&self, service: &Service, host: Option<(&[u8], u16)>) -> Result<BackendId, S::Error> {
        let Some((text, port)) = host else {
            return Ok(BackendId::NONE);
        };
        let key = SentByKey::new(hash::digest(self.hash_key, &canonical(text)).0, port);
        Ok(match self.store.named(&key)? {
            Some(name) if name.service == service.id => self.live(service, name.backend),
            _ => BackendId::NONE,
        })
    }

    fn recent(&self, service: &Service, call: Digest) -> Result<BackendId, S::Error> {
        let seen = self
            .store
            .recent(call.recent_index(service.id, self.recent_mask))?;
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
    ) -> Result<(), S::Error> {
        let now = seconds();
        if decision.remember_start {
            let fingerprint = call.fingerprint(service.id);
            let index = call.recent_index(service.id, self.recent_mask);
            let old = self.store.recent(index)?;
            if old.counts(now as u16) && !old.is_of(fingerprint) {
                self.counters.event(Event::RECENT_EVICTED);
            }
            let seen = Recent::new(fingerprint, now as u16, decision.backend);
            self.store.set_recent(index, seen)?;
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
            self.store.remember_call(service, call, entry)?;
        }
        Ok(())
    }
}

/// Tables whose manners the daemon sets.
pub trait Managed: Tables {
    /// Tells how services behave when nobody takes new calls. Those not named drop them.
    fn set_manners(&self, manners: HashMap<ServiceId, Manners>);

    /// Tells here from now on which backends messages did not reach.
    fn tell_unreachable(&self, to: Sender<BackendRef>);
}

impl<S: Store> Managed for Placer<S> {
    fn set_manners(&self, manners: HashMap<ServiceId, Manners>) {
        self.manners.store(Arc::new(manners));
    }

    fn tell_unreachable(&self, to: Sender<BackendRef>) {
        // Only the daemon asks for it, once.
        let _ = self.unreachable.set(to);
    }
}

impl<S: Store> Tables for Placer<S> {
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

    fn is_backend(&self, service: ServiceId, source: SocketAddr) -> bool {
        matches!(self.store.origin(source), Ok(Some(origin)) if origin.service == service)
    }

    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr> {
        let origin = self.store.origin(source).ok()??;
        Some(self.store.service(origin.service).ok()?.vip.into())
    }

    fn unreachable(&self, service: ServiceId, destination: SocketAddr) {
        if let (Some(told), Ok(Some(origin))) =
            (self.unreachable.get(), self.store.origin(destination))
            && origin.service == service
        {
            // Where there is no room, others have told of it.
            let _ = told.try_send(origin);
        }
    }

    fn takes_calls(&self, service: ServiceId) -> bool {
        let Ok(service) = self.store.service(service) else {
            return false;
        };
        // Any slot that admits somebody will do; with somebody open, all of them admit somebody.
        self.slot(&service, Digest(0))
            .is_ok_and(|slot| self.live(&service, slot.admit()).is_some())
    }

    fn is_own_name(&self, service: ServiceId, host: &[u8], port: u16) -> bool {
        let key = SentByKey::new(hash::digest(self.hash_key, &canonical(host)).0, port);
        matches!(self.store.named(&key), Ok(Some(name)) if name.service == service && !name.backend.is_some())
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
pub fn canonical(host: &[u8]) -> Text {
    let inner = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]"));
    let address = inner.and_then(|text| {
        std::str::from_utf8(text)
            .ok()?
            .parse::<std::net::Ipv6Addr>()
            .ok()
    });
    let Some(address) = address else {
        return address::lower_case(host);
    };
    let mut text = Text::new();
    // Memory takes everything.
    drop(write!(text, "[{address}]"));
    text
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
