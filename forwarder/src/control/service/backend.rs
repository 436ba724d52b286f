//! One backend of a service: all that is known of it, and what follows.

use std::net::SocketAddr;

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

/// Who says whether a backend lives.
#[derive(Clone, Debug)]
pub(super) enum Watch {
    Agent(Liveness),
    Options(Probing),
    Nobody,
}

impl Watch {
    fn new(now: Now, health: Health, probe: config::Probe, death: Option<Death>) -> Self {
        match health {
            Health::Agent => Self::Agent(Liveness::new(now, death)),
            Health::Options => Self::Options(Probing::new(now, probe, death)),
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
            Self::Agent(liveness) => liveness.heard(),
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
}

impl Shown {
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
        probe: config::Probe,
        order: Override,
        death: Option<Death>,
    ) -> Self {
        Self {
            name: backend.name.clone(),
            address: backend.address,
            configured_weight: backend.weight,
            watch: Watch::new(now, backend.health, probe, death),
            gate: Gate::new(backend.gate),
            agent_drains: false,
            order,
            step: weights::FULL,
        }
    }

    /// Follows a changed configuration; name and address are the same.
    pub(super) fn configure(&mut self, now: Now, backend: &config::Backend, probe: config::Probe) {
        self.configured_weight = backend.weight;
        self.order
            .weight
            .take_if(|weight| *weight == backend.weight);
        self.gate.configure(backend.gate);
        match (&mut self.watch, backend.health) {
            (Watch::Agent(_), Health::Agent) | (Watch::Nobody, Health::None) => {}
            (Watch::Options(probing), Health::Options) => probing.configure(now, probe),
            (watch, health) => {
                *watch = Watch::new(now, health, probe, watch.death());
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

    pub(super) fn death(&self) -> Option<Death> {
        self.watch.death()
    }

    /// May messages of its calls be sent to it?
    pub(super) fn is_alive(&self) -> bool {
        self.order.admin != Admin::Disabled && self.watch.death().is_none()
    }

    pub(super) fn is_suspected(&self) -> bool {
        matches!(&self.watch, Watch::Agent(liveness) if liveness.is_asked())
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
    pub(super) fn member(&self, now: Now, admit_weight: f64) -> Member {
        let shown = self.shown(now);
        Member {
            name: self.name.clone(),
            address: self.address,
            configured_weight: self.configured_weight,
            weight: self.weight(),
            admit_weight,
            alive: shown.alive,
            open: shown.open,
            state: shown.state,
            gate_closed: shown.gate_closed,
            full: shown.full,
            cpu: self.gate.cpu(),
            admin: self.order.admin,
            agent_drains: self.agent_drains,
            death: shown.death,
            suspected: shown.suspected,
            heard: self.watch.heard().map(|heard| now.saturating_sub(heard)),
        }
    }
}
