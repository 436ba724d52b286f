//! The daemon's life: config → tables → workers → attach → serve → stop.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use sip_forwarder_ebpf::abi::{BackendRef, ServiceId};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::{
    conductor::Conductor,
    connected::{Connected, proxy_of},
    desk::{Desk, Wish},
    ground::Ground,
    health::{Ears, REPORTS},
    picture::Picture,
    reload,
};
use crate::{
    api::{Refusal, Reloaded, Server, TcpApi},
    config::{self, Config, Dataplane, Mode},
    control::numbering::Numbering,
    dataplane::pins::Pins,
    heartbeat,
    probe::Probed,
    slowpath::{
        Managed, Manners,
        counters::Counters,
        flows::Flows,
        worker::{Listen, Manner, WorkerError, Workers},
    },
    state::{self, State, StateDir},
};

/// How long changes of routes and neighbours are gathered before the ways are looked up anew.
const WAYS_PAUSE: Duration = Duration::from_millis(200);
/// How often backends whose next hop does not answer are asked for.
const ASK: Duration = Duration::from_secs(1);

/// Forwards until SIGTERM or SIGINT. `path` is where `config` came from.
pub(super) async fn run(path: &Path, config: Config, object: &[u8]) -> anyhow::Result<()> {
    let state_dir = StateDir::lock(&config.forwarder.state_dir)?;
    let pins = Pins::at(&config.forwarder.bpf_dir);
    let state = prepare_state(&config, &state_dir, &pins)?;
    let adopted = pins.exist();
    let result = serve(path, config, object, (state_dir, state), &pins).await;
    if result.is_err() && !adopted {
        // Nothing of a start that failed may be left behind.
        pins.remove()?;
    }
    result
}

async fn serve(
    path: &Path,
    config: Config,
    object: &[u8],
    (state_dir, state): (StateDir, State),
    pins: &Pins,
) -> anyhow::Result<()> {
    // What may be refused comes before anything is attached.
    let api = TcpApi::of(&config.forwarder)?;
    let (ears, heard) = Ears::open(&config)?;
    let signals = Signals::take()?;
    let (desk, wishes) = Desk::open();
    let desk = Arc::new(desk);
    let counters = Arc::new(Counters::new(config.limits.backends));
    let mut ground = match config.forwarder.dataplane {
        Dataplane::Xdp => Ground::kernel(&config, &state, object, pins, &counters).await?,
        Dataplane::Userspace => Ground::memory(&config, &state, &counters)?,
    };
    let server = Server::start(&config.forwarder.api_socket, api, Arc::clone(&desk) as _)?;

    let conductor = publish_all(&ground, &config, &state)?;
    ground
        .tables
        .set_manners(manners(&config, &state.numbering));
    let (told, unreachable) = mpsc::channel(UNREACHABLE);
    ground.tables.tell_unreachable(told);
    let heard = Heard {
        unreachable,
        ..heard
    };
    let count = worker_count(&config);
    let mut connected = Connected::start(&config, count, &ground.tables, conductor.reach())?;
    let prepared = connected.prepare(&config, &state)?;
    let mut workers = start_workers(&config, &state, &ground.tables, &connected.flows())?;
    connected.send_by(&mut workers);
    connected.commit(prepared);
    let attachments = ground.attach(&config, pins)?;

    let plane = &ground.plane;
    desk.count_in(
        Arc::clone(plane),
        settle_by_number(&config, &state.numbering),
    );
    let picture = Picture::new(
        attachments,
        Arc::clone(plane),
        Arc::clone(&counters),
        connected.hub.clone(),
    );
    info!(services = config.services.len(), "forwarding");
    let daemon = Daemon {
        config_file: path.to_owned(),
        state_dir,
        state,
        saved: None,
        served: served(&config),
        config,
        ground,
        conductor,
        ears,
        picture,
        desk,
        workers: Some(workers),
        connected,
    };
    let daemon = daemon.serve(signals, heard, wishes).await;
    drop(server);
    daemon.stop();
    Ok(())
}

