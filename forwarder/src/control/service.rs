//! The control of one service: everything in this module put together.
//!
//! It is fed with what was heard (heartbeats, answers to OPTIONS, ICMP errors), with orders, with
//! configurations and with the time, and says who lives, who takes new calls, and what the ring
//! holds. [`ServiceControl::version`] tells when that must be published.
//!
//! The caller's round: feed; [`tick`](ServiceControl::tick) (after reports only if one
//! [is waited for](ServiceControl::waits_for_report), else when the deadline comes); send OPTIONS to
//! [`due_probes`](ServiceControl::due_probes) and
//! [`due_transport_probes`](ServiceControl::due_transport_probes); if the version is another one,
//! publish; sleep until [`next_deadline`](ServiceControl::next_deadline).

mod backend;
mod change;
mod judge;
mod notice;
mod status;
mod tables;
mod transport;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sip_forwarder_ebpf::abi::{BackendId, RING_SLOTS, Slot};
use thiserror::Error;

use super::{
    Now,
    homes::{self, Homes, Share},
    probing::{Answer, Probing},
    ring, weights,
};
pub use super::{
    liveness::{Death, Timing},
    overrides::{Admin, Override, OverrideChange},
};
use crate::config::{self, BackendTransport, Weights};
use backend::{Asking, Backend, Shown, Watch};
pub use change::{Change, Level};
pub use status::{Member, Plan, State};
use tables::Tables;

/// What of a service must outlive the daemon. Nothing known, if empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Orders, by backend.
    pub overrides: BTreeMap<String, Override>,
    /// Homes, and slots that are settling.
    pub homes: homes::Saved,
    /// Backends whose gate is closed.
    #[serde(default)]
    pub gated: BTreeSet<String>,
    /// Backends that drain by their agents' word.
    #[serde(default)]
    pub draining: BTreeSet<String>,
}

/// What an agent says of its proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// CPU from 0 to 1, once the agent knows it.
    pub cpu: Option<f64>,
    /// The proxy's state.
    pub state: ReportedState,
}

/// A proxy's state as its agent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedState {
    /// It works.
    Running,
    /// It works, but wants no new calls.
    Draining,
    /// Its process ended.
    Stopped,
    /// Its process is there, but does not answer.
    Unwell,
}

/// A service has no backend of that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no backend `{0}`")]
pub struct UnknownBackend(pub String);

/// The control of one service.
#[derive(Clone, Debug)]
pub struct ServiceControl {
    timing: Timing,
    spread: config::Spread,
    backends: Vec<Backend>,
    index: HashMap<String, usize>,
    /// What was last seen of each backend from outside.
    shown: Vec<Shown>,
    homes: Homes,
    tables: Tables,
    pace: weights::Pace,
    suspects_itself: bool,
    /// Is somebody silent for too long, and not judged before another is heard?
    undecided: bool,
    /// When an agent of another service was heard last.
    elsewhere: Option<Now>,
    somebody_open: bool,
    /// The latest moment heard of.
    now: Now,
    last_tick: Now,
    /// The wall clock at the start of the monotonic one.
    epoch: Duration,
    version: u64,
    saved_version: u64,
    changes: Vec<Change>,
}

impl ServiceControl {
    /// The control of a configured service at `now`, which is `unix` since 1970, from what was
    /// saved. Backends count as alive until they had time to be heard, unless they were dead.
    #[must_use]
    pub fn new(
        now: Now,
        unix: Duration,
        service: &config::Service,
        timing: Timing,
        saved: &Saved,
        was_dead: impl Fn(&str) -> bool,
    ) -> Self {
        Self::with_slots((now, unix), service, timing, saved, was_dead, RING_SLOTS)
    }

