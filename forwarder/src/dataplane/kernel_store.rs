//! The kernel's maps as the workers' store: the same that the XDP program reads and writes.

use std::{net::SocketAddr, sync::Arc};

use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendId, BackendRef, HINTS_PER_LINE, HintLine, Recent, SLOTS_PER_LINE,
        SentByKey, Service, ServiceId, Slot,
    },
    hash::Digest,
};

use super::{Maps, MapsError};
use crate::slowpath::{
    Placer,
    store::{Store, View},
};

/// The workers' tables over the kernel's maps.
pub type KernelTables = Placer<KernelStore>;

/// The kernel's maps.
pub struct KernelStore(pub Arc<Maps>);

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
        let index = service.hints + call.slot() / HINTS_PER_LINE;
        // The whole line: XDP may set another hint of it meanwhile, which must not be lost. A hint
        // too many costs a lookup, and hints are never taken back.
        let marked = HintLine([1; HINTS_PER_LINE as usize]);
        if self.0.hints.get(index)? != marked {
            self.0.hints.set(index, marked)?;
        }
        Ok(())
    }

    fn recent(&self, index: u32) -> Result<Recent, MapsError> {
        self.0.recent.get(index)
    }

    fn set_recent(&self, index: u32, recent: Recent) -> Result<(), MapsError> {
        self.0.recent.set(index, recent)
    }

    fn named(&self, key: &SentByKey) -> Result<Option<BackendRef>, MapsError> {
        self.0.sent_by.get(key)
    }

    fn origin(&self, source: SocketAddr) -> Result<Option<BackendRef>, MapsError> {
        self.0.sources.get(&source.into())
    }
}
