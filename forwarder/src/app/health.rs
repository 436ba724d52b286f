//! What the daemon hears of its backends: agents' heartbeats, and answers to OPTIONS.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::debug;

use super::{conductor::DueProbe, daemon::Heard};
use crate::{
    api::status,
    config::{Backend, BackendTransport, Config, Health, Heartbeats, Service},
    control::service,
    heartbeat::{self, MasterKey, Receiver},
    probe::{Prober, Subject, Way},
    stream::tls::ClientTls,
};

/// Batches of reports that may wait. One that finds no room is dropped: the next comes in a moment.
pub(super) const REPORTS: usize = 256;
/// Answers to OPTIONS that may wait.
const ANSWERS: usize = 1_024;

/// A receiver of heartbeats and the settings it was opened with.
pub(super) type Listening = (Heartbeats, Receiver);

/// How backends are believed under TLS, by service.
type Beliefs = HashMap<String, Arc<ClientTls>>;

/// What a configuration to come needs of the ears.
pub(super) struct Prepared {
    heartbeats: PreparedHeartbeats,
    beliefs: Beliefs,
}

/// What it needs for heartbeats.
enum PreparedHeartbeats {
    /// No heartbeats.
    Nothing,
    /// Other keys for the receiver there is.
    Keys(Vec<MasterKey>),
    /// Another receiver.
    Receiver(Listening),
}

/// The receiver of heartbeats, if there is one, and the prober.
pub(super) struct Ears {
    receiver: Option<Listening>,
    prober: Prober,
    beliefs: Beliefs,
    reports: mpsc::Sender<Vec<heartbeat::Report>>,
}

impl Ears {
    /// Listens for heartbeats where the configuration says so.
    pub(super) fn open(config: &Config) -> anyhow::Result<(Self, Heard)> {
        let (reports, reported) = mpsc::channel(REPORTS);
        let (probed, answers) = mpsc::channel(ANSWERS);
        let ears = Self {
            receiver: listen(config, &reports)?,
            prober: Prober::new(probed),
            beliefs: beliefs(config)?,
            reports,
        };
        let heard = Heard {
            reports: reported,
            answers,
            unreachable: mpsc::channel(1).1,
        };
        Ok((ears, heard))
    }

    /// Reads and opens what another configuration needs; changes nothing.
    pub(super) fn prepare(&self, config: &Config) -> anyhow::Result<Prepared> {
        Ok(Prepared {
            heartbeats: self.prepare_heartbeats(config)?,
            beliefs: beliefs(config)?,
        })
    }

    fn prepare_heartbeats(&self, config: &Config) -> anyhow::Result<PreparedHeartbeats> {
        let Some(wanted) = &config.heartbeats else {
            return Ok(PreparedHeartbeats::Nothing);
        };
        match &self.receiver {
            Some((settings, _)) if settings.listen == wanted.listen => {
                Ok(PreparedHeartbeats::Keys(masters(wanted)?))
            }
            _ => {
                let receiver = listen(config, &self.reports)?;
                Ok(receiver.map_or(PreparedHeartbeats::Nothing, PreparedHeartbeats::Receiver))
            }
        }
    }

    /// Goes on with another configuration. Sessions of agents that stay are kept, unless the address
    /// changes.
    pub(super) fn reconfigure(&mut self, old: &Config, new: &Config, prepared: Prepared) {
        self.forget_the_gone(old, new);
        self.beliefs = prepared.beliefs;
        match (prepared.heartbeats, &mut self.receiver, &new.heartbeats) {
            (PreparedHeartbeats::Keys(masters), Some((settings, receiver)), Some(wanted)) => {
                receiver.set_masters(masters);
                receiver.set_known(&known(new));
                *settings = wanted.clone();
            }
            (PreparedHeartbeats::Receiver(receiver), ..) => self.receiver = Some(receiver),
            _ => self.receiver = None,
        }
    }

    /// Stops asking backends that are gone or elsewhere.
    fn forget_the_gone(&mut self, old: &Config, new: &Config) {
        for service in &old.services {
            let still = new.services.iter().find(|s| s.name == service.name);
            for backend in &service.backends {
                let stays = still.is_some_and(|s| {
                    s.backends
                        .iter()
                        .any(|b| b.name == backend.name && b.address == backend.address)
                });
                if !stays {
                    self.prober.forget(&service.name, &backend.name);
                }
            }
        }
    }

