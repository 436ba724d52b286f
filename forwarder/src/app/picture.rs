//! What the API tells, put together from configuration, maps, counters and what control knows.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use sip_forwarder_ebpf::{
    abi::{BackendId, Event, ServiceId},
    verdict::{Outcome, TABLE},
};

use super::conductor::Conductor;
use crate::{
    api::status,
    config::{self, Config},
    control::{
        numbering::{Number, Numbering},
        service::{Member, Plan, State},
    },
    dataplane::{
        Census, MapsError, Plane,
        attach::{Attachment, Hook},
    },
    sip::transport::Transport,
    slowpath::counters::Counters,
    stream::{Hub, counters::Ending},
};

/// Everything `status` is made of, but for what control knows.
pub(super) struct Picture {
    attachments: Vec<Attachment>,
    plane: Arc<dyn Plane>,
    counters: Arc<Counters>,
    started: Instant,
    /// The connections, where there are any.
    hub: Option<Arc<Hub>>,
    /// Why the state file is not up to date.
    pub(super) unsaved: Option<String>,
    /// Since when each backend has had the same number of messages.
    quiet: HashMap<BackendId, Quiet>,
}

/// A backend's messages, and since when there were no more.
struct Quiet {
    messages: u64,
    since: Instant,
}

/// What one picture is drawn of.
struct Scene<'a> {
    numbering: &'a Numbering,
    census: &'a Census,
}

impl Picture {
    /// Of a daemon that starts now.
    pub(super) fn new(
        attachments: Vec<Attachment>,
        plane: Arc<dyn Plane>,
        counters: Arc<Counters>,
        hub: Option<Arc<Hub>>,
    ) -> Self {
        Self {
            attachments,
            plane,
            counters,
            started: Instant::now(),
            hub,
            unsaved: None,
            quiet: HashMap::new(),
        }
    }

    /// Looks which backends have had messages since the last look.
    pub(super) fn sample(&mut self, config: &Config, numbering: &Numbering) {
        let now = Instant::now();
        let mut seen = HashMap::new();
        for service in &config.services {
            for backend in &service.backends {
                let number = numbering.backend(&service.name, &backend.name, backend.address);
                let Some(id) = number.map(Number::id) else {
                    continue;
                };
                let Ok(traffic) = self.messages(id) else {
                    continue;
                };
                let messages = traffic.to + traffic.from;
                let quiet = match self.quiet.remove(&id) {
                    Some(quiet) if quiet.messages == messages => quiet,
                    _ => Quiet {
                        messages,
                        since: now,
                    },
                };
                seen.insert(id, quiet);
            }
        }
        self.quiet = seen;
    }

