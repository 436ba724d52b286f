//! What the API tells, put together from configuration, maps, counters and what control knows.

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use sip_forwarder_ebpf::{
    abi::BackendFlags,
    verdict::{Outcome, TABLE},
};

use super::snapshot::{Health, ServiceHealth, Snapshot};
use crate::{
    api::status,
    config::{self, Config},
    control::numbering::Numbering,
    dataplane::{
        Census, Maps, MapsError,
        attach::{Attachment, Hook},
        counters::Counters,
    },
};

/// What `status` is made of and does not change while the daemon runs. The rest is given to
/// [`Picture::draw`].
pub(super) struct Picture {
    attachments: Vec<Attachment>,
    maps: Arc<Maps>,
    counters: Arc<Counters>,
    started: Instant,
}

impl Picture {
    /// Of a daemon that starts now.
    pub(super) fn new(
        attachments: Vec<Attachment>,
        maps: Arc<Maps>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            attachments,
            maps,
            counters,
            started: Instant::now(),
        }
    }

    /// The whole picture, with what is configured and what control knows now. It walks through the
    /// affinity map, which takes most of a second if a million calls are in it: not for a thread
    /// that somebody waits for.
    pub(super) fn draw(
        &self,
        config: &Config,
        numbering: &Numbering,
        known: &Snapshot,
    ) -> Result<status::Status, MapsError> {
        let census = self.maps.affinity_census();
        let subject = Subject {
            picture: self,
            numbering,
            census: &census,
        };
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
            services: config
                .services
                .iter()
                .map(|s| subject.service(s, known.services.get(&s.name)))
                .collect::<Result<_, _>>()?,
            affinity: status::Affinity {
                entries: census.entries(),
                capacity: self.maps.affinity_capacity(),
                added: known.affinity_added,
                evicted: known.affinity_evicted,
            },
            recent: status::Recent {
                capacity: config.limits.recent_entries.next_power_of_two(),
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
}

/// What services are drawn with.
struct Subject<'a> {
    picture: &'a Picture,
    numbering: &'a Numbering,
    census: &'a Census,
}

impl Subject<'_> {
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
        let entry = self.picture.maps.backends.get(u32::from(number.index))?;
        let traffic = self.picture.maps.traffic(u32::from(number.index))?;
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
            calls_remembered: self.census.younger(number, service.spread.settle),
            idle_seconds: health.idle.map(|idle| idle.as_secs()),
            empty: health.is_empty(service.spread.drain_idle),
            resolved: entry.flags.has(BackendFlags::RESOLVED),
            messages: status::BackendMessages {
                to: traffic.to + self.picture.counters.of_backend(number.id()),
                from: traffic.from,
            },
        }))
    }
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
