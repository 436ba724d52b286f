//! The daemon's life: config → tables → workers → attach → serve → stop.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use aya::Ebpf;
use sip_forwarder_ebpf::abi::{BackendFlags, ServiceId};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tracing::{error, info, warn};

use super::{
    conductor::Conductor,
    desk::{Desk, Wish},
    health::{Ears, REPORTS},
    picture::Picture,
    reload,
    ways::Ways,
};
use crate::{
    api::{Refusal, Server, TcpApi},
    config::{self, Config},
    control::numbering::Numbering,
    dataplane::{
        KernelStore, KernelTables, Maps, MapsError,
        attach::{self, Attachment},
        environment, maps_load, migrate,
        nexthop::Resolver,
        pins::Pins,
        program_log, publish,
    },
    heartbeat,
    probe::Probed,
    slowpath::{
        Manners,
        counters::Counters,
        worker::{WorkerError, Workers},
    },
    state::{self, State, StateDir},
};

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
    state: (StateDir, State),
    pins: &Pins,
) -> anyhow::Result<()> {
    // What may be refused comes before anything is attached.
    let api = TcpApi::of(&config.forwarder)?;
    let (ears, heard) = Ears::open(&config)?;
    let signals = Signals::take()?;
    let (resolver, changes) = Resolver::open()?;
    let ways = Ways::find(&config, &state.1.numbering, &resolver).await?;

    pins.create()?;
    let mut ebpf = maps_load(object, &config.limits, Some(pins))?;
    let maps = Arc::new(Maps::take(&mut ebpf)?);
    let conductor = publish_all(&maps, &config, &state.1, &ways)?;
    migrate::adopt_calls(&maps, pins, config.limits.services)?;

    let counters = Arc::new(Counters::new(config.limits.backends));
    let tables = Arc::new(KernelTables::new(
        KernelStore(Arc::clone(&maps)),
        Arc::clone(&counters),
        state.1.hash_key,
        config.limits.services,
        config.limits.recent_entries.next_power_of_two(),
    ));
    tables.set_manners(manners(&config, &state.1.numbering));
    let workers = start_workers(&config, &state.1.numbering, &tables)?;
    program_log::follow(&mut ebpf);
    let attachments = attach_all(&mut ebpf, &config, &maps, pins)?;
    // What the old program wrote until it was replaced.
    migrate::adopt_calls(&maps, pins, config.limits.services)?;
    pins.remove_other_versions()?;

    let (desk, wishes) = Desk::open(Arc::clone(&maps));
    let server = Server::start(&config.forwarder.api_socket, api, Arc::new(desk))?;
    let picture = Picture::new(attachments, Arc::clone(&maps), Arc::clone(&counters));
    info!(services = config.services.len(), "forwarding");
    let daemon = Daemon {
        config_file: path.to_owned(),
        config,
        state_dir: state.0,
        state: state.1,
        saved: None,
        maps,
        tables,
        conductor,
        ways,
        resolver,
        ears,
        picture,
        workers: Some(workers),
    };
    let daemon = daemon.serve(signals, changes, heard, wishes).await;
    drop(server);
    daemon.stop();
    Ok(())
}

/// Publishes everything as it was when the daemon ended last, and takes control of it.
fn publish_all(
    maps: &Arc<Maps>,
    config: &Config,
    state: &State,
    ways: &Ways,
) -> anyhow::Result<Conductor> {
    let dead = known_dead(maps, config, &state.numbering)?;
    publish::backends(maps, config, &state.numbering)?;
    ways.publish(maps)?;
    let mut conductor = Conductor::new(
        Arc::clone(maps),
        config,
        &state.numbering,
        &state.services,
        |service, backend| dead.contains(&(service.name.clone(), backend.to_owned())),
    );
    publish::services(
        maps,
        config,
        &state.numbering,
        state.hash_key,
        &mut |service| conductor.columns(service),
    )?;
    conductor.publish_living()?;
    Ok(conductor)
}

/// Service and name of the backends that adopted maps say are dead.
fn known_dead(
    maps: &Maps,
    config: &Config,
    numbering: &Numbering,
) -> Result<Vec<(String, String)>, MapsError> {
    let mut dead = Vec::new();
    for service in &config.services {
        for backend in &service.backends {
            let number = numbering.backend(&service.name, &backend.name, backend.address);
            let Some(number) = number else { continue };
            let entry = maps.backends.get(u32::from(number.index))?;
            let same =
                entry.endpoint == backend.address.into() && entry.incarnation == number.incarnation;
            if same && !entry.flags.has(BackendFlags::ALIVE) {
                dead.push((service.name.clone(), backend.name.clone()));
            }
        }
    }
    Ok(dead)
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
}

/// Everything that runs.
pub(super) struct Daemon {
    pub(super) config_file: std::path::PathBuf,
    pub(super) config: Config,
    pub(super) state_dir: StateDir,
    pub(super) state: State,
    /// Version of control's state that the state file holds.
    saved: Option<u64>,
    pub(super) maps: Arc<Maps>,
    pub(super) tables: Arc<KernelTables>,
    pub(super) conductor: Conductor,
    pub(super) ways: Ways,
    pub(super) resolver: Resolver,
    pub(super) ears: Ears,
    picture: Picture,
    pub(super) workers: Option<Workers>,
}