/// Publishes everything as it was when the daemon ended last, and takes control of it.
fn publish_all(ground: &Ground, config: &Config, state: &State) -> anyhow::Result<Conductor> {
    let plane = &ground.plane;
    let dead = plane.known_dead(config, &state.numbering)?;
    plane.publish_backends(config, &state.numbering)?;
    ground.publish_ways()?;
    let mut conductor = Conductor::new(
        Arc::clone(plane),
        config,
        &state.numbering,
        &state.services,
        |service, backend| dead.contains(&(service.name.clone(), backend.to_owned())),
    );
    plane.publish_services(config, &state.numbering, state.hash_key, &mut |service| {
        conductor.columns(service)
    })?;
    conductor.publish_living()?;
    Ok(conductor)
}

/// Signals the daemon heeds.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// What reaches the daemon of its backends' health.
pub(super) struct Heard {
    /// Reports of agents, some at a time.
    pub(super) reports: mpsc::Receiver<Vec<heartbeat::Report>>,
    /// What became of OPTIONS.
    pub(super) answers: mpsc::Receiver<Probed>,
    /// Backends that a message did not reach.
    pub(super) unreachable: mpsc::Receiver<BackendRef>,
}

/// How many such may wait. More of them say nothing new.
const UNREACHABLE: usize = 64;

/// Everything that runs.
pub(super) struct Daemon {
    pub(super) config_file: std::path::PathBuf,
    pub(super) config: Config,
    pub(super) state_dir: StateDir,
    pub(super) state: State,
    /// Version of control's state that the state file holds.
    saved: Option<u64>,
    pub(super) ground: Ground,
    pub(super) conductor: Conductor,
    pub(super) ears: Ears,
    picture: Picture,
    pub(super) desk: Arc<Desk>,
    pub(super) workers: Option<Workers>,
    pub(super) connected: Connected,
    /// What the workers were started with.
    pub(super) served: Vec<Served>,
}