    /// The whole picture; `census` is what the affinity map holds.
    pub(super) fn draw(
        &self,
        config: &Config,
        numbering: &Numbering,
        conductor: &Conductor,
        census: &Census,
        heartbeats: Option<status::Heartbeats>,
    ) -> Result<status::Status, MapsError> {
        let verdicts = self.verdicts()?;
        let scene = Scene { numbering, census };
        let services = config
            .services
            .iter()
            .filter_map(|s| {
                let plan = conductor.plan(&s.name)?;
                Some(self.service(s, &plan, conductor, &scene))
            })
            .collect::<Result<_, _>>()?;
        let happened =
            |event| Ok::<u64, MapsError>(self.plane.event(event)? + self.counters.of_event(event));
        let added = happened(Event::AFFINITY_ADDED)?;
        Ok(status::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            xdp_mode: self.slowest_hook().to_owned(),
            interfaces: self
                .attachments
                .iter()
                .map(|a| status::Interface {
                    name: a.interface.clone(),
                    mode: hook_name(a.mode).to_owned(),
                })
                .collect(),
            messages: sent_on(&verdicts),
            services,
            affinity: status::Affinity {
                entries: census.entries,
                capacity: self.plane.call_capacity(),
                added,
                // Entries only go when there is no more room.
                evicted: added.saturating_sub(census.entries as u64),
            },
            recent: status::Recent {
                capacity: config.limits.recent_capacity(),
                evicted: happened(Event::RECENT_EVICTED)?,
            },
            heartbeats,
            connections: self.hub.as_deref().map(connections),
            unsaved: self.unsaved.clone(),
            verdicts: verdicts
                .into_iter()
                .filter(|v| v.fast + v.slow > 0)
                .collect(),
        })
    }

    /// The slowest hook in use; "none" where there is no XDP program.
    fn slowest_hook(&self) -> &'static str {
        if self.attachments.is_empty() {
            "none"
        } else if self.attachments.iter().any(|a| a.mode == Hook::Generic) {
            hook_name(Hook::Generic)
        } else {
            hook_name(Hook::Native)
        }
    }

    fn verdicts(&self) -> Result<Vec<status::Verdict>, MapsError> {
        let fast = self.plane.verdicts()?;
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

    fn service(
        &self,
        service: &config::Service,
        plan: &Plan,
        conductor: &Conductor,
        scene: &Scene<'_>,
    ) -> Result<status::Service, MapsError> {
        let mut backends = Vec::new();
        for (backend, member) in service.backends.iter().zip(&plan.members) {
            backends.extend(self.backend(service, backend, member, scene)?);
        }
        Ok(status::Service {
            name: service.name.clone(),
            vip: service.vip.to_string(),
            mode: word(service.mode),
            policy: word(service.spread.policy),
            weights: word(service.spread.weights),
            settling_slots: plan.settling,
            settle_seconds_left: plan
                .next_settled
                .map(|at| at.saturating_sub(conductor.now()).as_secs()),
            suspects_itself: plan.suspects_itself,
            takes_calls: backends.iter().any(|b| b.open),
            certificates: self.certificates(scene.numbering.service(&service.name)),
            backends,
        })
    }

    /// The certificates of the service of this number.
    fn certificates(&self, service: Option<u16>) -> Vec<status::Certificate> {
        let (Some(hub), Some(service)) = (&self.hub, service) else {
            return Vec::new();
        };
        let ends_in = |at: SystemTime| at.duration_since(SystemTime::now());
        let certificates = hub.certificates(ServiceId(service)).into_iter();
        certificates
            .map(|certificate| status::Certificate {
                chain: certificate.chain.display().to_string(),
                names: certificate.names,
                ends_in_seconds: ends_in(certificate.at).map_or(0, |left| left.as_secs()),
            })
            .collect()
    }

    /// One backend; `None` if it has no number.
    fn backend(
        &self,
        service: &config::Service,
        backend: &config::Backend,
        member: &Member,
        scene: &Scene<'_>,
    ) -> Result<Option<status::Backend>, MapsError> {
        let Some(number) = scene
            .numbering
            .backend(&service.name, &backend.name, backend.address)
        else {
            return Ok(None);
        };
        let id = number.id();
        let messages = self.messages(id)?;
        // What came since the last look says that it is not idle at all.
        let idle = self.quiet.get(&id).map(|quiet| {
            if quiet.messages == messages.to + messages.from {
                quiet.since.elapsed()
            } else {
                Duration::ZERO
            }
        });
        let spread = &service.spread;
        Ok(Some(status::Backend {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            transport: member.transport.name().to_owned(),
            transports_down: member
                .transports_down
                .iter()
                .map(|transport| transport.name().to_owned())
                .collect(),
            weight: member.weight,
            configured_weight: backend.weight,
            state: member.state.word().to_owned(),
            why: why(member),
            open: member.open,
            gate_closed: member.gate_closed,
            cpu: member.cpu,
            health: word(backend.health),
            heard_ms_ago: member.heard.map(|d| d.as_millis() as u64),
            calls_remembered: scene.census.young(id, number.incarnation),
            idle_seconds: idle.map(|idle| idle.as_secs()),
            empty: member.state == State::Draining
                && idle.is_some_and(|idle| idle >= spread.drain_idle),
            resolved: self.plane.is_resolved(id)?,
            messages,
        }))
    }

    /// Messages to and from a backend, by both paths.
    fn messages(&self, id: BackendId) -> Result<status::BackendMessages, MapsError> {
        let traffic = self.plane.traffic(id)?;
        Ok(status::BackendMessages {
            to: traffic.to + self.counters.of_backend(id),
            from: traffic.from,
        })
    }
}

/// Why a backend is in its state, if the word does not say it all.
fn why(member: &Member) -> Option<String> {
    match member.state {
        State::Dead => member.death.map(|death| death.to_string()),
        State::Gated => member.cpu.map(|cpu| format!("CPU {:.0} %", cpu * 100.0)),
        State::Draining if member.agent_drains => Some("its agent says so".to_owned()),
        _ if member.suspected => Some("not heard; lives while it answers OPTIONS".to_owned()),
        _ if member.large_by_tcp == Some(false) => {
            Some("no answer by tcp: large messages go by udp".to_owned())
        }
        _ => None,
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

/// What there is to say of connections.
fn connections(hub: &Hub) -> status::Connections {
    let counters = hub.counters();
    let picture = hub.picture();
    let occurred = |(name, count): (String, u64)| (count > 0).then_some((name, count));
    status::Connections {
        open: picture.open,
        half_open: picture.half_open,
        accepted: Transport::ALL
            .map(|t| (t.name().to_ascii_lowercase(), counters.of_accepted(t)))
            .into_iter()
            .filter_map(occurred)
            .collect(),
        opened: counters.of_opened(),
        failed: counters.of_failed(),
        repeated: counters.of_repeated(),
        ended: Ending::ALL
            .map(|ending| (ending.name().to_owned(), counters.of_ending(ending)))
            .into_iter()
            .filter_map(occurred)
            .collect(),
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
