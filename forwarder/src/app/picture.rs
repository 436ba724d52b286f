//! What the API tells, put together from configuration, maps and counters.

use std::{sync::Arc, time::Instant};

use sip_forwarder_ebpf::{
    abi::BackendFlags,
    verdict::{Outcome, TABLE},
};

use crate::{
    api::{Source, status},
    config::{self, Config},
    control::numbering::Numbering,
    dataplane::{
        Maps, MapsError,
        attach::{Attachment, Hook},
        counters::Counters,
    },
};

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

    fn draw(&self) -> Result<status::Status, MapsError> {
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
                .map(|s| self.service(s))
                .collect::<Result<_, _>>()?,
            affinity: status::Affinity {
                entries: self.maps.affinity_entries().len(),
                capacity: self.maps.affinity_capacity(),
            },
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

    fn service(&self, service: &config::Service) -> Result<status::Service, MapsError> {
        let backends = service
            .backends
            .iter()
            .filter_map(|b| self.backend(&service.name, b).transpose());
        Ok(status::Service {
            name: service.name.clone(),
            vip: service.vip.to_string(),
            mode: "nat".to_owned(),
            backends: backends.collect::<Result<_, _>>()?,
        })
    }

    fn backend(
        &self,
        service: &str,
        backend: &config::Backend,
    ) -> Result<Option<status::Backend>, MapsError> {
        let Some(number) = self
            .numbering
            .backend(service, &backend.name, backend.address)
        else {
            return Ok(None);
        };
        let entry = self.maps.backends.get(u32::from(number.index))?;
        let traffic = self.maps.traffic(u32::from(number.index))?;
        let state = if entry.flags.has(BackendFlags::ALIVE) {
            "alive"
        } else {
            "dead"
        };
        Ok(Some(status::Backend {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            weight: backend.weight,
            state: state.to_owned(),
            resolved: entry.flags.has(BackendFlags::RESOLVED),
            messages: status::BackendMessages {
                to: traffic.to + self.counters.of_backend(number.id()),
                from: traffic.from,
            },
        }))
    }
}

impl Source for Picture {
    fn status(&self) -> Result<status::Status, String> {
        self.draw().map_err(|error| error.to_string())
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
