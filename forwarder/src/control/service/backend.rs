//! One backend of a service: all that is known of it, and what follows.

use std::{net::SocketAddr, time::Duration};

use super::{
    change::Change,
    status::{Member, State},
    transport::{Bearing, TransportCheck},
};
use crate::{
    config::{self, BackendTransport, Health},
    control::{
        Now,
        gate::Gate,
        liveness::{Death, Liveness},
        overrides::{Admin, Override},
        probing::Probing,
        weights,
    },
};

/// How a backend is asked by OPTIONS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) probe: config::Probe,
    /// How long after the start it is asked first.
    pub(super) delay: Duration,
    /// How messages get to it.
    pub(super) transport: BackendTransport,
    /// Do large ones go by TCP?
    pub(super) large_by_tcp: bool,
}

impl Asking {
    /// Of the backend of that index. First questions are spread evenly over the interval.
    pub(super) fn of(service: &config::Service, index: usize) -> Self {
        let part = index as f64 / service.backends.len().max(1) as f64;
        Self {
            probe: service.probe,
            delay: service.probe.interval.mul_f64(part),
            transport: service.transport,
            large_by_tcp: service.large_by_tcp,
        }
    }
}

/// Who says whether a backend lives.
#[derive(Clone, Debug)]
pub(super) enum Watch {
    Agent(Liveness),
    Options(Probing),
    Nobody,
}

impl Watch {
    fn new(now: Now, health: Health, asking: Asking, death: Option<Death>) -> Self {
        match health {
            Health::Agent => Self::Agent(Liveness::new(now, asking.probe.timeout, death)),
            Health::Options => Self::Options(Probing::new(now, asking.delay, asking.probe, death)),
            Health::None => Self::Nobody,
        }
    }

    fn death(&self) -> Option<Death> {
        match self {
            Self::Agent(liveness) => liveness.death(),
            Self::Options(probing) => probing.death(),
            Self::Nobody => None,
        }
    }

    fn heard(&self) -> Option<Now> {
        match self {
            Self::Agent(liveness) => liveness.heard().max(liveness.answered()),
            Self::Options(probing) => probing.heard(),
            Self::Nobody => None,
        }
    }
}

/// What others see of a backend; when it changes, they must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is shown by itself")]
pub(super) struct Shown {
    pub(super) alive: bool,
    pub(super) open: bool,
    pub(super) state: State,
    death: Option<Death>,
    order: Override,
    step: u16,
    gate_closed: bool,
    full: bool,
    agent_drains: bool,
    suspected: bool,
    /// It lives by its answers to OPTIONS, for want of heartbeats.
    by_answers: bool,
    /// Large messages may go by TCP.
    large_by_tcp: bool,
}

impl Shown {
    /// Is what outlives the daemon another?
    pub(super) fn is_saved_otherwise(&self, before: &Self) -> bool {
        (self.gate_closed, self.agent_drains) != (before.gate_closed, before.agent_drains)
    }

    /// What the log says of the difference; gates tell of themselves.
    pub(super) fn changes_since(&self, before: &Self, of: &Backend, now: Now) -> Vec<Change> {
        let backend = || of.name.clone();
        let mut changes = Vec::new();
        if self.death != before.death {
            changes.push(match self.death {
                Some(why) => Change::Dead {
                    backend: backend(),
                    why,
                },
                None => Change::Alive { backend: backend() },
            });
        }
        if self.agent_drains != before.agent_drains {
            changes.push(Change::AgentDrains {
                backend: backend(),
                drains: self.agent_drains,
            });
        }
        if self.full != before.full && self.death.is_none() {
            changes.push(match of.full_until() {
                Some(until) if self.full => Change::Full {
                    backend: backend(),
                    time: until.saturating_sub(now),
                },
                _ => Change::NotFull { backend: backend() },
            });
        }
        if self.large_by_tcp != before.large_by_tcp {
            changes.push(Change::LargeByTcp {
                backend: backend(),
                answers: self.large_by_tcp,
            });
        }
        if self.by_answers != before.by_answers && self.death.is_none() {
            changes.push(if self.by_answers {
                Change::NoHeartbeat {
                    backend: backend(),
                    ever: of.was_reported(),
                }
            } else {
                Change::Heartbeat { backend: backend() }
            });
        }
        changes
    }
}

/// One backend.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) configured_weight: u16,
    pub(super) transport: BackendTransport,
    pub(super) watch: Watch,
    pub(super) check: Option<TransportCheck>,
    /// Are large messages to go to it by TCP?
    large_by_tcp: bool,
    pub(super) gate: Gate,
    pub(super) agent_drains: bool,
    pub(super) order: Override,
    /// The part of its CPU left, in steps, where the service weighs by CPU.
    pub(super) step: u16,
}

