//! What control knows, as the picture needs it.

use std::{collections::HashMap, time::Duration};

use crate::{
    api::status,
    config::{self, Config},
};

/// What control knows at one moment.
pub(super) struct Snapshot {
    /// By service.
    pub(super) services: HashMap<String, ServiceHealth>,
    /// What became of heartbeats; `None` if none are listened for.
    pub(super) heartbeats: Option<status::Heartbeats>,
    /// Affinity entries added since the start.
    pub(super) affinity_added: u64,
    /// Affinity entries that had to go because the map was full.
    pub(super) affinity_evicted: u64,
    /// Elements of `recent` overwritten within 32 s.
    pub(super) recent_evicted: u64,
}

/// What control knows of a service.
#[derive(Default)]
pub(super) struct ServiceHealth {
    /// Slots whose home does not follow the configuration yet.
    pub(super) settling_slots: usize,
    /// Until the next of them do.
    pub(super) settle_left: Option<Duration>,
    /// Does it take this forwarder's own network for broken?
    pub(super) suspects_itself: bool,
    /// By backend.
    pub(super) backends: HashMap<String, Health>,
}

/// What control knows of a backend.
#[derive(Clone)]
pub(super) struct Health {
    /// In the words of [`status::Backend::state`].
    pub(super) state: &'static str,
    /// Why.
    pub(super) why: Option<String>,
    /// Does it take new calls?
    pub(super) open: bool,
    /// Is its gate closed?
    pub(super) gate_closed: bool,
    /// Smoothed, 0 to 1.
    pub(super) cpu: Option<f64>,
    /// The weight in effect.
    pub(super) weight: u16,
    /// Since it, or its agent, was heard.
    pub(super) heard: Option<Duration>,
    /// Since the last message to or from it.
    pub(super) idle: Option<Duration>,
}

impl Snapshot {
    /// Of a daemon that watches nobody: everybody configured is alive and open.
    pub(super) fn of_configuration(config: &Config) -> Self {
        let services = config.services.iter().map(|service| {
            let backends = service.backends.iter().map(|backend| {
                let health = Health::of_configuration(backend);
                (backend.name.clone(), health)
            });
            let health = ServiceHealth {
                backends: backends.collect(),
                ..ServiceHealth::default()
            };
            (service.name.clone(), health)
        });
        Self {
            services: services.collect(),
            heartbeats: None,
            affinity_added: 0,
            affinity_evicted: 0,
            recent_evicted: 0,
        }
    }
}

impl Health {
    /// Of a backend that nobody watches.
    pub(super) fn of_configuration(backend: &config::Backend) -> Self {
        Self {
            state: "alive",
            why: None,
            open: true,
            gate_closed: false,
            cpu: None,
            weight: backend.weight,
            heard: None,
            idle: None,
        }
    }

    /// Safe to stop?
    pub(super) fn is_empty(&self, drain_idle: Duration) -> bool {
        self.state == "draining" && self.idle.is_some_and(|idle| idle >= drain_idle)
    }
}