impl Daemon {
    /// The loop. Every turn ends with control's decisions carried out, so whatever a turn was about,
    /// nothing waits longer than one. Only the look at every backend is not for each handful of
    /// reports: it is due at a deadline, which reports put off and never bring nearer, unless one is
    /// waited for. Measured with 1,000 backends at 10 reports a second: 0.8 % of a core, against 2.9 %
    /// with a look for each handful.
    async fn serve(
        mut self,
        mut signals: Signals,
        mut heard: Heard,
        mut wishes: mpsc::Receiver<Wish>,
    ) -> Self {
        let mut refresh = tokio::time::interval(ASK);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moved: Option<Instant> = None;
        let mut deadline = self.follow_control(&mut heard);
        loop {
            let follow = moved.unwrap_or(deadline);
            tokio::select! {
                // Orders come before reports, which never end; and reports before the look at who is
                // silent, which takes over all that wait.
                biased;
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                _ = signals.hangup.recv() => self.reload_by_signal().await,
                Some(wish) = wishes.recv() => self.grant(wish).await,
                Some(reports) = heard.reports.recv() => {
                    let awaited = self.conductor.waits_for_report();
                    self.hear(Some(reports), &mut heard);
                    if !awaited && Instant::now() < deadline {
                        self.conductor.publish();
                        deadline = self.conductor.rests_until().map_or(deadline, |rest| {
                            deadline.min(rest.into())
                        });
                        continue;
                    }
                }
                Some(probed) = heard.answers.recv() => self.answered(&probed),
                Some(backend) = heard.unreachable.recv() => self.conductor.unreachable(backend),
                // Many changes come together, and each costs a look at every way to a backend. Ways to
                // clients are asked for as they are needed.
                Some(()) = self.ground.changes.recv() => {
                    self.ground.forget_ways();
                    moved.get_or_insert_with(|| Instant::now() + WAYS_PAUSE);
                    continue;
                }
                () = tokio::time::sleep_until(follow), if moved.is_some() => {
                    moved = None;
                    self.ground.follow_ways().await;
                }
                _ = refresh.tick() => {
                    self.picture.sample(&self.config, &self.state.numbering);
                    self.ground.ask_ways().await;
                    if self.picture.unsaved.is_some() {
                        self.saved = None;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {}
            }
            deadline = self.follow_control(&mut heard);
        }
        self
    }

    /// Lets control look at everything, carries out what it decided, asks whom it wants asked, and writes
    /// down what must last. Says when control wants to look again. All that was heard comes first.
    fn follow_control(&mut self, heard: &mut Heard) -> Instant {
        self.hear(None, heard);
        while let Ok(probed) = heard.answers.try_recv() {
            self.answered(&probed);
        }
        self.carry_out();
        self.conductor
            .next_deadline()
            .map_or_else(|| Instant::now() + ASK, Into::into)
    }

    /// Carries out what control decides now.
    pub(super) fn carry_out(&mut self) {
        self.conductor.carry_out();
        for due in self.conductor.due_probes() {
            self.ears.ask(&self.config, &due);
        }
        // What goes wrong stands in the status until it is mended.
        let _ = self.save();
    }

    /// Writes the state file if it is not up to date. One that could not be written is tried again
    /// every second.
    fn save(&mut self) -> Result<(), state::StateError> {
        let version = self.conductor.saved_version();
        if self.saved == Some(version) {
            return Ok(());
        }
        self.saved = Some(version);
        self.state.services = self.conductor.saved();
        let written = self.state_dir.write(&self.state);
        match &written {
            Ok(()) => {
                if self.picture.unsaved.take().is_some() {
                    info!("the state file is up to date again");
                }
            }
            Err(fault) => {
                if self.picture.unsaved.is_none() {
                    error!(%fault, "orders and homes since then are forgotten if the daemon ends now; trying again");
                }
                self.picture.unsaved = Some(fault.to_string());
            }
        }
        written
    }

    /// Takes over all reports that wait: none may be judged silent whose report is here.
    fn hear(&mut self, first: Option<Vec<heartbeat::Report>>, heard: &mut Heard) {
        // No more than there can be, lest somebody who never stops keeps us here.
        let more = std::iter::from_fn(|| heard.reports.try_recv().ok()).take(REPORTS);
        for report in first.into_iter().chain(more).flatten() {
            let (service, backend) = (Arc::clone(&report.service), Arc::clone(&report.backend));
            self.conductor.report(&service, &backend, report.into());
        }
    }

    fn answered(&mut self, probed: &Probed) {
        let Probed {
            service,
            backend,
            question,
            answer,
        } = probed;
        self.conductor.answer(service, backend, *question, *answer);
    }

    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Status { census, reply } => {
                // What it says is in the ring.
                self.conductor.publish_all_now();
                let known = self.ears.counts();
                let status = self
                    .picture
                    .draw(
                        &self.config,
                        &self.state.numbering,
                        &self.conductor,
                        &census,
                        known,
                    )
                    .map_err(|error| Refusal::Failed(error.to_string()));
                // Whoever asked may have gone.
                let _ = reply.send(status);
            }
            Wish::Change {
                service,
                backend,
                change,
                reply,
            } => {
                let mut changed = self.conductor.change(&service, &backend, change);
                if changed.is_ok()
                    && let Err(fault) = self.save()
                {
                    changed = Err(Refusal::Failed(format!(
                        "it is so until the daemon ends, but will be forgotten then: {fault}"
                    )));
                }
                let _ = reply.send(changed);
            }
            Wish::Reload { reply } => {
                let _ = reply.send(self.reload().await);
            }
        }
    }

    async fn reload(&mut self) -> Result<Reloaded, Refusal> {
        let reloaded = reload::reload(self).await;
        match &reloaded {
            Ok(reloaded) => info!("{reloaded}"),
            Err(Refusal::Failed(fault)) => error!(fault, "the reload failed"),
            Err(refusal) => warn!(%refusal, "not reloaded, nothing changed"),
        }
        reloaded
    }

    /// What became of it stands in the log.
    async fn reload_by_signal(&mut self) {
        let _ = self.reload().await;
    }

    /// Ends what runs. The fast path goes on.
    fn stop(self) {
        self.connected.stop();
        if let Some(workers) = self.workers {
            workers.stop();
        }
        info!(
            "stopped; the fast path goes on without the daemon, `sip-forwarder unload` takes it off"
        );
    }
}