impl Backend {
    /// A backend nothing is known of but whether it was dead.
    pub(super) fn new(
        now: Now,
        backend: &config::Backend,
        asking: Asking,
        order: Override,
        death: Option<Death>,
    ) -> Self {
        Self {
            name: backend.name.clone(),
            address: backend.address,
            configured_weight: backend.weight,
            transport: asking.transport,
            watch: Watch::new(now, backend.health, asking, death),
            check: TransportCheck::new(now, backend.health, asking, death),
            large_by_tcp: asking.large_by_tcp,
            gate: Gate::new(backend.gate),
            agent_drains: false,
            order,
            step: weights::FULL,
        }
    }

    /// Takes up what was so when the forwarder ended, if an agent watches it: others say nothing of it.
    pub(super) fn restore(&mut self, now: Now, gated: bool, draining: bool) {
        if matches!(self.watch, Watch::Agent(_)) {
            self.agent_drains = draining;
            if gated {
                self.gate.restore_closed(now);
            }
        }
    }

    /// Follows a changed configuration; name and address are the same.
    pub(super) fn configure(&mut self, now: Now, backend: &config::Backend, asking: Asking) {
        self.configured_weight = backend.weight;
        self.order
            .weight
            .take_if(|weight| *weight == backend.weight);
        self.gate.configure(backend.gate);
        let death = self.watch.death();
        let check = self.check.take();
        self.check = TransportCheck::configured(check, now, backend.health, asking, death);
        self.large_by_tcp = asking.large_by_tcp;
        let same_transport =
            std::mem::replace(&mut self.transport, asking.transport) == asking.transport;
        match (&mut self.watch, backend.health) {
            (Watch::Nobody, Health::None) => {}
            (Watch::Agent(liveness), Health::Agent) => liveness.configure(asking.probe.timeout),
            (Watch::Options(probing), Health::Options) if same_transport => {
                probing.configure(now, asking.probe);
            }
            // What was found by one transport says nothing of the other.
            (Watch::Options(probing), Health::Options) => {
                *probing = Probing::new(now, Duration::ZERO, asking.probe, death);
            }
            (watch, health) => {
                *watch = Watch::new(now, health, asking, watch.death());
                // What an agent said is void without one.
                self.agent_drains = false;
                self.gate = Gate::new(backend.gate);
            }
        }
    }

    pub(super) fn liveness(&mut self) -> Option<&mut Liveness> {
        match &mut self.watch {
            Watch::Agent(liveness) => Some(liveness),
            _ => None,
        }
    }

    /// The answers to OPTIONS that its life hangs on.
    pub(super) fn life_probing(&mut self) -> Option<&mut Probing> {
        match (&mut self.watch, &mut self.check) {
            (Watch::Options(probing), _) => Some(probing),
            (_, Some(check)) if check.bearing == Bearing::Life => Some(&mut check.probing),
            _ => None,
        }
    }

    /// The answers to OPTIONS that only the way of large messages hangs on.
    pub(super) fn large_probing(&mut self) -> Option<&mut Probing> {
        let check = self.check.as_mut()?;
        (check.bearing == Bearing::LargeMessages).then_some(&mut check.probing)
    }

    /// All of them.
    pub(super) fn probings(&self) -> impl Iterator<Item = &Probing> {
        let watch = match &self.watch {
            Watch::Options(probing) => Some(probing),
            _ => None,
        };
        watch
            .into_iter()
            .chain(self.check.as_ref().map(|check| &check.probing))
    }

    /// Did its agent ever report?
    fn was_reported(&self) -> bool {
        matches!(&self.watch, Watch::Agent(liveness) if liveness.heard().is_some())
    }

    pub(super) fn death(&self) -> Option<Death> {
        let by_check = || self.life_check().and_then(|check| check.probing.death());
        let death = self.watch.death().or_else(by_check);
        death.map(|death| death.by(self.transport))
    }

    fn life_check(&self) -> Option<&TransportCheck> {
        let check = self.check.as_ref();
        check.filter(|check| check.bearing == Bearing::Life)
    }

    /// May large messages go to it by TCP? `None` if that was not asked for.
    pub(super) fn takes_large_by_tcp(&self) -> Option<bool> {
        let check = self.check.as_ref();
        // Where nobody asks, everything counts as well.
        let answers = || check.is_none_or(|check| check.probing.is_alive());
        self.large_by_tcp.then(answers)
    }

    /// Transports by which it was asked and does not answer.
    fn transports_down(&self) -> Vec<BackendTransport> {
        let watch = match &self.watch {
            Watch::Options(probing) if !probing.is_alive() => Some(self.transport),
            _ => None,
        };
        let check = self
            .check
            .as_ref()
            .filter(|check| !check.probing.is_alive());
        watch
            .into_iter()
            .chain(check.map(|check| check.transport))
            .collect()
    }

