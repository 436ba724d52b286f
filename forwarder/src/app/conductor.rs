//! What control decides, carried out in the maps: one [`ServiceControl`] for each service.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use sip_forwarder_ebpf::abi::{BackendId, BackendRef, ServiceId, Slot};
use tracing::{error, info, warn};

use crate::{
    api::{Change, Changed, Refusal},
    config::{self, BackendTransport, Config, Heartbeats},
    control::{
        Now,
        numbering::Numbering,
        probing::Answer,
        service::{Level, OverrideChange, Plan, Report, Saved, ServiceControl, Timing},
    },
    dataplane::{MapsError, Plane},
    probe::Question,
    stream::Reach,
};

/// One service under control.
struct Conducted {
    name: String,
    id: ServiceId,
    numbers: HashMap<String, BackendId>,
    control: ServiceControl,
    /// Version of what the maps hold.
    published: u64,
    /// Not published again before this moment, unless by order.
    rest: Now,
}

/// How long a service rests after its ring was published: many backends that die or return together
/// are few rings, and the first is not late.
const REST: Duration = Duration::from_millis(20);
/// And after its maps could not be written.
const REST_AFTER_FAULT: Duration = Duration::from_secs(1);

/// All services under control, and the maps they are published in.
pub(super) struct Conductor {
    services: Vec<Conducted>,
    plane: Arc<dyn Plane>,
    reach: Arc<Reach>,
    start: Instant,
    /// How often the configuration changed.
    configurations: u64,
}

/// A backend whose OPTIONS are due.
pub(super) struct DueProbe {
    /// Its service.
    pub(super) service: String,
    /// Its name.
    pub(super) backend: String,
    /// What is asked.
    pub(super) question: Question,
    /// The transport to ask by; `None` if that is the service's.
    pub(super) transport: Option<BackendTransport>,
}

impl Conductor {
    /// Takes control of all services, with what was saved of them. Nothing is published yet.
    pub(super) fn new(
        plane: Arc<dyn Plane>,
        config: &Config,
        numbering: &Numbering,
        saved: &BTreeMap<String, Saved>,
        was_dead: impl Fn(&config::Service, &str) -> bool,
    ) -> Self {
        let start = Instant::now();
        let nothing = Saved::default();
        let services = config
            .services
            .iter()
            .map(|service| {
                let control = ServiceControl::new(
                    start.elapsed(),
                    unix(),
                    service,
                    timing(config),
                    saved.get(&service.name).unwrap_or(&nothing),
                    |backend| was_dead(service, backend),
                );
                Conducted::of(service, numbering, control)
            })
            .collect();
        Self {
            services,
            plane,
            reach: Arc::default(),
            start,
            configurations: 0,
        }
    }

    /// Goes on with another configuration; services that stay keep what is known of them.
    pub(super) fn reconfigure(&mut self, config: &Config, numbering: &Numbering) {
        let now = self.now();
        self.configurations += 1;
        let mut old: HashMap<String, ServiceControl> = self
            .services
            .drain(..)
            .map(|s| (s.name, s.control))
            .collect();
        self.services = config
            .services
            .iter()
            .map(|service| {
                let timing = timing(config);
                let control = if let Some(mut control) = old.remove(&service.name) {
                    control.reconfigure(now, unix(), service, timing);
                    control
                } else {
                    let nothing = Saved::default();
                    ServiceControl::new(now, unix(), service, timing, &nothing, |_| false)
                };
                Conducted::of(service, numbering, control)
            })
            .collect();
    }

    /// Who takes large messages by TCP, kept up to date.
    pub(super) fn reach(&self) -> Arc<Reach> {
        Arc::clone(&self.reach)
    }

    /// Time since the conductor was made: the clock of control.
    pub(super) fn now(&self) -> Now {
        self.start.elapsed()
    }

    /// The slots of a service that is about to be published whole.
    pub(super) fn columns(&mut self, service: &config::Service) -> Vec<Slot> {
        self.services
            .iter_mut()
            .find(|s| s.name == service.name)
            .map(Conducted::columns)
            .unwrap_or_default()
    }

    /// Publishes who lives, for services that were just published whole.
    pub(super) fn publish_living(&self) -> Result<(), MapsError> {
        for service in &self.services {
            service.publish_living(&*self.plane, &service.control.plan(), |_| true)?;
        }
        self.publish_reach();
        Ok(())
    }

