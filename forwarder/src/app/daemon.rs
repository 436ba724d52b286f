//! The daemon's life: config → tables → workers → attach → serve → stop.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use aya::Ebpf;
use sip_forwarder_ebpf::abi::ServiceId;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{picture::Picture, ways::Ways};
use crate::{
    api::{Server, TcpApi},
    config::Config,
    control::{
        numbering::Numbering,
        ring::{self, RingMember},
    },
    dataplane::{
        KernelTables, Maps,
        attach::{self, Attachment},
        counters::Counters,
        environment, maps_load,
        nexthop::Resolver,
        pins::Pins,
        program_log, publish,
    },
    slowpath::worker::Workers,
    state::{self, State, StateDir},
};

/// How often backends whose next hop does not answer are asked for.
const ASK: Duration = Duration::from_secs(1);

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
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (resolver, mut changes) = Resolver::open()?;
    let mut ways = Ways::find(config, &state.numbering, &resolver).await?;

    pins.create()?;
    let mut ebpf = maps_load(object, &config.limits, Some(pins))?;
    let maps = Arc::new(Maps::take(&mut ebpf)?);
    publish::backends(&maps, config, &state.numbering)?;
    ways.publish(&maps)?;
    publish::services(
        &maps,
        config,
        &state.numbering,
        state.hash_key,
        &mut |service| open_ring(service, &state.numbering),
    )?;

    let counters = Arc::new(Counters::new(config.limits.backends));
    let tables = Arc::new(KernelTables::new(
        Arc::clone(&maps),
        Arc::clone(&counters),
        config.limits.services,
    )?);
    let workers = Workers::start(&vips(config, &state), worker_count(config), tables)?;
    program_log::follow(&mut ebpf);
    let attachments = attach_all(&mut ebpf, config, &maps, pins)?;

    let picture = Picture::new(
        config.clone(),
        state.numbering.clone(),
        attachments,
        Arc::clone(&maps),
        counters,
    );
    let server = Server::start(
        &config.forwarder.api_socket,
        TcpApi::of(&config.forwarder)?,
        Arc::new(picture),
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

/// The slots of a service's ring with every backend open.
fn open_ring(
    service: &crate::config::Service,
    numbering: &Numbering,
) -> Vec<sip_forwarder_ebpf::abi::Slot> {
    let members: Vec<RingMember<'_>> = service
        .backends
        .iter()
        .filter_map(|b| {
            Some(RingMember {
                id: numbering.backend(&service.name, &b.name, b.address)?.id(),
                name: &b.name,
                weight: b.weight,
                open: true,
            })
        })
        .collect();
    ring::build(&members)
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
