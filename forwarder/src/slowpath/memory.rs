//! The tables in this process' memory, where there is no XDP program to share them with.
//!
//! Workers read without a lock. What the configuration makes stands in one snapshot that is replaced
//! whole; what messages write stands in arrays of atomic words.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, BackendRef, RING_SLOTS, SentByKey, Service,
        ServiceId, Slot,
    },
    hash::Digest,
};
use thiserror::Error;

use super::{
    calls::Calls,
    recent::Line,
    store::{Store, View},
};
use crate::mapped::MappedArray;

/// What is asked for is not there: control and workers disagree, which is a bug.
#[derive(Clone, Copy, Debug, Error)]
#[error("the tables lack what another table promised")]
pub struct Missing;

/// What the configuration and control make.
#[derive(Clone, Default)]
struct Snapshot {
    services: Vec<Option<ServiceRing>>,
    backends: Vec<Backend>,
    names: Arc<HashMap<SentByKey, BackendRef>>,
    origins: Arc<HashMap<SocketAddr, BackendRef>>,
}

#[derive(Clone)]
struct ServiceRing {
    service: Service,
    slots: Arc<[Slot]>,
}

/// The tables.
pub struct MemoryStore {
    snapshot: ArcSwap<Snapshot>,
    /// Flags of the backends, by number. Beside the snapshot, which need not change when one dies.
    flags: Box<[AtomicU8]>,
    recent: MappedArray<Line>,
    /// Turns that were taken, by service.
    turns: Box<[AtomicU64]>,
    /// For each service a byte per slot: may there be an entry in `calls`?
    hints: Box<[AtomicU8]>,
    calls: Calls,
}

/// Sizes of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Backends of all services together.
    pub backends: u32,
    /// Calls remembered because they are not at their home.
    pub calls: u32,
    /// Lines of the recent table: a power of two.
    pub recent_lines: u32,
}

impl MemoryStore {
    /// Returns empty tables. Fails if there is no memory for them.
    pub fn new(sizes: Sizes) -> io::Result<Self> {
        Ok(Self {
            snapshot: ArcSwap::default(),
            flags: (0..sizes.backends).map(|_| AtomicU8::new(0)).collect(),
            recent: MappedArray::anonymous(sizes.recent_lines)?,
            turns: (0..sizes.services).map(|_| AtomicU64::new(0)).collect(),
            hints: (0..sizes.services * RING_SLOTS)
                .map(|_| AtomicU8::new(0))
                .collect(),
            calls: Calls::new(sizes.calls),
        })
    }

    /// Sets a backend, with its flags unless it is there already.
    pub fn set_backend(&self, id: BackendId, backend: Backend) {
        let index = usize::from(id.0);
        let Some(flags) = self.flags.get(index) else {
            return;
        };
        let mut same = false;
        self.change(|snapshot| {
            if snapshot.backends.len() <= index {
                snapshot.backends.resize(index + 1, Backend::default());
            }
            let there = &mut snapshot.backends[index];
            same = there.endpoint == backend.endpoint && there.incarnation == backend.incarnation;
            *there = backend;
        });
        if !same {
            flags.store(backend.flags.0, Ordering::Relaxed);
        }
    }

    /// Sets the services with their rings, and whom names and senders stand for.
    pub fn set_contents(
        &self,
        services: Vec<(Service, Vec<Slot>)>,
        names: HashMap<SentByKey, BackendRef>,
        origins: HashMap<SocketAddr, BackendRef>,
    ) {
        let last = services.iter().map(|(s, _)| usize::from(s.id.0) + 1).max();
        let mut all = vec![None; last.unwrap_or(0)];
        for (service, slots) in services {
            let index = usize::from(service.id.0);
            all[index] = Some(ServiceRing {
                service,
                slots: slots.into(),
            });
        }
        let (names, origins) = (Arc::new(names), Arc::new(origins));
        self.change(|snapshot| {
            snapshot.services.clone_from(&all);
            snapshot.names = Arc::clone(&names);
            snapshot.origins = Arc::clone(&origins);
        });
    }

