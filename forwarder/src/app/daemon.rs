//! The daemon's life: config → tables → workers → attach → serve → stop.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use aya::Ebpf;
use sip_forwarder_ebpf::abi::{BackendId, ServiceId};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{operator::Fixed, picture::Picture};
use crate::{
    api::{Server, TcpApi},
    config::Config,
    control::numbering::Numbering,
    dataplane::{
        KernelTables, Maps,
        attach::{self, Attachment},
        counters::Counters,
        environment, maps_load,
        nexthop::{NextHop, Resolver},
        pins::Pins,
        program_log, publish,
    },
    slowpath::worker::Workers,
    state::{self, State, StateDir},
};

/// How often backends whose next hop does not answer are asked for.
const ASK: Duration = Duration::from_secs(1);
/// After how many of these the others are made sure of: what XDP sends does not tell the kernel that
/// a neighbour is in use.
const ASSURE: u32 = 15;

/// Forwards until SIGTERM or SIGINT.
pub(super) async fn run(config: Config, object: &[u8]) -> anyhow::Result<()> {
    let state_dir = StateDir::lock(&config.forwarder.state_dir)?;
    let pins = Pins::at(&config.forwarder.bpf_dir);
    let state = prepare_state(&config, &state_dir, &pins)?;
    let adopted = pins.exist();
    let result = serve(&config, object, state, &pins).await;
    if result.is_err() && !adopted {
        // Nothing of a start that failed may be left behind.
        pins.remove()?;
    }
    result
}

async fn serve(config: &Config, object: &[u8], state: State, pins: &Pins) -> anyhow::Result<()> {
    let tcp = TcpApi::of(&config.forwarder)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (resolver, mut changes) = Resolver::open()?;
    let mut ways = Ways::find(config, &state, &resolver).await?;

    pins.create()?;
    let mut ebpf = maps_load(object, &config.limits, Some(pins))?;
    let maps = Arc::new(Maps::take(&mut ebpf)?);
    publish::backends(&maps, config, &state.numbering)?;
    ways.publish(&maps)?;
    publish::services(&maps, config, &state.numbering, state.hash_key)?;

    let counters = Arc::new(Counters::new(config.limits.backends));
    let tables = Arc::new(KernelTables::new(Arc::clone(&maps), Arc::clone(&counters))?);
    let workers = Workers::start(&vips(config, &state), worker_count(config), tables)?;
    program_log::follow(&mut ebpf);
    let attachments = attach_all(&mut ebpf, config, &maps, pins)?;

    let picture = Picture::new(attachments, Arc::clone(&maps), counters);
    let server = Server::start(
        &config.forwarder.api_socket,
        tcp,
        Arc::new(Fixed::new(picture, config.clone(), state.numbering.clone())),
    )?;
    info!(services = config.services.len(), "forwarding");
    let mut refresh = tokio::time::interval(ASK);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => warn!("SIGHUP does nothing; restart to read the configuration anew (no message is lost)"),
            Some(()) = changes.recv() => {
                if let Err(error) = ways.follow(&resolver, &maps).await {
                    warn!(%error, "cannot follow a change of routes or neighbours; the next one is another chance");
                }
            }
            _ = refresh.tick() => ways.ask(&resolver).await,
        }
    }
    drop(server);
    workers.stop();
    info!("stopped; the fast path goes on without the daemon, `sip-forwarder unload` takes it off");
    Ok(())
}

/// As many workers as configured, or one for each core.
fn worker_count(config: &Config) -> usize {
    match config.forwarder.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
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
        State {
            hash_key: state::new_hash_key()?,
            numbering: Numbering::default(),
        }
    };
    state.numbering.assign(config);
    state_dir.write(&state)?;
    Ok(state)
}