    /// As [`new`](Self::new); tests take smaller rings.
    fn with_slots(
        (now, unix): (Now, Duration),
        service: &config::Service,
        timing: Timing,
        saved: &Saved,
        was_dead: impl Fn(&str) -> bool,
        slots: u32,
    ) -> Self {
        let backends: Vec<Backend> = service
            .backends
            .iter()
            .enumerate()
            .map(|(index, b)| {
                let order = saved.overrides.get(&b.name).copied().unwrap_or_default();
                let death = was_dead(&b.name).then_some(Death::Remembered);
                let mut backend = Backend::new(now, b, Asking::of(service, index), order, death);
                backend.restore(
                    now,
                    saved.gated.contains(&b.name),
                    saved.draining.contains(&b.name),
                );
                backend
            })
            .collect();
        let settle = service.spread.settle;
        let members = shares(&backends);
        let homes = Homes::restore(&saved.homes, members, settle, (now, unix), slots);
        let mut control = Self {
            timing,
            spread: service.spread.clone(),
            index: indexes(&backends),
            shown: backends.iter().map(|b| b.shown(now)).collect(),
            backends,
            homes,
            tables: Tables::new(slots),
            pace: weights::Pace::default(),
            suspects_itself: false,
            undecided: false,
            elsewhere: None,
            somebody_open: true,
            now,
            last_tick: now,
            epoch: unix.saturating_sub(now),
            version: 1,
            saved_version: 1,
            changes: Vec::new(),
        };
        control.tell_of_settling();
        control.notice_open();
        control
    }

    /// Follows a changed configuration. Backends that stay, by name and address, keep their state;
    /// orders stay with the name.
    pub fn reconfigure(
        &mut self,
        now: Now,
        unix: Duration,
        service: &config::Service,
        timing: Timing,
    ) {
        self.advance(now, unix);
        self.excuse_own_stall(now);
        self.timing = timing;
        self.spread = service.spread.clone();
        let mut old: HashMap<String, Backend> = self
            .backends
            .drain(..)
            .map(|backend| (backend.name.clone(), backend))
            .collect();
        for (index, wanted) in service.backends.iter().enumerate() {
            let asking = Asking::of(service, index);
            let known = old.remove(&wanted.name);
            let order = known.as_ref().map_or_else(Override::default, |b| b.order);
            let mut backend = known
                .filter(|b| b.address == wanted.address)
                .unwrap_or_else(|| {
                    // It may not have been started yet.
                    Backend::new(now, wanted, asking, order, Some(Death::Unproven))
                });
            backend.configure(now, wanted, asking);
            if self.spread.weights == Weights::Fixed {
                backend.step = weights::FULL;
            }
            self.backends.push(backend);
        }
        self.index = indexes(&self.backends);
        self.tables.forget();
        self.shown = self.backends.iter().map(|b| b.shown(now)).collect();
        self.retarget(now);
        // Whatever it was: names, addresses, policy, orders of backends that are gone.
        self.version += 1;
        self.saved_version += 1;
        self.notice_suspicion(true);
        self.notice_open();
    }

    /// An agent reported.
    pub fn report(&mut self, now: Now, backend: &str, report: Report) {
        let Some(index) = self.find(now, backend) else {
            return;
        };
        let Some(liveness) = self.backends[index].liveness() else {
            return;
        };
        let drains = report.state == ReportedState::Draining;
        let was_alive = liveness.is_alive();
        liveness.heartbeat(now, death_of(report.state));
        liveness.note_draining(drains);
        let returns = liveness.is_alive() && !was_alive;
        let backend = &mut self.backends[index];
        backend.agent_drains = drains;
        if returns {
            backend.ask_at_once(now);
        }
        if let Some(cpu) = report.cpu {
            backend.gate.sample(now, cpu);
            self.move_gate(index);
        }
        if self.suspects_itself {
            self.trust_again(now);
        } else {
            self.notice(index);
        }
    }

    /// An agent of another service was heard: our ears work, also for a backend of this service that
    /// has no other beside it.
    pub fn heard_elsewhere(&mut self, at: Now) {
        self.now = self.now.max(at);
        self.elsewhere = self.elsewhere.max(Some(at));
        if self.suspects_itself {
            self.trust_again(at);
        }
    }

    /// What came of asking a backend by OPTIONS.
    pub fn answer(&mut self, now: Now, backend: &str, answer: Answer) {
        let Some(index) = self.find(now, backend) else {
            return;
        };
        match &mut self.backends[index].watch {
            Watch::Agent(liveness) => {
                liveness.answer(now, answer);
                self.notice(index);
            }
            Watch::Options(probing) => {
                probing.answer(now, answer);
                if self.judge_answers(now) {
                    self.notice_all();
                } else {
                    self.notice(index);
                }
                self.notice_suspicion(matches!(answer, Answer::Ok | Answer::Full { .. }));
            }
            Watch::Nobody => {}
        }
    }