    /// Replaces the ring of a service.
    pub fn set_ring(&self, id: ServiceId, slots: &[Slot]) {
        let slots: Arc<[Slot]> = slots.into();
        self.change(|snapshot| {
            if let Some(Some(service)) = snapshot.services.get_mut(usize::from(id.0)) {
                service.slots = Arc::clone(&slots);
            }
        });
    }

    /// Tells whether a backend may have messages.
    pub fn set_alive(&self, id: BackendId, alive: bool) {
        let Some(flags) = self.flags.get(usize::from(id.0)) else {
            return;
        };
        if alive {
            flags.fetch_or(BackendFlags::ALIVE, Ordering::Relaxed);
        } else {
            flags.fetch_and(!BackendFlags::ALIVE, Ordering::Relaxed);
        }
    }

    /// The calls that are remembered.
    pub fn calls(&self) -> impl Iterator<Item = Affinity> {
        self.calls.entries()
    }

    /// How many can be.
    #[must_use]
    pub fn call_capacity(&self) -> u32 {
        self.calls.capacity()
    }

    /// Only the daemon's loop changes the snapshot.
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        change(&mut snapshot);
        self.snapshot.store(Arc::new(snapshot));
    }

    fn hint(&self, service: &Service, call: Digest) -> Option<&AtomicU8> {
        self.hints
            .get((u32::from(service.id.0) * RING_SLOTS + call.slot()) as usize)
    }
}

/// The tables while one message is decided on: reaching for the snapshot is an atomic operation that all
/// loads before it must end for.
pub struct MemoryView<'a> {
    snapshot: Guard<Arc<Snapshot>>,
    store: &'a MemoryStore,
}

impl Store for MemoryStore {
    type Error = Missing;
    type View<'a> = MemoryView<'a>;

    fn look(&self) -> MemoryView<'_> {
        MemoryView {
            snapshot: self.snapshot.load(),
            store: self,
        }
    }
}

impl View for MemoryView<'_> {
    type Error = Missing;

    fn service(&self, id: ServiceId) -> Result<Service, Missing> {
        let found = self
            .snapshot
            .services
            .get(usize::from(id.0))
            .ok_or(Missing)?;
        Ok(found.as_ref().ok_or(Missing)?.service)
    }

    fn slot(&self, service: &Service, slot: u32) -> Result<Slot, Missing> {
        let found = self.snapshot.services.get(usize::from(service.id.0));
        let ring = found.and_then(Option::as_ref).ok_or(Missing)?;
        ring.slots.get(slot as usize).copied().ok_or(Missing)
    }

    fn backend(&self, id: BackendId) -> Result<Backend, Missing> {
        let index = usize::from(id.0);
        let mut backend = *self.snapshot.backends.get(index).ok_or(Missing)?;
        let flags = self.store.flags.get(index).ok_or(Missing)?;
        backend.flags = BackendFlags(flags.load(Ordering::Relaxed));
        Ok(backend)
    }

    fn call(&self, service: &Service, call: Digest) -> Result<Option<Affinity>, Missing> {
        let hint = self.store.hint(service, call).ok_or(Missing)?;
        if hint.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        Ok(self.store.calls.get(call.affinity_key(service.id)))
    }

    fn remember_call(
        &self,
        service: &Service,
        call: Digest,
        entry: Affinity,
    ) -> Result<(), Missing> {
        let hint = self.store.hint(service, call).ok_or(Missing)?;
        self.store
            .calls
            .insert(call.affinity_key(service.id), entry);
        hint.store(1, Ordering::Release);
        Ok(())
    }

    fn recent(&self, line: u32) -> Result<&Line, Missing> {
        self.store.recent.get(line).ok_or(Missing)
    }

    fn next_turn(&self, service: &Service) -> Result<u64, Missing> {
        let turns = self.store.turns.get(usize::from(service.id.0));
        Ok(turns.ok_or(Missing)?.fetch_add(1, Ordering::Relaxed))
    }

    fn named(&self, key: &SentByKey) -> Result<Option<BackendRef>, Missing> {
        Ok(self.snapshot.names.get(key).copied())
    }

    fn origin(&self, source: SocketAddr) -> Result<Option<BackendRef>, Missing> {
        Ok(self.snapshot.origins.get(&source).copied())
    }
}