fn vips(config: &Config, state: &State) -> Vec<(ServiceId, std::net::SocketAddr)> {
    config
        .services
        .iter()
        .filter_map(|s| Some((ServiceId(state.numbering.service(&s.name)?), s.vip)))
        .collect()
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

/// A backend and the way to it.
struct Way {
    name: String,
    id: BackendId,
    address: std::net::IpAddr,
    next_hop: Option<NextHop>,
}

/// The ways to all backends.
struct Ways {
    all: Vec<Way>,
    /// Interfaces the program is attached to: only by these may the fast path send.
    interfaces: Vec<u32>,
    /// How often neighbours were asked for.
    asked: u32,
}

impl Ways {
    /// Looks all of them up. A backend without a route is a fault of the configuration.
    async fn find(config: &Config, state: &State, resolver: &Resolver) -> anyhow::Result<Self> {
        let interfaces = config
            .forwarder
            .interfaces
            .iter()
            .filter_map(|name| environment::interface_index(name))
            .collect();
        let mut found = Self {
            all: Vec::new(),
            interfaces,
            asked: 0,
        };
        let neighbours = resolver.neighbours().await?;
        for service in &config.services {
            for backend in &service.backends {
                let name = format!("service `{}`, backend `{}`", service.name, backend.name);
                let address = backend.address.ip();
                let next_hop = resolver
                    .resolve(address, &neighbours)
                    .await
                    .with_context(|| name.clone())?;
                let Some(number) =
                    state
                        .numbering
                        .backend(&service.name, &backend.name, backend.address)
                else {
                    continue;
                };
                let mut way = Way {
                    name,
                    id: number.id(),
                    address,
                    next_hop: None,
                };
                way.next_hop = found.usable(&way, next_hop);
                if way.next_hop.is_none() {
                    warn!(backend = way.name, %address, "its next hop is not resolved yet; the slow path has it until then");
                }
                found.all.push(way);
            }
        }
        Ok(found)
    }

    /// The next hop, if the fast path can send by its interface.
    fn usable(&self, way: &Way, next_hop: Option<NextHop>) -> Option<NextHop> {
        let hop = next_hop?;
        if !self.interfaces.contains(&hop.interface) {
            warn!(
                backend = way.name,
                interface = hop.interface,
                "the way to it leaves by an interface that is not in forwarder.interfaces; the slow path has it"
            );
            return None;
        }
        Some(hop)
    }

    fn publish(&self, maps: &Maps) -> anyhow::Result<()> {
        for way in &self.all {
            publish::set_next_hop(maps, way.id, way.next_hop.as_ref())?;
        }
        Ok(())
    }

    /// Looks all of them up again and tells the program what changed.
    async fn follow(&mut self, resolver: &Resolver, maps: &Maps) -> anyhow::Result<()> {
        let neighbours = resolver.neighbours().await?;
        for index in 0..self.all.len() {
            let found = match resolver.resolve(self.all[index].address, &neighbours).await {
                Ok(found) => self.usable(&self.all[index], found),
                Err(error) => {
                    warn!(backend = self.all[index].name, %error, "the way is lost");
                    None
                }
            };
            let way = &mut self.all[index];
            if way.next_hop != found {
                info!(backend = way.name, next_hop = ?found, "the way changed");
                publish::set_next_hop(maps, way.id, found.as_ref())?;
                way.next_hop = found;
            }
        }
        Ok(())
    }

    /// Has the kernel ask for neighbours that are not resolved, and now and then for all.
    async fn ask(&mut self, resolver: &Resolver) {
        let everybody = self.asked.is_multiple_of(ASSURE);
        self.asked = self.asked.wrapping_add(1);
        let wanted: Vec<&Way> = self
            .all
            .iter()
            .filter(|way| everybody || way.next_hop.is_none())
            .collect();
        if wanted.is_empty() {
            return;
        }
        let neighbours = resolver.neighbours().await.unwrap_or_default();
        for way in wanted {
            resolver.refresh(way.address, &neighbours).await;
        }
    }
}