/// What the workers know of a service: they are started anew when it changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Served {
    name: String,
    vip: std::net::SocketAddr,
    /// How its messages are sent on.
    manner: String,
}

/// What the workers know of all services.
pub(super) fn served(config: &Config) -> Vec<Served> {
    let mut served: Vec<_> = config
        .services
        .iter()
        .map(|s| Served {
            name: s.name.clone(),
            vip: s.vip,
            manner: format!(
                "{:?} {} {:?} {:?} {} {} {:?}",
                s.mode,
                s.record_route,
                s.advertise,
                s.transport,
                s.large_by_tcp,
                s.edge,
                s.listeners,
            ),
        })
        .collect();
    served.sort();
    served
}

/// For how long an affinity entry may be a call that is up, in seconds, by its backend's number.
pub(super) fn settle_by_number(config: &Config, numbering: &Numbering) -> Vec<u32> {
    let mut settle = vec![0; config.limits.backends as usize];
    for service in &config.services {
        for backend in &service.backends {
            let number = numbering.backend(&service.name, &backend.name, backend.address);
            if let Some(place) = number.and_then(|n| settle.get_mut(usize::from(n.index))) {
                *place = u32::try_from(service.spread.settle.as_secs()).unwrap_or(u32::MAX);
            }
        }
    }
    settle
}

/// Workers on all VIPs.
pub(super) fn start_workers(
    config: &Config,
    state: &State,
    tables: &Arc<dyn Managed>,
    flows: &Arc<dyn Flows>,
) -> Result<Workers, WorkerError> {
    let numbering = &state.numbering;
    let vips: Vec<_> = config
        .services
        .iter()
        .filter_map(|s| {
            Some(Listen {
                service: ServiceId(numbering.service(&s.name)?),
                vip: s.vip,
                manner: manner(s, state.hash_key),
            })
        })
        .collect();
    Workers::start(
        &vips,
        worker_count(config),
        &(Arc::clone(tables) as _),
        flows,
    )
}

/// How a service's messages are sent on.
fn manner(service: &config::Service, key: [u64; 2]) -> Manner {
    match service.mode {
        Mode::Nat => Manner::Transparent,
        Mode::Proxy => Manner::Proxy(Arc::new(proxy_of(service, key))),
    }
}

/// As many workers as configured, or one for each core.
fn worker_count(config: &Config) -> usize {
    match config.forwarder.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// How the services behave when nobody takes new calls.
pub(super) fn manners(config: &Config, numbering: &Numbering) -> HashMap<ServiceId, Manners> {
    let of = |service: &config::Service| Manners {
        overload: service.spread.overload,
        retry_after: service.spread.retry_after,
        emergency: service.spread.emergency.clone(),
        backends: service
            .backends
            .iter()
            .filter_map(|b| numbering.backend(&service.name, &b.name, b.address))
            .map(crate::control::numbering::Number::id)
            .collect(),
    };
    config
        .services
        .iter()
        .filter_map(|s| Some((ServiceId(numbering.service(&s.name)?), of(s))))
        .collect()
}

/// The state, with numbers for all that is configured, written back.
fn prepare_state(config: &Config, state_dir: &StateDir, pins: &Pins) -> anyhow::Result<State> {
    let before = state_dir.read()?;
    let mut state = if let Some(state) = before.clone() {
        state
    } else {
        // They may be another daemon's, and traffic may be flowing through them.
        anyhow::ensure!(
            !pins.exist(),
            "there are maps pinned in {}, but no state file in {} that says what is in them; give the state_dir they were made with, or take them off with `sip-forwarder unload`",
            config.forwarder.bpf_dir.display(),
            config.forwarder.state_dir.display()
        );
        State::new(state::new_hash_key()?)
    };
    state.numbering.assign(config);
    // On a full disk too, a restart with nothing new must succeed.
    if before.as_ref() != Some(&state) {
        state_dir.write(&state)?;
    }
    Ok(state)
}
