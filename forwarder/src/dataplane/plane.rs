//! Where decisions take effect: the kernel's maps beside the XDP program, or this process' own tables.

use std::sync::Arc;

use sip_forwarder_ebpf::{
    abi::{BackendFlags, BackendId, BackendTraffic, Event, ServiceId, Slot},
    verdict::VERDICT_LIMIT,
};

use super::{Census, Maps, MapsError, contents::Contents, publish};
use crate::{
    config::{self, Config},
    control::numbering::Numbering,
    slowpath::memory::MemoryStore,
};

/// Tables that control writes and status reads.
pub trait Plane: Send + Sync {
    /// Service and name of the backends that are known to be dead, from a life before this one.
    fn known_dead(
        &self,
        config: &Config,
        numbering: &Numbering,
    ) -> Result<Vec<(String, String)>, MapsError>;

    /// Writes the backends that are configured; nothing refers to new ones yet.
    fn publish_backends(&self, config: &Config, numbering: &Numbering) -> Result<(), MapsError>;

    /// Makes everything refer to the backends, and forgets those that are no longer configured.
    /// `columns` gives the slots of each service's ring.
    fn publish_services(
        &self,
        config: &Config,
        numbering: &Numbering,
        hash_key: [u64; 2],
        columns: &mut dyn FnMut(&config::Service) -> Vec<Slot>,
    ) -> Result<(), MapsError>;

    /// Replaces the ring of a service.
    fn set_ring(&self, service: ServiceId, slots: &[Slot]) -> Result<(), MapsError>;

    /// Tells whether a backend may have messages.
    fn set_alive(&self, backend: BackendId, alive: bool) -> Result<(), MapsError>;

    /// Can the fast path, or else the workers, reach it?
    fn is_resolved(&self, backend: BackendId) -> Result<bool, MapsError>;

    /// Messages of a backend in the fast path.
    fn traffic(&self, backend: BackendId) -> Result<BackendTraffic, MapsError>;

    /// Packets of the fast path, by number of the verdict.
    fn verdicts(&self) -> Result<Vec<u64>, MapsError>;

    /// How often something happened in the fast path.
    fn event(&self, event: Event) -> Result<u64, MapsError>;

    /// Who the calls belong to that are not at home; `settle` as in [`Census::of`]. Takes long.
    fn census(&self, settle: &[u32]) -> Census;

    /// How many such calls can be remembered.
    fn call_capacity(&self) -> u32;
}

impl Plane for Maps {
    fn known_dead(
        &self,
        config: &Config,
        numbering: &Numbering,
    ) -> Result<Vec<(String, String)>, MapsError> {
        let mut dead = Vec::new();
        for service in &config.services {
            for backend in &service.backends {
                let number = numbering.backend(&service.name, &backend.name, backend.address);
                let Some(number) = number else { continue };
                let entry = self.backends.get(u32::from(number.index))?;
                let same = entry.endpoint == backend.address.into()
                    && entry.incarnation == number.incarnation;
                if same && !entry.flags.has(BackendFlags::ALIVE) {
                    dead.push((service.name.clone(), backend.name.clone()));
                }
            }
        }
        Ok(dead)
    }

    fn publish_backends(&self, config: &Config, numbering: &Numbering) -> Result<(), MapsError> {
        publish::backends(self, config, numbering)
    }

    fn publish_services(
        &self,
        config: &Config,
        numbering: &Numbering,
        hash_key: [u64; 2],
        columns: &mut dyn FnMut(&config::Service) -> Vec<Slot>,
    ) -> Result<(), MapsError> {
        publish::services(self, config, numbering, hash_key, columns)
    }

    fn set_ring(&self, service: ServiceId, slots: &[Slot]) -> Result<(), MapsError> {
        publish::ring(self, service, slots)
    }

    fn set_alive(&self, backend: BackendId, alive: bool) -> Result<(), MapsError> {
        publish::set_alive(self, backend, alive)
    }

    fn is_resolved(&self, backend: BackendId) -> Result<bool, MapsError> {
        let entry = self.backends.get(u32::from(backend.0))?;
        Ok(entry.flags.has(BackendFlags::RESOLVED))
    }

    fn traffic(&self, backend: BackendId) -> Result<BackendTraffic, MapsError> {
        Self::traffic(self, u32::from(backend.0))
    }

    fn verdicts(&self) -> Result<Vec<u64>, MapsError> {
        Self::verdicts(self)
    }

    fn event(&self, event: Event) -> Result<u64, MapsError> {
        Self::event(self, event)
    }

    fn census(&self, settle: &[u32]) -> Census {
        self.affinity_census(settle)
    }

    fn call_capacity(&self) -> u32 {
        self.affinity_capacity()
    }
}

/// This process' own tables: no fast path, so nothing of its counters, and nothing from before.
impl Plane for Arc<MemoryStore> {
    fn known_dead(&self, _: &Config, _: &Numbering) -> Result<Vec<(String, String)>, MapsError> {
        Ok(Vec::new())
    }

    fn publish_backends(&self, config: &Config, numbering: &Numbering) -> Result<(), MapsError> {
        for (index, backend) in Contents::of(config, numbering, [0; 2]).backends() {
            self.set_backend(BackendId(index), backend);
        }
        Ok(())
    }

    fn publish_services(
        &self,
        config: &Config,
        numbering: &Numbering,
        hash_key: [u64; 2],
        columns: &mut dyn FnMut(&config::Service) -> Vec<Slot>,
    ) -> Result<(), MapsError> {
        let contents = Contents::of(config, numbering, hash_key);
        let services = contents
            .services
            .iter()
            .map(|s| (s.entry(), columns(s.service)))
            .collect();
        let origins = contents
            .sources()
            .into_iter()
            .map(|(endpoint, origin)| (endpoint.into(), origin))
            .collect();
        self.set_contents(services, contents.names(), origins);
        Ok(())
    }

    fn set_ring(&self, service: ServiceId, slots: &[Slot]) -> Result<(), MapsError> {
        MemoryStore::set_ring(self, service, slots);
        Ok(())
    }

    fn set_alive(&self, backend: BackendId, alive: bool) -> Result<(), MapsError> {
        MemoryStore::set_alive(self, backend, alive);
        Ok(())
    }

    fn is_resolved(&self, _: BackendId) -> Result<bool, MapsError> {
        Ok(true)
    }

    fn traffic(&self, _: BackendId) -> Result<BackendTraffic, MapsError> {
        Ok(BackendTraffic::default())
    }

    fn verdicts(&self) -> Result<Vec<u64>, MapsError> {
        Ok(vec![0; VERDICT_LIMIT as usize])
    }

    fn event(&self, _: Event) -> Result<u64, MapsError> {
        Ok(0)
    }

    fn census(&self, settle: &[u32]) -> Census {
        Census::of(self.calls(), crate::slowpath::seconds(), settle)
    }

    fn call_capacity(&self) -> u32 {
        MemoryStore::call_capacity(self)
    }
}