    fn publish_reach(&self) {
        let members = self.services.iter().flat_map(|s| s.control.plan().members);
        let by_tcp = members.filter(|member| member.large_by_tcp == Some(true));
        let addresses: HashSet<_> = by_tcp.map(|member| member.address).collect();
        self.reach.set(addresses);
    }

    /// An agent's report.
    pub(super) fn report(&mut self, service: &str, backend: &str, report: Report) {
        let now = self.now();
        for conducted in &mut self.services {
            if conducted.name == service {
                conducted.control.report(now, backend, report);
            } else {
                // The ears are shared: what is heard for one proves them for all.
                conducted.control.heard_elsewhere(now);
            }
        }
    }

    /// What became of an OPTIONS.
    pub(super) fn answer(&mut self, service: &str, backend: &str, of: Question, answer: Answer) {
        let now = self.now();
        let Some(service) = self.find(service) else {
            return;
        };
        match of {
            Question::Life => service.control.answer(now, backend, answer),
            Question::Transport => service.control.transport_answer(now, backend, answer),
        }
    }

    /// A message did not reach a backend: it is to be asked at once.
    pub(super) fn unreachable(&mut self, backend: BackendRef) {
        let now = self.now();
        for service in &mut self.services {
            if service.id != backend.service {
                continue;
            }
            let named = service
                .numbers
                .iter()
                .find(|(_, id)| **id == backend.backend);
            if let Some((name, _)) = named {
                service.control.unreachable(now, name);
            }
        }
    }

    /// An order of the operator. In the ring when this returns.
    pub(super) fn change(
        &mut self,
        service: &str,
        backend: &str,
        change: Change,
    ) -> Result<Changed, Refusal> {
        let now = self.now();
        let conducted = self.find(service).ok_or_else(|| {
            Refusal::NotFound(format!(
                "there is no service `{service}`; see `sip-forwarder status`"
            ))
        })?;
        let order = match change {
            Change::Weight(weight) => OverrideChange::Weight(weight),
            Change::Drain => OverrideChange::Drain,
            Change::Enable => OverrideChange::Enable,
            Change::Disable => OverrideChange::Disable,
        };
        conducted
            .control
            .set_override(now, backend, order)
            .map_err(|_| {
                Refusal::NotFound(format!(
                    "service `{service}` has no backend `{backend}`; see `sip-forwarder status`"
                ))
            })?;
        if let Some(conducted) = self.find(service) {
            conducted.control.tick(now, unix());
        }
        let plane = Arc::clone(&self.plane);
        if let Some(conducted) = self.find(service) {
            conducted.follow(&*plane, now).map_err(|fault| {
                Refusal::Failed(format!(
                    "it is ordered, but not in the ring: {fault}; the daemon tries again"
                ))
            })?;
        }
        let member = self
            .find(service)
            .and_then(|s| {
                let members = s.control.plan().members;
                members.into_iter().find(|m| m.name == backend)
            })
            .ok_or_else(|| Refusal::Failed("the backend is gone".to_owned()))?;
        Ok(Changed {
            service: service.to_owned(),
            backend: backend.to_owned(),
            state: member.state.word().to_owned(),
            weight: member.weight,
        })
    }

    /// Lets time pass, tells the log what changed and makes the maps follow.
    pub(super) fn carry_out(&mut self) {
        let now = self.now();
        for service in &mut self.services {
            service.control.tick(now, unix());
        }
        self.publish();
    }

    /// Must the next report be followed by [`Conductor::carry_out`], before any deadline?
    pub(super) fn waits_for_report(&self) -> bool {
        self.services.iter().any(|s| s.control.waits_for_report())
    }

