//! What the API tells, put together from configuration, maps, counters and what control knows.

use std::{collections::HashMap, sync::Arc, time::Duration, time::Instant};

use futures_util::future::BoxFuture;
use serde::Serialize;
use sip_forwarder_ebpf::{
    abi::BackendFlags,
    verdict::{Outcome, TABLE},
};

use crate::{
    api::{Change, Changed, Operator, Refusal, Reloaded, status},
    config::{self, Config},
    control::numbering::Numbering,
    dataplane::{
        Maps, MapsError,
        attach::{Attachment, Hook},
        counters::Counters,
    },
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
    /// Affinity entries that name it, younger than `settle`.
    pub(super) calls_remembered: usize,
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
    fn of_configuration(backend: &config::Backend) -> Self {
        Self {
            state: "alive",
            why: None,
            open: true,
            gate_closed: false,
            cpu: None,
            weight: backend.weight,
            heard: None,
            calls_remembered: 0,
            idle: None,
        }
    }

    /// Safe to stop?
    fn is_empty(&self, drain_idle: Duration) -> bool {
        self.state == "draining" && self.idle.is_some_and(|idle| idle >= drain_idle)
    }
}

/// Everything `status` is made of.
pub(super) struct Picture {
    config: Config,
    numbering: Numbering,
    attachments: Vec<Attachment>,
    maps: Arc<Maps>,
    counters: Arc<Counters>,
    started: Instant,
}

impl Picture {
    /// Of a daemon that starts now.
    pub(super) fn new(
        config: Config,
        numbering: Numbering,
        attachments: Vec<Attachment>,
        maps: Arc<Maps>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            config,
            numbering,
            attachments,
            maps,
            counters,
            started: Instant::now(),
        }
    }

    /// The whole picture, with what control knows now.
    pub(super) fn draw(&self, known: &Snapshot) -> Result<status::Status, MapsError> {
        let verdicts = self.verdicts()?;
        let generic = self.attachments.iter().any(|a| a.mode == Hook::Generic);
        Ok(status::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            xdp_mode: hook_name(if generic { Hook::Generic } else { Hook::Native }).to_owned(),
            interfaces: self
                .attachments
                .iter()
                .map(|a| status::Interface {
                    name: a.interface.clone(),
                    mode: hook_name(a.mode).to_owned(),
                })
                .collect(),
            messages: sent_on(&verdicts),
            services: self
                .config
                .services
                .iter()
                .map(|s| self.service(s, known.services.get(&s.name)))
                .collect::<Result<_, _>>()?,
            affinity: status::Affinity {
                entries: self.maps.affinity_entries(),
                capacity: self.maps.affinity_capacity(),
                added: known.affinity_added,
                evicted: known.affinity_evicted,
            },
            recent: status::Recent {
                capacity: self.config.limits.recent_entries.next_power_of_two(),
                evicted: known.recent_evicted,
            },
            heartbeats: known.heartbeats.clone(),
            verdicts: verdicts
                .into_iter()
                .filter(|v| v.fast + v.slow > 0)
                .collect(),
        })
    }

    fn verdicts(&self) -> Result<Vec<status::Verdict>, MapsError> {
        let fast = self.maps.verdicts()?;
        Ok(TABLE
            .iter()
            .map(|entry| status::Verdict {
                number: entry.verdict.number(),
                name: entry.name.to_owned(),
                outcome: entry.outcome.name().to_owned(),
                fast: fast[entry.verdict.number() as usize],
                slow: self.counters.of_verdict(entry.verdict),
            })
            .collect())
    }

    /// One service; what control does not know yet counts as configured.
    fn service(
        &self,
        service: &config::Service,
        known: Option<&ServiceHealth>,
    ) -> Result<status::Service, MapsError> {
        let unknown = ServiceHealth::default();
        let known = known.unwrap_or(&unknown);
        let mut backends = Vec::new();
        for backend in &service.backends {
            let health = known
                .backends
                .get(&backend.name)
                .cloned()
                .unwrap_or_else(|| Health::of_configuration(backend));
            backends.extend(self.backend(service, backend, &health)?);
        }
        Ok(status::Service {
            name: service.name.clone(),
            vip: service.vip.to_string(),
            mode: word(service.mode),
            policy: word(service.spread.policy),
            weights: word(service.spread.weights),
            settling_slots: known.settling_slots,
            settle_seconds_left: known.settle_left.map(|left| left.as_secs()),
            suspects_itself: known.suspects_itself,
            takes_calls: backends.iter().any(|b| b.open),
            backends,
        })
    }

    /// One backend; `None` if it has no number yet.
    fn backend(
        &self,
        service: &config::Service,
        backend: &config::Backend,
        health: &Health,
    ) -> Result<Option<status::Backend>, MapsError> {
        let Some(number) = self
            .numbering
            .backend(&service.name, &backend.name, backend.address)
        else {
            return Ok(None);
        };
        let entry = self.maps.backends.get(u32::from(number.index))?;
        let traffic = self.maps.traffic(u32::from(number.index))?;
        Ok(Some(status::Backend {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            weight: health.weight,
            configured_weight: backend.weight,
            state: health.state.to_owned(),
            why: health.why.clone(),
            open: health.open,
            gate_closed: health.gate_closed,
            cpu: health.cpu,
            health: word(backend.health),
            heard_ms_ago: health.heard.map(|d| d.as_millis() as u64),
            calls_remembered: health.calls_remembered,
            idle_seconds: health.idle.map(|idle| idle.as_secs()),
            empty: health.is_empty(service.spread.drain_idle),
            resolved: entry.flags.has(BackendFlags::RESOLVED),
            messages: status::BackendMessages {
                to: traffic.to + self.counters.of_backend(number.id()),
                from: traffic.from,
            },
        }))
    }
}

/// A daemon whose configuration is fixed at its start.
impl Operator for Picture {
    fn status(&self) -> BoxFuture<'_, Result<status::Status, Refusal>> {
        Box::pin(async {
            self.draw(&Snapshot::of_configuration(&self.config))
                .map_err(|error| Refusal::Failed(error.to_string()))
        })
    }

    fn change(&self, _: &str, _: &str, _: Change) -> BoxFuture<'_, Result<Changed, Refusal>> {
        Box::pin(async { Err(fixed()) })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        Box::pin(async { Err(fixed()) })
    }
}

fn fixed() -> Refusal {
    Refusal::Failed(
        "this daemon cannot change while it runs; edit the configuration and restart it".to_owned(),
    )
}

/// A value of the configuration, as the file has it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Native => "native",
        Hook::Generic => "generic",
    }
}

/// Messages sent on in both directions.
fn sent_on(verdicts: &[status::Verdict]) -> status::Messages {
    let is_sent = |v: &&status::Verdict| {
        v.outcome == Outcome::Forwarded.name() || v.outcome == Outcome::Returned.name()
    };
    verdicts
        .iter()
        .filter(is_sent)
        .fold(status::Messages::default(), |sum, v| status::Messages {
            fast: sum.fast + v.fast,
            slow: sum.slow + v.slow,
        })
}
