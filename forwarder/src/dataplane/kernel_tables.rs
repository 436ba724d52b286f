//! The kernel's tables, as the workers see them: the same maps, the same rule.

use std::{net::SocketAddr, sync::Arc};

use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, HINTS_PER_LINE, HintLine, Recent,
        SLOTS_PER_LINE, SentByKey, Service, ServiceId, Slot,
    },
    hash::{self, Digest},
    rule::{self, Decision, Entry, Found},
    verdict::Verdict,
};
use tracing::warn;

use super::{Maps, MapsError, counters::Counters};
use crate::slowpath::placement::{Message, Placement, Tables};

/// The maps and the slow path's counters.
pub struct KernelTables {
    maps: Arc<Maps>,
    counters: Arc<Counters>,
    hash_key: [u64; 2],
    recent_mask: u32,
}

impl KernelTables {
    /// Over these maps, whose globals are set.
    pub fn new(maps: Arc<Maps>, counters: Arc<Counters>) -> Result<Self, MapsError> {
        let globals = maps.globals.get(0)?;
        Ok(Self {
            maps,
            counters,
            hash_key: globals.hash_key,
            recent_mask: globals.recent_mask,
        })
    }

    fn try_place(
        &self,
        id: ServiceId,
        message: &Message<'_>,
    ) -> Result<Option<Placement>, MapsError> {
        let service = self.maps.services.get(u32::from(id.0))?;
        let call = hash::digest(self.hash_key, message.call_id);
        let found = self.find(&service, message, call)?;
        let decision = rule::decide(&found);
        if !decision.backend.is_some() {
            return Ok(None);
        }
        let backend = self.maps.backends.get(u32::from(decision.backend.0))?;
        self.remember(&service, call, decision, &backend)?;
        self.counters.to_backend(decision.backend);
        Ok(Some(Placement {
            backend: backend.endpoint.into(),
            verdict: decision.verdict,
        }))
    }

    fn find(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
    ) -> Result<Found, MapsError> {
        let slot = self.slot(service, call)?;
        let (entry, known) = self.entry(service, call)?;
        Ok(Found {
            role: message.role,
            entry,
            known,
            named: self.named(service, message.host)?,
            recent: if message.role.starts() {
                self.recent(service, call)?
            } else {
                BackendId::NONE
            },
            admit: self.live(service, slot.admit()),
            home: self.live(service, slot.home()),
            slot,
        })
    }

    fn slot(&self, service: &Service, call: Digest) -> Result<Slot, MapsError> {
        let slot = call.slot();
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
            seen.backend_of(call.fingerprint(service.id), monotonic_seconds() as u16),
        ))
    }

    fn remember(
        &self,
        service: &Service,
        call: Digest,
        decision: Decision,
        backend: &Backend,
    ) -> Result<(), MapsError> {
        let now = monotonic_seconds();
        if decision.remember_start {
            let seen = Recent::new(call.fingerprint(service.id), now as u16, decision.backend);
            self.maps
                .recent
                .set(call.recent_index(service.id, self.recent_mask), seen)?;
        }
        if decision.remember_call {
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
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Option<Placement> {
        self.try_place(service, message).unwrap_or_else(|error| {
            warn!(%error, "a message could not be placed");
            None
        })
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
pub(super) fn monotonic_seconds() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists and the time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u32
}