impl Daemon {
    /// The loop. Every turn ends with control's decisions carried out, so whatever a turn was about,
    /// nothing waits longer than one. Only the look at every backend is not for each handful of
    /// reports: it is due at a deadline, which reports put off and never bring nearer. Measured with
    /// 1,000 backends at 10 reports a second: 0.8 % of a core, against 2.9 % with a look for each handful.
    async fn serve(
        mut self,
        mut signals: Signals,
        mut changes: mpsc::Receiver<()>,
        mut heard: Heard,
        mut wishes: mpsc::Receiver<Wish>,
    ) -> Self {
        let mut refresh = tokio::time::interval(ASK);
        let mut deadline = self.follow_control();
        loop {
            tokio::select! {
                // What was heard comes before judging who is silent.
                biased;
                Some(reports) = heard.reports.recv() => {
                    let awaited = self.conductor.waits_for_report();
                    self.hear(reports, &mut heard.reports);
                    if !awaited && tokio::time::Instant::now() < deadline {
                        self.conductor.publish();
                        continue;
                    }
                }
                Some(probed) = heard.answers.recv() => {
                    self.conductor.answer(&probed.service, &probed.backend, probed.answer.into());
                }
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                _ = signals.hangup.recv() => self.reload_by_signal().await,
                Some(wish) = wishes.recv() => self.grant(wish).await,
                Some(()) = changes.recv() => {
                    if let Err(error) = self.ways.follow(&self.resolver, &self.maps).await {
                        warn!(%error, "cannot follow a change of routes or neighbours; the next one is another chance");
                    }
                }
                _ = refresh.tick() => {
                    self.picture.sample(&self.config, &self.state.numbering);
                    self.ways.ask(&self.resolver).await;
                }
                () = tokio::time::sleep_until(deadline) => {}
            }
            deadline = self.follow_control();
        }
        self
    }

    /// Lets control look at everything, carries out what it decided, asks whom it wants asked, and writes
    /// down what must last. Says when control wants to look again.
    pub(super) fn follow_control(&mut self) -> tokio::time::Instant {
        self.conductor.carry_out();
        for due in self.conductor.due_probes() {
            self.ears.ask(&self.config, &due);
        }
        if let Err(fault) = self.save() {
            error!(%fault, "what was ordered holds until the daemon ends, and is forgotten then");
        }
        self.conductor
            .next_deadline()
            .map_or_else(|| tokio::time::Instant::now() + ASK, Into::into)
    }

    /// Writes the state file if it is not up to date.
    fn save(&mut self) -> Result<(), state::StateError> {
        let version = self.conductor.saved_version();
        if self.saved == Some(version) {
            return Ok(());
        }
        // Also if it fails: not to fail again at every turn.
        self.saved = Some(version);
        self.state.services = self.conductor.saved();
        self.state_dir.write(&self.state)
    }

    /// Takes over all reports that wait: none may be judged silent whose report is here.
    fn hear(
        &mut self,
        first: Vec<heartbeat::Report>,
        waiting: &mut mpsc::Receiver<Vec<heartbeat::Report>>,
    ) {
        // No more than there can be, lest somebody who never stops keeps us here.
        let more = std::iter::from_fn(|| waiting.try_recv().ok()).take(REPORTS);
        for report in std::iter::once(first).chain(more).flatten() {
            let (service, backend) = (Arc::clone(&report.service), Arc::clone(&report.backend));
            self.conductor.report(&service, &backend, report.into());
        }
    }

    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Status { calls, reply } => {
                let known = self.ears.counts();
                let status = self
                    .picture
                    .draw(
                        &self.config,
                        &self.state.numbering,
                        &self.conductor,
                        &calls,
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
                let reloaded = reload::reload(self).await;
                if let Err(refusal) = &reloaded {
                    warn!(%refusal, "not reloaded, nothing changed");
                }
                let _ = reply.send(reloaded);
            }
        }
    }

    async fn reload_by_signal(&mut self) {
        match reload::reload(self).await {
            Ok(reloaded) => info!("{reloaded}"),
            Err(refusal) => warn!(%refusal, "not reloaded, nothing changed"),
        }
    }

    /// Ends what runs. The fast path goes on.
    fn stop(self) {
        if let Some(workers) = self.workers {
            workers.stop();
        }
        info!(
            "stopped; the fast path goes on without the daemon, `sip-forwarder unload` takes it off"
        );
    }
}

/// Workers on all VIPs.
pub(super) fn start_workers(
    config: &Config,
    numbering: &Numbering,
    tables: &Arc<KernelTables>,
) -> Result<Workers, WorkerError> {
    let vips: Vec<_> = config
        .services
        .iter()
        .filter_map(|s| Some((ServiceId(numbering.service(&s.name)?), s.vip)))
        .collect();
    Workers::start(&vips, worker_count(config), Arc::clone(tables) as _)
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
    let mut state = if let Some(state) = state_dir.read()? {
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
    state_dir.write(&state)?;
    Ok(state)
}

/// Puts the program on every configured interface, and takes it off those that are so no longer.
fn attach_all(
    ebpf: &mut Ebpf,
    config: &Config,
    maps: &Maps,
    pins: &Pins,
) -> anyhow::Result<Vec<Attachment>> {
    let interfaces = &config.forwarder.interfaces;
    for interface in interfaces {
        if let Some(index) = environment::interface_index(interface) {
            maps.allow_interface(index)?;
        }
    }
    let program = attach::load_program(ebpf)?;
    let attachments = interfaces
        .iter()
        .map(|interface| attach::attach(program, interface, config.forwarder.xdp, pins))
        .collect::<Result<Vec<_>, _>>()?;
    for old in pins.linked_interfaces() {
        if !interfaces.contains(&old) {
            info!(
                interface = old,
                "no longer configured; taking the program off"
            );
            std::fs::remove_file(pins.link(&old))
                .with_context(|| format!("cannot unpin the link to {old}"))?;
        }
    }
    Ok(attachments)
}
