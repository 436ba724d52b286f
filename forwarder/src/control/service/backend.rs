//! One backend of a service: all that is known of it, and what follows.

use std::{net::SocketAddr, time::Duration};

use super::{
    change::Change,
    status::{Member, State},
};
use crate::{
    config::{self, Health},
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
    probe: config::Probe,
    /// How long after the start it is asked first.
    delay: Duration,
}

impl Asking {
    /// Of the backend of that index. First questions are spread evenly over the interval.
    pub(super) fn of(service: &config::Service, index: usize) -> Self {
        let part = index as f64 / service.backends.len().max(1) as f64;
        Self {
            probe: service.probe,
            delay: service.probe.interval.mul_f64(part),
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
    pub(super) watch: Watch,
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
            watch: Watch::new(now, backend.health, asking, death),
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
        match (&mut self.watch, backend.health) {
            (Watch::Nobody, Health::None) => {}
            (Watch::Agent(liveness), Health::Agent) => liveness.configure(asking.probe.timeout),
            (Watch::Options(probing), Health::Options) => probing.configure(now, asking.probe),
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

    pub(super) fn probing(&mut self) -> Option<&mut Probing> {
        match &mut self.watch {
            Watch::Options(probing) => Some(probing),
            _ => None,
        }
    }

    /// Did its agent ever report?
    fn was_reported(&self) -> bool {
        matches!(&self.watch, Watch::Agent(liveness) if liveness.heard().is_some())
    }

    pub(super) fn death(&self) -> Option<Death> {
        self.watch.death()
    }

    /// May messages of its calls be sent to it?
    pub(super) fn is_alive(&self) -> bool {
        self.order.admin != Admin::Disabled && self.watch.death().is_none()
    }

    /// Does it live on probation?
    fn is_suspected(&self) -> bool {
        match &self.watch {
            Watch::Agent(liveness) => liveness.is_asked(),
            Watch::Options(probing) => probing.is_suspecting(),
            Watch::Nobody => false,
        }
    }

    /// Is it on probation because all fell silent at once?
    pub(super) fn is_suspecting(&self) -> bool {
        match &self.watch {
            Watch::Agent(liveness) => liveness.is_suspecting(),
            Watch::Options(probing) => probing.is_suspecting(),
            Watch::Nobody => false,
        }
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
        } else if self.watch.death().is_some() {
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
        }
    }

    /// When it must be asked by OPTIONS. A disabled one is asked too: it should not be found dead
    /// when it is enabled.
    pub(super) fn probe_due(&self) -> Option<Now> {
        match &self.watch {
            Watch::Agent(liveness) => liveness.probe_due(),
            Watch::Options(probing) => Some(probing.probe_due()),
            Watch::Nobody => None,
        }
    }

    /// Must it be asked now? Says so once.
    pub(super) fn take_probe(&mut self, now: Now) -> bool {
        match &mut self.watch {
            Watch::Agent(liveness) => liveness.take_probe(now),
            Watch::Options(probing) => probing.take_probe(now),
            Watch::Nobody => false,
        }
    }

    /// As a row of the plan.
    pub(super) fn member(&self, now: Now) -> Member {
        let shown = self.shown(now);
        Member {
            name: self.name.clone(),
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