    /// Tells the log what changed and makes the maps follow, as of the moment control heard of last. Costs
    /// next to nothing if there is nothing new.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        let mut moved = false;
        for service in &mut self.services {
            for change in service.control.take_changes() {
                match change.level() {
                    Level::Info => info!(service = service.name, "{change}"),
                    Level::Warn => warn!(service = service.name, "{change}"),
                }
            }
            if now < service.rest || !service.waits() {
                continue;
            }
            moved = true;
            if let Err(fault) = service.follow(&*self.plane, now) {
                error!(service = service.name, error = %fault, "cannot publish; trying again in a second");
            }
        }
        if moved {
            self.publish_reach();
        }
    }

    /// Publishes what waits.
    pub(super) fn publish_all_now(&mut self) {
        for service in &mut self.services {
            service.rest = Now::ZERO;
        }
        self.publish();
    }

    /// When a service that rests wants to be published; `None` if none does.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.services
            .iter()
            .filter_map(Conducted::rests_until)
            .min()
            .map(|rest| self.start + rest)
    }

    /// When [`Conductor::carry_out`] wants to be called, at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let now = self.now();
        self.services
            .iter()
            .flat_map(|s| [s.control.next_deadline(now), s.rests_until()])
            .flatten()
            .min()
            .map(|deadline| self.start + deadline)
    }

    /// Whom to ask by OPTIONS now.
    pub(super) fn due_probes(&mut self) -> Vec<DueProbe> {
        let now = self.now();
        let mut due = Vec::new();
        for service in &mut self.services {
            let name = &service.name;
            let lives = service.control.due_probes(now);
            due.extend(lives.into_iter().map(|backend| DueProbe {
                service: name.clone(),
                backend,
                question: Question::Life,
                transport: None,
            }));
            let transports = service.control.due_transport_probes(now);
            due.extend(transports.into_iter().map(|(backend, transport)| DueProbe {
                service: name.clone(),
                backend,
                question: Question::Transport,
                transport: Some(transport),
            }));
        }
        due
    }

    /// What must survive a restart, by service.
    pub(super) fn saved(&self) -> BTreeMap<String, Saved> {
        self.services
            .iter()
            .map(|s| (s.name.clone(), s.control.saved(unix())))
            .collect()
    }

    /// Changes whenever [`Conductor::saved`] does.
    pub(super) fn saved_version(&self) -> u64 {
        self.services
            .iter()
            .fold(self.configurations << 48, |sum, s| {
                sum.wrapping_add(s.control.saved_version())
            })
    }

    /// How a service stands.
    pub(super) fn plan(&self, service: &str) -> Option<Plan> {
        self.services
            .iter()
            .find(|s| s.name == service)
            .map(|s| s.control.plan())
    }

    fn find(&mut self, service: &str) -> Option<&mut Conducted> {
        self.services.iter_mut().find(|s| s.name == service)
    }
}

impl Conducted {
    fn of(service: &config::Service, numbering: &Numbering, control: ServiceControl) -> Self {
        let numbers = service
            .backends
            .iter()
            .filter_map(|b| {
                let number = numbering.backend(&service.name, &b.name, b.address)?;
                Some((b.name.clone(), number.id()))
            })
            .collect();
        Self {
            name: service.name.clone(),
            id: ServiceId(numbering.service(&service.name).unwrap_or(u16::MAX)),
            numbers,
            published: control.version(),
            rest: Now::ZERO,
            control,
        }
    }

    /// When what waits is published; `None` if nothing waits.
    fn rests_until(&self) -> Option<Now> {
        self.waits().then_some(self.rest)
    }

    /// Is there anything to publish?
    const fn waits(&self) -> bool {
        self.control.version() != self.published
    }

    fn columns(&mut self) -> Vec<Slot> {
        let numbers = &self.numbers;
        self.control
            .columns(|name| numbers.get(name).copied().unwrap_or(BackendId::NONE))
    }

    /// Makes the maps follow, if there is anything new. Who comes to life is told before the ring names
    /// it, and who dies after the ring names it no longer: a new call never finds nobody in between.
    fn follow(&mut self, plane: &dyn Plane, now: Now) -> Result<(), MapsError> {
        let version = self.control.version();
        if version == self.published {
            return Ok(());
        }
        self.rest = now + REST_AFTER_FAULT;
        let plan = self.control.plan();
        self.publish_living(plane, &plan, |alive| alive)?;
        plane.set_ring(self.id, &self.columns())?;
        self.publish_living(plane, &plan, |alive| !alive)?;
        self.published = version;
        self.rest = now + REST;
        Ok(())
    }

    fn publish_living(
        &self,
        plane: &dyn Plane,
        plan: &Plan,
        which: impl Fn(bool) -> bool,
    ) -> Result<(), MapsError> {
        plan.members
            .iter()
            .filter(|member| which(member.alive))
            .filter_map(|member| Some((self.numbers.get(&member.name)?, member.alive)))
            .try_for_each(|(&id, alive)| plane.set_alive(id, alive))
    }
}

fn timing(config: &Config) -> Timing {
    Timing::from(config.heartbeats.as_ref().unwrap_or(&Heartbeats::default()))
}

/// The wall clock, since its epoch.
fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
