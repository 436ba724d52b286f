//! What the daemon stands on: the kernel with the XDP program, or this process alone.

use std::sync::Arc;

use anyhow::Context as _;
use aya::Ebpf;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::ways::{Unroutable, Ways};
use crate::{
    config::Config,
    control::numbering::Numbering,
    dataplane::{
        KernelStore, KernelTables, Maps, Plane,
        attach::{self, Attachment},
        environment, maps_load, migrate,
        nexthop::Resolver,
        pins::Pins,
        program_log, publish, stages,
    },
    slowpath::{
        Managed, Placer,
        counters::Counters,
        memory::{MemoryStore, Sizes},
    },
    state::State,
};

/// Tables that control publishes to and workers ask.
pub(super) struct Ground {
    /// Where control publishes.
    pub(super) plane: Arc<dyn Plane>,
    /// What the workers ask.
    pub(super) tables: Arc<dyn Managed>,
    /// Something happened to routes, neighbours or links. Nothing ever does without XDP.
    pub(super) changes: mpsc::Receiver<()>,
    kernel: Option<Kernel>,
}

/// The kernel's side.
struct Kernel {
    maps: Arc<Maps>,
    ebpf: Ebpf,
    ways: Ways,
    resolver: Resolver,
}

impl Ground {
    /// The XDP program's maps, made or adopted. The program is not attached yet.
    pub(super) async fn kernel(
        config: &Config,
        state: &State,
        object: &[u8],
        pins: &Pins,
        counters: &Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let (resolver, changes) = Resolver::open()?;
        let ways = Ways::find(config, &state.numbering, &resolver, unroutable(pins)).await?;
        pins.create()?;
        migrate::share_affinity(pins, config.limits.affinity_entries);
        let mut ebpf = maps_load(object, &config.limits, Some(pins))?;
        let maps = Arc::new(Maps::take(&mut ebpf)?);
        let tables = KernelTables::new(
            KernelStore(Arc::clone(&maps)),
            Arc::clone(counters),
            state.hash_key,
            config.limits.recent_lines(),
        );
        Ok(Self {
            plane: Arc::clone(&maps) as _,
            tables: Arc::new(tables),
            changes,
            kernel: Some(Kernel {
                maps,
                ebpf,
                ways,
                resolver,
            }),
        })
    }

    /// Tables of this process.
    pub(super) fn memory(
        config: &Config,
        state: &State,
        counters: &Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let limits = &config.limits;
        let recent_lines = limits.recent_lines();
        let sizes = Sizes {
            services: limits.services,
            backends: limits.backends,
            calls: limits.affinity_entries,
            recent_lines,
        };
        let store = MemoryStore::new(sizes)
            .context("there is no memory for tables of these [limits]; lower them")?;
        let store = Arc::new(store);
        let tables = Placer::new(
            Arc::clone(&store),
            Arc::clone(counters),
            state.hash_key,
            recent_lines,
        );
        Ok(Self {
            plane: Arc::new(store),
            tables: Arc::new(tables),
            changes: mpsc::channel(1).1,
            kernel: None,
        })
    }

    /// Tells the program the ways to all backends.
    pub(super) fn publish_ways(&self) -> anyhow::Result<()> {
        match &self.kernel {
            Some(kernel) => kernel.ways.publish(&kernel.maps),
            None => Ok(()),
        }
    }

    /// Puts the program on the interfaces, if there is one, and takes over what the maps of another
    /// version know: before, and after for what the old program wrote until it was replaced.
    pub(super) fn attach(
        &mut self,
        config: &Config,
        pins: &Pins,
    ) -> anyhow::Result<Vec<Attachment>> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(Vec::new());
        };
        let Kernel { maps, ebpf, .. } = kernel;
        migrate::adopt_calls(maps, pins, config.limits.services)?;
        program_log::follow(ebpf);
        let attachments = attach_all(ebpf, config, maps, pins)?;
        migrate::adopt_calls(maps, pins, config.limits.services)?;
        pins.remove_other_versions()?;
        Ok(attachments)
    }

    /// Finds the ways that another configuration needs; changes nothing.
    pub(super) async fn find_ways(
        &self,
        config: &Config,
        numbering: &Numbering,
    ) -> anyhow::Result<Option<Ways>> {
        match &self.kernel {
            Some(kernel) => {
                let found =
                    Ways::find(config, numbering, &kernel.resolver, Unroutable::Refuse).await?;
                Ok(Some(found))
            }
            None => Ok(None),
        }
    }

    /// Goes on with other ways.
    pub(super) fn set_ways(&mut self, ways: Option<Ways>) {
        if let (Some(kernel), Some(ways)) = (&mut self.kernel, ways) {
            kernel.ways = ways;
        }
    }

    /// Has the program ask the kernel anew for the ways to clients.
    pub(super) fn forget_ways(&self) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        if let Err(error) = publish::forget_ways(&kernel.maps) {
            warn!(%error, "cannot tell the program that routes changed; it asks anew within a second");
        }
    }

    /// Looks all ways up again.
    pub(super) async fn follow_ways(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if let Err(error) = kernel.ways.follow(&kernel.resolver, &kernel.maps).await {
            warn!(%error, "cannot follow a change of routes or neighbours; the next one is another chance");
        }
    }

    /// Has the kernel ask for neighbours that do not answer.
    pub(super) async fn ask_ways(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.ways.ask(&kernel.resolver).await;
        }
    }
}

/// What a backend without a route means: a fault of a new configuration; but where traffic flows
/// already, one lost route must not keep the daemon from starting.
fn unroutable(pins: &Pins) -> Unroutable {
    if pins.exist() {
        Unroutable::Warn
    } else {
        Unroutable::Refuse
    }
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
    let loaded = stages::load(ebpf)?;
    let pin = pins.new_stages();
    loaded
        .pin(&pin)
        .with_context(|| format!("cannot pin the array of stages at {}", pin.display()))?;
    let program = stages::entry(ebpf)?;
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
    // From here on no interface runs the program of the daemon before.
    pins.remove_stages_but(&pin)?;
    Ok(attachments)
}