    /// What came of asking one of a backend's transports by itself.
    pub fn transport_answer(&mut self, now: Now, backend: &str, answer: Answer) {
        let Some(index) = self.find(now, backend) else {
            return;
        };
        let Some(check) = &mut self.backends[index].check else {
            return;
        };
        check.probing.answer(now, answer);
        if self.judge_answers(now) {
            self.notice_all();
        } else {
            self.notice(index);
        }
        self.notice_suspicion(matches!(answer, Answer::Ok | Answer::Full { .. }));
    }

    /// The network said that nobody listens there: a backend without an agent, or whose transport an
    /// agent knows nothing of, is asked at once. An agent sees its proxy's process end by itself.
    pub fn unreachable(&mut self, now: Now, backend: &str) {
        if let Some(index) = self.find(now, backend) {
            self.backends[index].ask_at_once(now);
        }
    }

    /// The operator ordered something.
    pub fn set_override(
        &mut self,
        now: Now,
        backend: &str,
        change: OverrideChange,
    ) -> Result<(), UnknownBackend> {
        let index = self
            .find(now, backend)
            .ok_or_else(|| UnknownBackend(backend.to_owned()))?;
        let backend = &mut self.backends[index];
        let (before, weight_before) = (backend.order, backend.weight());
        backend.order.apply(change, backend.configured_weight);
        if backend.order == before {
            return Ok(());
        }
        let (order, weight) = (backend.order, backend.weight());
        self.changes.push(Change::Ordered {
            backend: backend.name.clone(),
            order,
            weight,
        });
        self.saved_version += 1;
        if weight != weight_before {
            self.retarget(now);
        }
        self.notice(index);
        Ok(())
    }

    /// Lets the time pass: silence, grace, full backends, steps of weights, homes. To be called at
    /// least every interval of heartbeats; if it was not, nobody is blamed for the time missed.
    pub fn tick(&mut self, now: Now, unix: Duration) {
        self.advance(now, unix);
        self.excuse_own_stall(now);
        self.judge(now);
        for index in 0..self.backends.len() {
            let backend = &mut self.backends[index];
            let gate = backend.gate.forget_stale(now);
            if let Watch::Options(probing) = &mut backend.watch {
                probing.forget_full(now);
            }
            self.tell_of_gate(index, gate);
        }
        if self.spread.weights == Weights::Cpu && self.pace.take(now) {
            for backend in &mut self.backends {
                backend.step = weights::step(backend.step, backend.gate.cpu());
            }
        }
        let settled = self.homes.tick(now);
        if settled > 0 {
            let left = self.homes.settling();
            self.changes.push(Change::Settled {
                slots: settled,
                left,
            });
            self.version += 1;
            self.saved_version += 1;
        }
        self.notice_all();
    }

