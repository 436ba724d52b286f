//! The kernel's maps as the workers' store: the same that the XDP program reads and writes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendId, BackendRef, HINTS_PER_LINE, SLOTS_PER_LINE, SentByKey,
        Service, ServiceId, Slot,
    },
    hash::Digest,
};

use super::{Maps, MapsError};
use crate::slowpath::{
    Placer,
    recent::Line,
    store::{Store, View},
};

/// The workers' tables over the kernel's maps.
pub type KernelTables = Placer<KernelStore>;

/// The kernel's maps.
pub struct KernelStore(pub Arc<Maps>);

impl KernelStore {
    /// Returns the hint of a call's slot.
    fn hint(&self, service: &Service, call: Digest) -> Result<&AtomicU8, MapsError> {
        let slot = call.slot();
        let index = service.hints + slot / HINTS_PER_LINE;
        let line = self.0.hints.get(index).ok_or(MapsError::Beyond {
            name: "HINTS",
            index,
        })?;
        Ok(&line.0[(slot % HINTS_PER_LINE) as usize])
    }
}

impl Store for KernelStore {
    type Error = MapsError;
    type View<'a> = &'a Self;

    fn look(&self) -> &Self {
        self
    }
}

impl View for &KernelStore {
    type Error = MapsError;

    fn service(&self, id: ServiceId) -> Result<Service, MapsError> {
        self.0.services.get(u32::from(id.0))
    }

    fn slot(&self, service: &Service, slot: u32) -> Result<Slot, MapsError> {
        let line = self.0.rings.get(service.ring + slot / SLOTS_PER_LINE)?;
        Ok(line.0[(slot % SLOTS_PER_LINE) as usize])
    }

    fn backend(&self, id: BackendId) -> Result<Backend, MapsError> {
        self.0.backends.get(u32::from(id.0))
    }

    fn call(&self, service: &Service, call: Digest) -> Result<Option<Affinity>, MapsError> {
        if self.hint(service, call)?.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        self.0.affinity.get(&call.affinity_key(service.id))
    }

    fn remember_call(
        &self,
        service: &Service,
        call: Digest,
        entry: Affinity,
    ) -> Result<(), MapsError> {
        self.0
            .affinity
            .insert(&call.affinity_key(service.id), &entry)?;
        self.hint(service, call)?.store(1, Ordering::Release);
        Ok(())
    }

    fn recent(&self, line: u32) -> Result<&Line, MapsError> {
        let found = self.0.recent.get(line);
        found.ok_or(MapsError::Beyond {
            name: "RECENT",
            index: line,
        })
    }

    fn next_turn(&self, service: &Service) -> Result<u64, MapsError> {
        let index = u32::from(service.id.0);
        let turns = self.0.turns.get(index).ok_or(MapsError::Beyond {
            name: "TURNS",
            index,
        })?;
        Ok(turns.turns.fetch_add(1, Ordering::Relaxed))
    }

    fn named(&self, key: &SentByKey) -> Result<Option<BackendRef>, MapsError> {
        self.0.sent_by.get(key)
    }

    fn origin(&self, source: SocketAddr) -> Result<Option<BackendRef>, MapsError> {
        self.0.sources.get(&source.into())
    }
}