    /// May messages of its calls be sent to it?
    pub(super) fn is_alive(&self) -> bool {
        self.order.admin != Admin::Disabled && self.death().is_none()
    }

    /// Does it live on probation?
    fn is_suspected(&self) -> bool {
        let check = self.life_check();
        if check.is_some_and(|check| check.probing.is_suspecting()) {
            return true;
        }
        match &self.watch {
            Watch::Agent(liveness) => liveness.is_asked(),
            Watch::Options(probing) => probing.is_suspecting(),
            Watch::Nobody => false,
        }
    }

    /// Is it on probation because all fell silent at once?
    pub(super) fn is_suspecting(&self) -> bool {
        let check = self.life_check();
        self.misses_all_heartbeats()
            || check.is_some_and(|check| check.probing.is_suspecting())
            || matches!(&self.watch, Watch::Options(probing) if probing.is_suspecting())
    }

    /// Is it on probation because all heartbeats ended at once?
    pub(super) fn misses_all_heartbeats(&self) -> bool {
        matches!(&self.watch, Watch::Agent(liveness) if liveness.is_suspecting())
    }

    fn lives_by_answers(&self) -> bool {
        matches!(&self.watch, Watch::Agent(liveness) if liveness.lives_by_answers())
    }

    fn is_full(&self, now: Now) -> bool {
        matches!(&self.watch, Watch::Options(probing) if probing.is_full(now))
    }

    fn full_until(&self) -> Option<Now> {
        match &self.watch {
            Watch::Options(probing) => probing.full_until(),
            _ => None,
        }
    }

    fn state(&self, now: Now) -> State {
        if self.order.admin == Admin::Disabled {
            State::Disabled
        } else if self.death().is_some() {
            State::Dead
        } else if self.order.admin == Admin::Draining || self.agent_drains {
            State::Draining
        } else if self.gate.is_closed() {
            State::Gated
        } else if self.is_full(now) {
            State::Full
        } else {
            State::Alive
        }
    }

    pub(super) fn weight(&self) -> u16 {
        self.order.weight(self.configured_weight)
    }

    /// What others see of it.
    pub(super) fn shown(&self, now: Now) -> Shown {
        let state = self.state(now);
        Shown {
            alive: self.is_alive(),
            open: state == State::Alive,
            state,
            death: self.death(),
            order: self.order,
            step: self.step,
            gate_closed: self.gate.is_closed(),
            full: self.is_full(now),
            agent_drains: self.agent_drains,
            suspected: self.is_suspected(),
            by_answers: self.lives_by_answers(),
            large_by_tcp: self.takes_large_by_tcp().unwrap_or(false),
        }
    }

    /// When it must be asked by OPTIONS. A disabled one is asked too: it should not be found dead
    /// when it is enabled.
    pub(super) fn probe_due(&self) -> Option<Now> {
        let watch = match &self.watch {
            Watch::Agent(liveness) => liveness.probe_due(),
            Watch::Options(probing) => Some(probing.probe_due()),
            Watch::Nobody => None,
        };
        let check = self.check.as_ref().map(|check| check.probing.probe_due());
        watch.into_iter().chain(check).min()
    }

    /// Must it be asked now? Says so once.
    pub(super) fn take_probe(&mut self, now: Now) -> bool {
        match &mut self.watch {
            Watch::Agent(liveness) => liveness.take_probe(now),
            Watch::Options(probing) => probing.take_probe(now),
            Watch::Nobody => false,
        }
    }

    /// Must one of its transports be asked now by itself, and which? Says so once.
    pub(super) fn take_transport_probe(&mut self, now: Now) -> Option<BackendTransport> {
        let check = self.check.as_mut()?;
        check.probing.take_probe(now).then_some(check.transport)
    }

    /// Somebody was told that it is not reached, or that it is there again: it is asked at once.
    pub(super) fn ask_at_once(&mut self, now: Now) {
        if let Watch::Options(probing) = &mut self.watch {
            probing.unreachable(now);
        }
        if let Some(check) = &mut self.check {
            check.probing.unreachable(now);
        }
    }

    /// As a row of the plan.
    pub(super) fn member(&self, now: Now) -> Member {
        let shown = self.shown(now);
        Member {
            name: self.name.clone(),
            address: self.address,
            transport: self.transport,
            transports_down: self.transports_down(),
            large_by_tcp: self.takes_large_by_tcp(),
            weight: self.weight(),
            alive: shown.alive,
            open: shown.open,
            state: shown.state,
            gate_closed: shown.gate_closed,
            cpu: self.gate.cpu(),
            agent_drains: self.agent_drains,
            death: shown.death,
            suspected: shown.suspected,
            heard: self.watch.heard().map(|heard| now.saturating_sub(heard)),
        }
    }
}