    /// When [`tick`](Self::tick) and [`due_probes`](Self::due_probes) want to be called at the
    /// latest; a moment that has passed means now.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> Option<Now> {
        let probes = self.backends.iter().filter_map(Backend::probe_due);
        let full = self.backends.iter().filter_map(|b| match &b.watch {
            Watch::Options(probing) => probing.full_until(),
            _ => None,
        });
        let agents = || {
            self.backends.iter().filter_map(|b| match &b.watch {
                Watch::Agent(liveness) => Some(liveness),
                _ => None,
            })
        };
        // One whose time was over at the last tick waits for the others, and not for a moment.
        let silences = agents()
            .filter_map(|liveness| liveness.deadline(self.timing))
            .filter(|&deadline| deadline > self.last_tick);
        let by_cpu = self.spread.weights == Weights::Cpu;
        let regular = agents().next().map(|_| {
            // Two looks in an interval, so that a timer that is a little late is no stall.
            let look = self.last_tick + self.timing.interval / 2;
            if by_cpu {
                look.min(self.pace.next())
            } else {
                look
            }
        });
        let probings = self.backends.iter().flat_map(Backend::probings);
        let doubts = probings.filter_map(Probing::judge_due);
        probes
            .chain(full)
            .chain(doubts)
            .chain(silences)
            .chain(regular)
            .chain(self.homes.next_deadline())
            .min()
            .map(|deadline| deadline.max(now))
    }

    /// Does the next report want a [`tick`](Self::tick) behind it? Others do without: reports only put
    /// off deadlines.
    #[must_use]
    pub const fn waits_for_report(&self) -> bool {
        self.undecided
    }

    /// Whom to send OPTIONS now; each is named once. Answers are told by [`answer`](Self::answer),
    /// and so are timeouts.
    pub fn due_probes(&mut self, now: Now) -> Vec<String> {
        self.now = self.now.max(now);
        self.backends
            .iter_mut()
            .filter_map(|b| b.take_probe(now).then(|| b.name.clone()))
            .collect()
    }

    /// Which transports to ask by OPTIONS now, by themselves; each is named once. Answers are told by
    /// [`transport_answer`](Self::transport_answer), and so are timeouts.
    pub fn due_transport_probes(&mut self, now: Now) -> Vec<(String, BackendTransport)> {
        self.now = self.now.max(now);
        self.backends
            .iter_mut()
            .filter_map(|b| Some((b.take_transport_probe(now)?, b)))
            .map(|(transport, b)| (b.name.clone(), transport))
            .collect()
    }

    /// What happened since this was last asked, for the log.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Increases whenever the columns, or anything in the plan but CPU figures and ages, change.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Who lives and who takes new calls, with all that status shows.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let members = self.backends.iter().map(|b| b.member(self.now));
        Plan {
            members: members.collect(),
            suspects_itself: self.suspects_itself,
            settling: self.homes.settling(),
            next_settled: self.homes.next_deadline(),
        }
    }

    /// The ring: home, admit and settling of every slot. Where nobody is open, admit is nobody. With
    /// policy `round-robin` the admit column is a row of turns, and not about its slot.
    pub fn columns(&mut self, number: impl Fn(&str) -> BackendId) -> Vec<Slot> {
        let ids: Vec<BackendId> = self.backends.iter().map(|b| number(&b.name)).collect();
        let open: Vec<bool> = self.shown.iter().map(|shown| shown.open).collect();
        let steps: Vec<u16> = self.backends.iter().map(|b| b.step).collect();
        let admit = self
            .tables
            .admit(self.spread.policy, &self.homes, &steps, &open);
        ring::slots(self.homes.home(), self.homes.target(), &admit, &ids)
    }

    /// What must outlive the daemon; `unix` is the time since 1970 now.
    #[must_use]
    pub fn saved(&self, unix: Duration) -> Saved {
        // A wall clock that was set since the last tick is not believed.
        let latest = self.now + Duration::from_secs(1);
        let now = unix.saturating_sub(self.epoch).clamp(self.now, latest);
        let orders = self.backends.iter().filter(|b| !b.order.is_empty());
        Saved {
            overrides: orders.map(|b| (b.name.clone(), b.order)).collect(),
            homes: self.homes.saved(now, unix),
            gated: self.names(|b| b.gate.is_closed()),
            draining: self.names(|b| b.agent_drains),
        }
    }

    fn names(&self, which: impl Fn(&Backend) -> bool) -> BTreeSet<String> {
        let those = self.backends.iter().filter(|b| which(b));
        those.map(|b| b.name.clone()).collect()
    }

    /// Increases whenever [`saved`](Self::saved) would change.
    #[must_use]
    pub const fn saved_version(&self) -> u64 {
        self.saved_version
    }

    fn find(&mut self, now: Now, backend: &str) -> Option<usize> {
        self.now = self.now.max(now);
        self.index.get(backend).copied()
    }

    fn advance(&mut self, now: Now, unix: Duration) {
        self.now = self.now.max(now);
        self.epoch = unix.saturating_sub(now);
    }
}

const fn death_of(state: ReportedState) -> Option<Death> {
    match state {
        ReportedState::Running | ReportedState::Draining => None,
        ReportedState::Stopped => Some(Death::Stopped),
        ReportedState::Unwell => Some(Death::Unwell),
    }
}

fn shares(backends: &[Backend]) -> Vec<Share> {
    backends
        .iter()
        .map(|b| Share {
            name: b.name.clone(),
            weight: b.weight(),
        })
        .collect()
}

fn indexes(backends: &[Backend]) -> HashMap<String, usize> {
    backends
        .iter()
        .enumerate()
        .map(|(index, b)| (b.name.clone(), index))
        .collect()
}

#[cfg(test)]
mod tests;