    /// Asks a backend by OPTIONS.
    pub(super) fn ask(&mut self, config: &Config, due: &DueProbe) {
        let service = config.services.iter().find(|s| s.name == due.service);
        let backend = service.and_then(|s| s.backends.iter().find(|b| b.name == due.backend));
        if let (Some(service), Some(backend)) = (service, backend)
            && let Some(way) = self.way(service, backend, due.transport)
        {
            let subject = Subject {
                service: service.name.clone(),
                backend: backend.name.clone(),
                question: due.question,
            };
            let timeout = service.probe.timeout;
            self.prober.ask(&subject, backend.address, &way, timeout);
        }
    }

    /// How a backend is asked by `transport`, or else by its service's; `None` for TLS without roots,
    /// which no checked configuration has.
    fn way(
        &self,
        service: &Service,
        backend: &Backend,
        transport: Option<BackendTransport>,
    ) -> Option<Way> {
        Some(match transport.unwrap_or(service.transport) {
            BackendTransport::Udp => Way::Udp,
            BackendTransport::Tcp => Way::Tcp,
            BackendTransport::Tls => Way::Tls {
                tls: Arc::clone(self.beliefs.get(&service.name)?),
                name: backend.server_name.clone(),
            },
        })
    }

    /// What became of heartbeats.
    pub(super) fn counts(&self) -> Option<status::Heartbeats> {
        let (settings, receiver) = self.receiver.as_ref()?;
        let counts = receiver.counts();
        Some(status::Heartbeats {
            listen: settings.listen.to_string(),
            accepted: counts.accepted,
            challenged: counts.challenged,
            unchallenged: counts.unchallenged,
            malformed: counts.malformed,
            wrong_version: counts.wrong_version,
            unknown_backend: counts.unknown_backend,
            wrong_forwarder: counts.wrong_forwarder,
            forged: counts.forged,
            replayed: counts.replayed,
            rivalries: counts.rivalries,
        })
    }
}

/// Reads the roots of all backends under TLS.
fn beliefs(config: &Config) -> anyhow::Result<Beliefs> {
    let services = config.services.iter();
    services
        .filter_map(|service| Some((service, service.backend_ca.as_ref()?)))
        .map(|(service, ca)| {
            let tls = ClientTls::load(ca);
            let tls = tls.with_context(|| format!("service `{}`", service.name))?;
            Ok((service.name.clone(), tls))
        })
        .collect()
}

fn listen(
    config: &Config,
    reports: &mpsc::Sender<Vec<heartbeat::Report>>,
) -> anyhow::Result<Option<Listening>> {
    let Some(settings) = &config.heartbeats else {
        return Ok(None);
    };
    let reports = reports.clone();
    let receiver = Receiver::start(
        settings.listen,
        &config.forwarder.name,
        masters(settings)?,
        &known(config),
        move |batch| {
            if reports.try_send(std::mem::take(batch)).is_err() {
                debug!("the daemon is busy; reports of agents were dropped");
            }
        },
    )?;
    Ok(Some((settings.clone(), receiver)))
}

/// The master keys.
pub(super) fn masters(settings: &Heartbeats) -> anyhow::Result<Vec<MasterKey>> {
    let load = |path: &std::path::PathBuf| Ok(MasterKey::load(path)?);
    settings.key_files.iter().map(load).collect()
}

/// Service and name of the backends that have agents.
fn known(config: &Config) -> Vec<(String, String)> {
    let of = |s: &Service| {
        let name = s.name.clone();
        s.backends
            .iter()
            .filter(|b| b.health == Health::Agent)
            .map(move |b| (name.clone(), b.name.clone()))
            .collect::<Vec<_>>()
    };
    config.services.iter().flat_map(of).collect()
}

impl From<heartbeat::Report> for service::Report {
    fn from(report: heartbeat::Report) -> Self {
        Self {
            cpu: report.cpu,
            state: match report.state {
                heartbeat::State::Running => service::ReportedState::Running,
                heartbeat::State::Draining => service::ReportedState::Draining,
                heartbeat::State::Stopped => service::ReportedState::Stopped,
                heartbeat::State::Unwell => service::ReportedState::Unwell,
            },
        }
    }
}
